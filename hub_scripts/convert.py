"""Between our format and that of plain vision-language checkpoints whose tokenizer has compression tokens.

The published CoMa checkpoints are Qwen2.5-VL weights with tokens <|ctoken_pad_0|>, <|ctoken_pad_1|> … after the text:
the mean of the last hidden states at these tokens, L2-normalised, is the embedding. Made ours, they load as all models
here do. The way back, --to-backbone, is for engines that know Qwen2.5-VL and do not know CoMa: the chat template of
the tokenizer ends with the tokens, the engine gives hidden states, their mean over the last K is taken outside.

  coma convert 404-not-founds/CoMa-3B my-coma --max-pixels 802816
  coma convert my-coma plain-coma --to-backbone

Embeddings of a text and of an image are computed both ways and compared before anything is left.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from hub_scripts.common.arguments import DTYPES, command_parser, positive


if TYPE_CHECKING:
    from torch import Tensor, nn

    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Runs `coma convert`; returns the exit code."""
    parser = command_parser("convert", __doc__)
    add = parser.add_argument
    add("model", metavar="MODEL", help="a plain checkpoint, or with --to-backbone a CoMa model: folder or Hub name")
    add("out", metavar="OUT", type=Path, help="folder to be made")
    add("--to-backbone", action="store_true", help="make a plain checkpoint of a CoMa model")
    add("--pooling", choices=("mean", "last"), help="how the checkpoint was trained to be read (default: mean)")
    add("--min-pixels", type=positive, metavar="N", help="images are enlarged to this (default: as the checkpoint)")
    add("--max-pixels", type=positive, metavar="N", help="images are shrunk to this (default: as the checkpoint)")
    add("--dtype", choices=DTYPES, default="auto", help="of the weights; auto is that of the checkpoint")
    add("--revision", help="branch, tag or commit on the Hub")
    arguments = parser.parse_args(argv)
    if arguments.to_backbone and (arguments.pooling or arguments.min_pixels or arguments.max_pixels):
        parser.error("--to-backbone takes pooling and pixels from the model")

    difference, count = _to_plain(arguments) if arguments.to_backbone else _from_plain(arguments)
    print(f"converted  {arguments.out}, {count} compression tokens")
    print(f"largest difference of an embedding, before and after: {difference:.1e}")
    return 0


def _from_plain(arguments: argparse.Namespace) -> tuple[float, int]:
    from hub_scripts.common.folders import new_folder, save_model
    from hub_scripts.create import create_model

    count = _count_tokens(arguments.model, arguments.revision)
    with new_folder(arguments.out) as folder:
        model, processor = create_model(
            arguments.model,
            num_compression_tokens=count,
            pooling=arguments.pooling or "mean",
            min_pixels=arguments.min_pixels,
            max_pixels=arguments.max_pixels,
            revision=arguments.revision,
            dtype=arguments.dtype,
        )
        difference = _compare(model, processor, model.backbone)
        save_model(model, processor, folder)
    return difference, count


def _to_plain(arguments: argparse.Namespace) -> tuple[float, int]:
    from transformers import AutoModelForImageTextToText

    from hub_scripts.common.folders import new_folder
    from hub_scripts.common.loading import load_model

    if arguments.revision is not None:
        raise ValueError("--revision is for plain checkpoints; of a CoMa model, download the revision first.")
    model, processor = load_model(arguments.model, arguments.dtype, "cpu")
    with new_folder(arguments.out) as folder:
        _save_plain(model, processor, folder)
        plain = AutoModelForImageTextToText.from_pretrained(folder, dtype=model.dtype).eval()
        difference = _compare(model, processor, plain)
    return difference, model.config.num_compression_tokens


def _save_plain(model: "ComaForEmbedding", processor: "ComaProcessor", folder: Path) -> None:
    """The backbone as it is published: weights, tokenizer, image processor; a template that ends with the tokens."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    from modeling_coma.processing_coma import compression_tokens

    processor_class = PROCESSOR_MAPPING_NAMES[model.config.backbone_config.model_type]
    template = processor.chat_template["default"]
    tokens = "".join(compression_tokens(processor.num_compression_tokens))
    processor.tokenizer.chat_template = f"{template}{{{{ '{tokens}' }}}}"
    model.backbone.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    for name in ("tokenizer_config.json", "preprocessor_config.json"):  # both say that they are parts of ours
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        content.pop("auto_map", None)
        content["processor_class"] = processor_class
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _count_tokens(name: str, revision: str | None) -> int:
    """Number of compression tokens in the tokenizer of a checkpoint, whose embedding matrix must have their rows."""
    from transformers import AutoConfig, AutoTokenizer

    from hub_scripts.common.loading import check_folder
    from modeling_coma.processing_coma import compression_tokens

    check_folder(name)
    config = AutoConfig.from_pretrained(name, revision=revision)
    if config.model_type == "coma":
        raise ValueError(f"{name} is in our format already; the other way is --to-backbone.")
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    known = tokenizer.get_vocab()
    tokens = compression_tokens(256)
    count = next((index for index, token in enumerate(tokens) if token not in known), len(tokens))
    if not count:
        raise ValueError(f"The tokenizer of {name} has no {tokens[0]}: `coma create {name} OUT` adds new ones.")
    last, rows = known[tokens[count - 1]], config.get_text_config().vocab_size
    if last >= rows:
        raise ValueError(f"{name} has {rows} rows of embeddings and none for its token {tokens[count - 1]} ({last}).")
    return count


def _compare(model: "ComaForEmbedding", processor: "ComaProcessor", plain: "nn.Module") -> float:
    """The largest distance of an embedding of the model to what is read off the plain backbone by hand."""
    from hub_scripts.hub.golden import TOLERANCES, distances, golden_inputs

    pairs = [_embed_both(model, processor, plain, item) for item in golden_inputs().values()]
    difference = max(distances(*pair)[0] for pair in pairs)
    dtype = str(model.dtype).removeprefix("torch.")
    if difference > TOLERANCES[dtype]:
        raise ValueError(f"Before and after, embeddings differ by {difference:.1e} in {dtype}: nothing was converted.")
    return difference


def _embed_both(
    model: "ComaForEmbedding", processor: "ComaProcessor", plain: "nn.Module", item: object
) -> tuple["Tensor", "Tensor"]:
    import torch
    from torch.nn.functional import normalize

    inputs = processor.process([item])
    types = (inputs["input_ids"] == model.config.backbone_config.image_token_id).int()
    with torch.no_grad():
        ours = model(**inputs).embeddings[0].float()
        states = plain.model(**inputs, mm_token_type_ids=types, use_cache=False).last_hidden_state[0].float()
    states = states[-model.config.num_compression_tokens :]
    theirs = states.mean(dim=0) if model.config.pooling == "mean" else states[-1]
    return ours, normalize(theirs, dim=0) if model.config.normalize else theirs
