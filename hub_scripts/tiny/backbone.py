"""Tiny random Qwen vision-language backbones, for tests and for the demo.

[`create_tiny_backbone`] writes a folder with the files of a published Qwen2-VL, Qwen2.5-VL or Qwen3-VL checkpoint
(config, safetensors weights, byte-level BPE tokenizer, chat template, image processor settings), only small, random
and made on the spot. Three habits of the published checkpoints matter to code that builds on them, and are kept:

- special tokens come after the text vocabulary, and every token id in the config comes from the tokenizer;
- the embedding matrix has more rows than the tokenizer has tokens;
- Qwen2-VL and Qwen2.5-VL write their pixel budget as `min_pixels` / `max_pixels`, Qwen3-VL as `size`.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hub_scripts.tiny.tokenizer import train_tokenizer


__all__ = ["DEMO", "MODEL_TYPES", "TINY", "BackboneSizes", "create_tiny_backbone"]

PATCH_SIZES = {"qwen2_vl": 14, "qwen2_5_vl": 14, "qwen3_vl": 16}
MODEL_TYPES = tuple(PATCH_SIZES)
MERGE_SIZE = 2
TEMPORAL_PATCH_SIZE = 2


@dataclass(frozen=True)
class BackboneSizes:
    """
    The sizes of a tiny backbone. The defaults are the smallest that still exercise every part of the architecture.

    Args:
        hidden_size (`int`, *optional*, defaults to 64): width of the language model.
        intermediate_size (`int`, *optional*, defaults to 128): width of its feed-forward layers.
        num_hidden_layers (`int`, *optional*, defaults to 2): its depth.
        num_attention_heads (`int`, *optional*, defaults to 4): its query heads; a head is at least 16 wide.
        num_key_value_heads (`int`, *optional*, defaults to 2): its key and value heads.
        vision_hidden_size (`int`, *optional*, defaults to 32): width of the vision tower.
        vision_intermediate_size (`int`, *optional*, defaults to 64): width of its feed-forward layers.
        vision_depth (`int`, *optional*, defaults to 2): depth of the vision tower.
        vision_num_heads (`int`, *optional*, defaults to 2): heads of the vision tower.
        min_image_tokens (`int`, *optional*, defaults to 1): smallest pixel budget, in tokens after 2x2 merging.
        max_image_tokens (`int`, *optional*, defaults to 16): largest pixel budget, in tokens after 2x2 merging.
    """

    hidden_size: int = 64
    intermediate_size: int = 128
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    vision_hidden_size: int = 32
    vision_intermediate_size: int = 64
    vision_depth: int = 2
    vision_num_heads: int = 2
    min_image_tokens: int = 1
    max_image_tokens: int = 16

    def __post_init__(self) -> None:
        _check_width(self.hidden_size, self.num_attention_heads, 16)
        _check_width(self.vision_hidden_size, self.vision_num_heads, 4)
        if self.num_attention_heads % self.num_key_value_heads:
            heads = f"num_attention_heads={self.num_attention_heads}"
            raise ValueError(f"num_key_value_heads={self.num_key_value_heads} must divide {heads}")
        if not 1 <= self.min_image_tokens <= self.max_image_tokens:
            most = f"max_image_tokens={self.max_image_tokens}"
            raise ValueError(f"min_image_tokens={self.min_image_tokens} must lie between 1 and {most}")


def _check_width(width: int, heads: int, multiple: int) -> None:
    if width % (heads * multiple):
        raise ValueError(
            f"a width of {width} cannot be split into {heads} heads whose size is a multiple of {multiple}; "
            f"choose a multiple of {heads * multiple}"
        )


TINY = BackboneSizes()
DEMO = BackboneSizes(
    hidden_size=256,
    intermediate_size=512,
    num_key_value_heads=4,
    vision_hidden_size=128,
    vision_intermediate_size=256,
    vision_depth=4,
    vision_num_heads=4,
    min_image_tokens=4,
    max_image_tokens=4,
)


def create_tiny_backbone(
    folder: str | PathLike[str],
    *,
    texts: Iterable[str],
    model_type: str = "qwen2_5_vl",
    sizes: BackboneSizes = TINY,
    vocab_size: int = 2048,
    spare_rows: int = 256,
    tie_word_embeddings: bool = True,
    seed: int = 0,
) -> Path:
    """
    Writes a small random checkpoint of a Qwen vision-language model into `folder`.

    Args:
        folder (`str` or `PathLike`): where to write; made if missing.
        texts (`Iterable[str]`): what the tokenizer is trained on.
        model_type (`str`, *optional*, defaults to `"qwen2_5_vl"`): one of [`MODEL_TYPES`].
        sizes (`BackboneSizes`, *optional*, defaults to [`TINY`]): widths, depths and pixel budget.
        vocab_size (`int`, *optional*, defaults to 2048): largest number of tokens, special tokens included. With
            little text there are fewer.
        spare_rows (`int`, *optional*, defaults to 256): rows of the embedding matrix above the last token. With 0,
            adding a token needs a resize.
        tie_word_embeddings (`bool`, *optional*, defaults to `True`): input and output embeddings are one matrix.
        seed (`int`, *optional*, defaults to 0): seed of the weights. The caller's random state is left alone.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: if `model_type` is unknown, `vocab_size` cannot hold the bytes and the special tokens, or
            `spare_rows` is negative.
    """
    if model_type not in MODEL_TYPES:
        raise ValueError(f"model_type={model_type!r} is not one of {', '.join(MODEL_TYPES)}")
    if spare_rows < 0:
        raise ValueError(f"spare_rows={spare_rows} must be 0 or more")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts, vocab_size)
    config = _config(model_type, sizes, tokenizer, spare_rows)
    config.tie_word_embeddings = tie_word_embeddings
    tokenizer.save_pretrained(folder)
    _random_model(config, tokenizer, seed).save_pretrained(folder)
    settings = json.dumps(_image_processor_settings(model_type, sizes), indent=2)
    (folder / "preprocessor_config.json").write_text(settings + "\n", encoding="utf-8")
    return folder


def _random_model(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    end_of_text = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    model.generation_config = GenerationConfig(
        bos_token_id=end_of_text,
        eos_token_id=[tokenizer.eos_token_id, end_of_text],
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def _config(
    model_type: str, sizes: BackboneSizes, tokenizer: PreTrainedTokenizerBase, spare_rows: int
) -> PreTrainedConfig:
    return AutoConfig.for_model(
        model_type,
        text_config=_text_config(model_type, sizes, tokenizer, len(tokenizer) + spare_rows),
        vision_config=_vision_config(model_type, sizes),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    )


def _text_config(
    model_type: str, sizes: BackboneSizes, tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> dict[str, Any]:
    head_dim = sizes.hidden_size // sizes.num_attention_heads
    # As published, no pad_token_id here: it would freeze one row of the embedding matrix at zero.
    config = {
        "vocab_size": vocab_size,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.num_hidden_layers,
        "num_attention_heads": sizes.num_attention_heads,
        "num_key_value_heads": sizes.num_key_value_heads,
        "max_position_embeddings": 32768,
        "initializer_range": sizes.hidden_size**-0.5,  # the published 0.02 leaves narrow layers almost silent
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.eos_token_id,
    }
    half = head_dim // 2
    if model_type == "qwen3_vl":
        space = 5 * half // 16  # published: 24, 20, 20 of 64, interleaved
        rope = {"rope_theta": 5e6, "mrope_section": [half - 2 * space, space, space], "mrope_interleaved": True}
        config["head_dim"] = head_dim
    else:
        space = 3 * half // 8  # published: 16, 24, 24 of 64
        rope = {"rope_theta": 1e6, "mrope_section": [half - 2 * space, space, space]}
    return config | {"rope_parameters": {"rope_type": "default", **rope}}


def _vision_config(model_type: str, sizes: BackboneSizes) -> dict[str, Any]:
    width, depth = sizes.vision_hidden_size, sizes.vision_depth
    vision = {
        "depth": depth,
        "num_heads": sizes.vision_num_heads,
        "patch_size": PATCH_SIZES[model_type],
        "spatial_merge_size": MERGE_SIZE,
        "temporal_patch_size": TEMPORAL_PATCH_SIZE,
        "initializer_range": width**-0.5,
    }
    if model_type == "qwen2_vl":
        ratio, rest = divmod(sizes.vision_intermediate_size, width)
        if rest:
            raise ValueError(
                f"Qwen2-VL needs vision_intermediate_size={sizes.vision_intermediate_size} to be a multiple of "
                f"vision_hidden_size={width}"
            )
        return vision | {"embed_dim": width, "hidden_size": sizes.hidden_size, "mlp_ratio": ratio}
    vision |= {
        "hidden_size": width,
        "intermediate_size": sizes.vision_intermediate_size,
        "out_hidden_size": sizes.hidden_size,
    }
    if model_type == "qwen3_vl":
        step = max(1, depth // 4)
        vision["num_position_embeddings"] = (MERGE_SIZE * math.isqrt(sizes.max_image_tokens)) ** 2
        vision["deepstack_visual_indexes"] = list(range(step - 1, depth - 1, step))[: min(3, sizes.num_hidden_layers)]
    else:
        step = max(2, depth // 4)  # at least every second block looks only inside its window
        vision["window_size"] = 2 * MERGE_SIZE * PATCH_SIZES[model_type]  # 2x2 tokens
        vision["fullatt_block_indexes"] = list(range(step - 1, depth, step))
    return vision


def _image_processor_settings(model_type: str, sizes: BackboneSizes) -> dict[str, Any]:
    token_area = (MERGE_SIZE * PATCH_SIZES[model_type]) ** 2
    smallest, largest = sizes.min_image_tokens * token_area, sizes.max_image_tokens * token_area
    settings: dict[str, Any] = {
        "patch_size": PATCH_SIZES[model_type],
        "temporal_patch_size": TEMPORAL_PATCH_SIZE,
        "merge_size": MERGE_SIZE,
    }
    if model_type == "qwen3_vl":
        return settings | {
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "size": {"shortest_edge": smallest, "longest_edge": largest},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        }
    # Mean and deviation are those of CLIP, the defaults of the class.
    return settings | {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": smallest, "max_pixels": largest}
