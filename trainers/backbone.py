"""A CoMa model and its processor from a vision-language backbone: compression tokens, and embedding rows for them."""

from os import PathLike
from typing import Any, Literal

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from modeling_coma import ComaConfig, ComaForEmbedding, ComaProcessor
from modeling_coma.processing_coma import compression_tokens
from modeling_coma.templates_coma import input_template
from trainers.capabilities import capabilities
from trainers.chat_format import dialogue_template
from trainers.image_format import image_format, load_processors
from trainers.memory_projection import memory_projection
from trainers.token_rows import make_rows
from trainers.video_format import video_format


__all__ = ["model_from_backbone"]

# Keywords of `from_pretrained` that say where files are; the tokenizer and the image processor need these too.
HUB_KEYWORDS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")


def model_from_backbone(
    name_or_path: str | PathLike[str],
    num_compression_tokens: int = 32,
    pooling: Literal["mean", "last"] = "mean",
    memory: Literal["cache", "states"] | None = None,
    **kwargs: Any,
) -> tuple[ComaForEmbedding, ComaProcessor]:
    r"""
    Turns a vision-language model of transformers into a CoMa model and its processor, both ready to use.

    The K compression tokens take spare rows of the embedding matrix, which grows only where there are none. Their rows
    are drawn with the mean and the deviation of the other rows; tokens that the checkpoint has already keep theirs.

    Args:
        name_or_path (`str` or `PathLike`): name of the backbone on the Hub, or its folder.
        num_compression_tokens (`int`, *optional*, defaults to 32): K, from 1 to 256.
        pooling (`str`, *optional*, defaults to `"mean"`): of the compression tokens, `"mean"` or `"last"`.
        memory (`str`, *optional*): what dialogues of stage 1 are answered from, `"cache"` or `"states"`, see
            [`ComaConfig`]. By default the cache, and states where layers of the backbone keep more than that.
        kwargs: passed to `AutoModelForImageTextToText.from_pretrained`: `dtype`, `attn_implementation`, `revision` …

    Returns:
        `tuple[ComaForEmbedding, ComaProcessor]`: the model is in evaluation mode.

    Raises:
        ValueError: for K out of range, for another pooling, for a model that cannot be a backbone, or not with this
            memory, and for weights that are missing, of another shape, offloaded or not finite.

    Example:

        >>> model, processor = model_from_backbone("Qwen/Qwen2.5-VL-3B-Instruct", num_compression_tokens=32)
        >>> embeddings = model(**processor.process(["a red apple"])).embeddings
    """
    if not 1 <= num_compression_tokens <= 256:
        raise ValueError(f"num_compression_tokens must be 1 to 256, got {num_compression_tokens}.")
    hub_kwargs = {name: kwargs[name] for name in HUB_KEYWORDS if name in kwargs}
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, **hub_kwargs)
    backbone = _load_backbone(name_or_path, **kwargs)
    memory = _memory(name_or_path, backbone, memory)
    num_tokens_before = len(tokenizer)
    processor, end_of_turn = _make_processor(name_or_path, backbone, tokenizer, num_compression_tokens, **hub_kwargs)
    make_rows(backbone, num_tokens_before, len(tokenizer))
    ends = [tokenizer.convert_tokens_to_ids(end_of_turn), tokenizer.eos_token_id]
    ends = [token for token in dict.fromkeys(ends) if token is not None]
    config = ComaConfig(
        backbone.config.to_dict(),
        compression_token_ids=processor.compression_token_ids,
        pooling=pooling,
        memory=memory,
        eos_token_id=ends[0] if len(ends) == 1 else ends,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=backbone.config._attn_implementation,
    )
    with torch.device("meta"):  # the weights are there already: make only the shell around them
        model = ComaForEmbedding(config)
    model.backbone = backbone
    model.config.backbone_config = backbone.config
    if memory == "states":
        model.memory_projection = memory_projection(backbone, processor.compression_token_ids)
    return model.eval(), processor


def _make_processor(
    name_or_path: str | PathLike[str],
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    num_compression_tokens: int,
    **hub_kwargs: Any,
) -> tuple[ComaProcessor, str]:
    """A processor that writes images and dialogues as the backbone does, and the token that ends an answer."""
    if tokenizer.pad_token is None:  # the attention mask says what is padding
        tokenizer.pad_token = tokenizer.eos_token
    stock, image_processor = load_processors(name_or_path, **hub_kwargs)
    images = image_format(stock, image_processor, backbone, tokenizer)
    videos = video_format(stock, images, backbone)
    dialogues = dialogue_template(stock or tokenizer)  # which may alone have the chat template
    template = input_template(images["image_placeholder"], videos.format and videos.format["placeholder"])
    tokenizer.add_tokens(compression_tokens(num_compression_tokens), special_tokens=True)
    processor = ComaProcessor(
        tokenizer=tokenizer,
        chat_template={"default": template, "dialogue": dialogues.template},
        num_compression_tokens=num_compression_tokens,
        video_format=videos.format,
        **images,
    )
    return processor, dialogues.end_of_turn


def _memory(name: str | PathLike[str], backbone: PreTrainedModel, memory: str | None) -> str:
    """The memory that was asked for, if a backbone can have it; the better one that it can have by default."""
    found = capabilities(backbone)
    if found.embedding is not None:
        raise ValueError(
            f"{name} cannot be a backbone: {found.embedding}. It takes a causal language model that reads images as "
            "tokens: its `model` has `get_image_features`, and a `forward` that takes them as `mm_encoder_outputs`."
        )
    if why := {"cache": found.cache, "states": found.states}.get(memory):
        raise ValueError(f"{name} cannot have memory={memory!r}: {why}. What works: {found}.")
    return memory or found.memory


def _load_backbone(name_or_path: str | PathLike[str], **kwargs: Any) -> PreTrainedModel:
    """A backbone all of whose weights are those of its checkpoint, here and finite."""
    backbone, report = AutoModelForImageTextToText.from_pretrained(
        name_or_path,
        **{**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True},  # reported, not a traceback
    )
    if wrong := {name: sorted(report[name]) for name in ("missing_keys", "mismatched_keys") if report[name]}:
        raise ValueError(f"The weights of {name_or_path} do not fit its configuration: {wrong}")
    if offloaded := [name for name, parameter in backbone.named_parameters() if parameter.is_meta]:
        raise ValueError(
            f"{name_or_path}: {len(offloaded)} weights are offloaded, first {offloaded[0]}: none can be drawn. "
            "Make the model without `device_map`, save it, and load what was saved with one."
        )
    if bad := [name for name, parameter in backbone.named_parameters() if not parameter.isfinite().all()]:
        raise ValueError(f"{name_or_path}: {len(bad)} weights are not finite, first {bad[0]}.")
    return backbone
