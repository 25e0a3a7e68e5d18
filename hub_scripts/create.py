"""Makes a CoMa folder from a vision-language backbone: the model with its compression tokens, and its processor.

The result embeds at once, and well only after training. It is complete: AutoModel and AutoProcessor load it with
trust_remote_code=True where this package is not installed, and so does SentenceTransformer.

  coma create Qwen/Qwen2.5-VL-3B-Instruct my-coma --max-pixels 802816 --dtype bfloat16
  coma create ./backbone my-coma --num-compression-tokens 16
  coma create --tiny qwen2_5_vl my-coma                     # a small random one, nothing is downloaded
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_scripts.common.arguments import DTYPES, command_parser, positive


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["create_model", "main"]


def main(argv: list[str]) -> int:
    """Runs `coma create`; returns the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.texts is not None and not arguments.tiny:
        raise ValueError("--texts trains the tokenizer of a tiny backbone, and there is none without --tiny.")
    if arguments.revision is not None and (arguments.tiny or Path(arguments.backbone).exists()):
        raise ValueError("--revision is for a backbone on the Hub.")

    from hub_scripts.common.folders import new_folder, save_model
    from hub_scripts.hub.training_record import write_stages

    with new_folder(arguments.out) as folder, tempfile.TemporaryDirectory() as temporary:
        backbone = _tiny_backbone(arguments, Path(temporary)) if arguments.tiny else arguments.backbone
        model, processor = create_model(
            str(backbone),
            arguments.num_compression_tokens,
            arguments.pooling,
            {"shortest_edge": arguments.min_pixels, "longest_edge": arguments.max_pixels},
            arguments.max_length,
            revision=arguments.revision,
            dtype=arguments.dtype,
        )
        if arguments.tiny:  # the temporary folder means nothing to anybody
            model.config.backbone_config._name_or_path = f"tiny random {arguments.backbone}"
        write_stages(folder, [])
        save_model(model, processor, folder)
    print(_report(model, processor, arguments))
    return 0


def create_model(
    backbone: str,
    num_compression_tokens: int = 32,
    pooling: str = "mean",
    pixels: dict[str, int | None] | None = None,
    max_length: int | None = None,
    **kwargs: Any,
) -> tuple["ComaForEmbedding", "ComaProcessor"]:
    """
    A model and its processor from a backbone, with the settings that are saved beside the weights.

    Args:
        backbone (`str`): name on the Hub, or folder.
        num_compression_tokens (`int`, *optional*, defaults to 32): K, from 1 to 256.
        pooling (`str`, *optional*, defaults to `"mean"`): see [`ComaConfig`].
        pixels (`dict[str, int | None]`, *optional*): `shortest_edge` and `longest_edge` of the image processor, the
            least and the most pixels of an image; by default, and for `None`, those of the backbone.
        max_length (`int`, *optional*): limit of a row in tokens.
        kwargs: passed to `from_pretrained` of the backbone.

    Returns:
        `tuple[ComaForEmbedding, ComaProcessor]`

    Raises:
        ValueError: for a pixel budget that holds no image token, and a limit that the largest image exceeds.
    """
    from modeling_coma import ComaForEmbedding, ComaProcessor

    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    _check_backbone(backbone, kwargs.get("revision"))
    model, processor = ComaForEmbedding.from_backbone(backbone, num_compression_tokens, **kwargs)
    model.config.pooling = pooling
    images = processor.image_processor
    images.size = dataclasses.replace(images.size, **{k: v for k, v in (pixels or {}).items() if v is not None})
    options = {"num_compression_tokens": num_compression_tokens, "max_length": max_length}
    processor = ComaProcessor(images, processor.tokenizer, **options)
    needed = _image_tokens(processor)[1] + 2 + num_compression_tokens  # two tokens enclose an image
    if max_length is not None and max_length < needed:
        raise ValueError(
            f"max_length={max_length} is less than {needed}, the tokens of the largest image and of compression: "
            "raise it, or lower the pixel budget."
        )
    return model, processor


def _check_backbone(name: str, revision: str | None) -> None:
    from transformers import AutoConfig

    from hub_scripts.common.loading import check_folder, is_adapter

    check_folder(name)
    config = None if is_adapter(name) else AutoConfig.from_pretrained(name, revision=revision)
    if config is None or config.model_type == "coma":
        made = "an adapter of one" if config is None else f"one with {len(config.compression_token_ids)} tokens"
        raise ValueError(f"{name} is no backbone but a CoMa model already, {made}: there is nothing to be made of it.")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("create", __doc__)
    add = parser.add_argument
    add("backbone", metavar="BACKBONE", help="Qwen2-VL, Qwen2.5-VL or Qwen3-VL: a name on the Hub, or a folder")
    add("out", metavar="OUT", type=Path, help="folder to be made")
    add("--num-compression-tokens", type=int, default=32, metavar="K", help="1 to 256 (default: %(default)s)")
    add("--min-pixels", type=positive, metavar="N", help="images are enlarged to this (default: as the backbone)")
    add("--max-pixels", type=positive, metavar="N", help="images are shrunk to this (default: as the backbone)")
    add("--max-length", type=positive, metavar="N", help="longest row in tokens; text is cut there (default: none)")
    add("--pooling", choices=("mean", "last"), default="mean", help="of the compression tokens (default: mean)")
    add("--dtype", choices=DTYPES, default="auto", help="of the weights; auto is that of the backbone")
    add("--revision", help="branch, tag or commit on the Hub")
    add("--tiny", action="store_true", help="BACKBONE is qwen2_vl, qwen2_5_vl or qwen3_vl: make a small random one")
    add("--texts", type=Path, metavar="FILE", help="what its tokenizer is trained on (default: talk about emoji)")
    return parser


def _tiny_backbone(arguments: argparse.Namespace, folder: Path) -> Path:
    from hub_scripts.tiny.backbone import create_tiny_backbone

    texts = arguments.texts.read_text(encoding="utf-8").splitlines() if arguments.texts else _emoji_texts()
    return create_tiny_backbone(folder, texts=texts, model_type=arguments.backbone)


def _emoji_texts() -> list[str]:
    from trainers.data.emoji import emoji_dialogues, load_emoji

    emoji = load_emoji(["noto"])
    messages = (message for dialogue in emoji_dialogues(emoji)["messages"] for message in dialogue)
    return [*emoji["label"], *(message["content"] for message in messages)]


def _image_tokens(processor: "ComaProcessor") -> tuple[int, int]:
    """Least and most tokens of an image."""
    images = processor.image_processor
    area = (images.patch_size * images.merge_size) ** 2
    return max(1, images.size["shortest_edge"] // area), images.size["longest_edge"] // area


def _report(model: "ComaForEmbedding", processor: "ComaProcessor", arguments: argparse.Namespace) -> str:
    out, size = arguments.out, processor.image_processor.size
    tokens = "{} to {}".format(*_image_tokens(processor))
    megabytes = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    dtype = str(model.dtype).removeprefix("torch.")
    rows = {
        "backbone": f"{arguments.backbone}{' (tiny, random)' if arguments.tiny else ''}",
        "compression tokens": f"{model.config.num_compression_tokens}, pooling {model.config.pooling}",
        "embedding size": model.config.hidden_size,
        "pixels of an image": f"{size['shortest_edge']} to {size['longest_edge']}: {tokens} image tokens",
        "longest row": f"{processor.max_length or 'no limit'}",
        "weights": f"{model.num_parameters() / 1e6:.1f} million, {dtype}",
        "folder": f"{out} ({megabytes:.1f} MB)",
    }
    table = "\n".join(f"{name:<20} {value}" for name, value in rows.items())
    return f"""{table}

model = AutoModel.from_pretrained("{out}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{out}", trust_remote_code=True)
embeddings = model(**processor.process(["a text", image, {{"image": image, "text": "both"}}])).embeddings"""
