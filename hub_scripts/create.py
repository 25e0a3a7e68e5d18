"""Makes a CoMa folder from a vision-language backbone: the model with its compression tokens, and its processor.

The result embeds at once, and well only after training. It is complete: AutoModel and AutoProcessor load it with
trust_remote_code=True where this package is not installed, and so does SentenceTransformer.

  coma create Qwen/Qwen2.5-VL-3B-Instruct my-coma --max-pixels 802816 --dtype bfloat16
  coma create ./backbone my-coma --num-compression-tokens 16
  coma create --tiny qwen2_5_vl my-coma                     # a small random one, nothing is downloaded
  coma create --tiny qwen2_5_vl my-coma --size demo         # one that learns something, in minutes on a CPU
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hub_scripts.common.arguments import DTYPES, command_parser, number_within, positive
from hub_scripts.common.image_size import describe_image_size, image_size, image_tokens, limit_image_pixels
from hub_scripts.common.terminal import one_line


if TYPE_CHECKING:
    from modeling_coma import ComaForEmbedding, ComaProcessor


__all__ = ["create_model", "main"]


def main(argv: list[str]) -> int:
    """Runs `coma create`; returns the exit code."""
    arguments = _parser().parse_args(argv)

    from hub_scripts.common.folders import new_folder, save_model
    from hub_scripts.hub.training_record import write_stages
    from trainers.data.text_files import open_text

    texts = None
    if arguments.texts is not None:
        with open_text(arguments.texts) as file:
            texts = file.read().splitlines()
    with new_folder(arguments.out) as folder:
        model, processor = create_model(
            arguments.backbone,
            num_compression_tokens=arguments.num_compression_tokens,
            pooling=arguments.pooling,
            memory=arguments.memory,
            min_pixels=arguments.min_pixels,
            max_pixels=arguments.max_pixels,
            max_length=arguments.max_length,
            max_image_pixels=arguments.max_image_pixels,
            video_fps=arguments.video_fps,
            max_video_frames=arguments.max_video_frames,
            max_video_pixels=arguments.max_video_pixels,
            tiny=arguments.tiny,
            texts=texts,
            size=arguments.size,
            dtype=arguments.dtype,
            revision=arguments.revision,
        )
        write_stages(folder, [])
        save_model(model, processor, folder)
    print(_report(model, processor, arguments))
    return 0


def create_model(  # noqa: PLR0913 - what can be set
    backbone: str | PathLike[str],
    num_compression_tokens: int = 32,
    pooling: Literal["mean", "last"] = "mean",
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    max_length: int | None = None,
    max_image_pixels: int | None = None,
    video_fps: float | None = None,
    max_video_frames: int | None = None,
    max_video_pixels: int | None = None,
    tiny: bool = False,
    texts: Sequence[str] | None = None,
    size: Literal["tiny", "demo"] | None = None,
    **kwargs: Any,
) -> tuple["ComaForEmbedding", "ComaProcessor"]:
    """
    Makes a model and its processor from a backbone; `save_pretrained` of both saves the settings beside the weights.

    Args:
        backbone (`str` or `PathLike`): name on the Hub, or folder; of a tiny one `"qwen2_vl"`, `"qwen2_5_vl"` or
            `"qwen3_vl"`.
        num_compression_tokens (`int`, *optional*, defaults to 32): K, from 1 to 256.
        pooling (`str`, *optional*, defaults to `"mean"`): of the compression tokens, `"mean"` or `"last"`.
        min_pixels (`int`, *optional*): images are enlarged to this; by default as the backbone does.
        max_pixels (`int`, *optional*): images are shrunk to this; by default as the backbone does.
        max_length (`int`, *optional*): limit of a row in tokens; by default there is none.
        max_image_pixels (`int`, *optional*): images with more are refused undecoded; by default 89478485.
        video_fps (`float`, *optional*): frames of a second of a video that are taken; by default 2.
        max_video_frames (`int`, *optional*): frames of a video at most; by default 64.
        max_video_pixels (`int`, *optional*): of all its frames together, which are shrunk to it; by default 16777216.
        tiny (`bool`, *optional*, defaults to `False`): makes a small random backbone, and downloads nothing.
        texts (`Sequence[str]`, *optional*): trains the tokenizer of a tiny one; by default, talk about emoji.
        size (`str`, *optional*): of a tiny one: `"tiny"`, the default, is the smallest that has every part, and
            learns next to nothing; `"demo"` has three million parameters, 2x2 tokens for an image unless the pixel
            budget says otherwise, and learns in minutes on a CPU (it is that of `coma demo`).
        kwargs: passed to [`~trainers.backbone.model_from_backbone`], `memory` or `dtype` for instance; `None` is as if
            it were not there.

    Returns:
        `tuple[ComaForEmbedding, ComaProcessor]`

    Raises:
        ValueError: for what is no backbone, a pixel budget that holds no image token, a limit that the largest image
            exceeds, `texts` and `size` without `tiny`, and a `revision` of what is not on the Hub.

    Example:

        >>> model, processor = create_model("Qwen/Qwen2.5-VL-3B-Instruct", max_pixels=802816, dtype="bfloat16")
        >>> model.save_pretrained("my-coma"), processor.save_pretrained("my-coma")
    """
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    _check_tiny(tiny, texts, size)
    if "revision" in kwargs and (tiny or Path(backbone).exists()):
        raise ValueError("--revision is for a backbone on the Hub.")

    from trainers.backbone import model_from_backbone

    with tempfile.TemporaryDirectory() as temporary:
        name = str(_tiny_backbone(str(backbone), texts, size, Path(temporary)) if tiny else backbone)
        _check_backbone(name, kwargs.get("revision"))
        model, processor = model_from_backbone(name, num_compression_tokens, pooling=pooling, **kwargs)
    if tiny:  # the temporary folder means nothing to anybody
        model.config.backbone_config._name_or_path = f"tiny random {backbone}"
    _set_pixel_budget(processor, min_pixels, max_pixels)
    _set_max_length(processor, max_length)
    limit_image_pixels(processor, max_image_pixels)
    _set_video_limits(
        processor, video_fps=video_fps, max_video_frames=max_video_frames, max_video_pixels=max_video_pixels
    )
    return model, processor


def _set_video_limits(processor: "ComaProcessor", **limits: float | None) -> None:
    from modeling_coma.options_coma import set_limits

    given = {name: value for name, value in limits.items() if value is not None}
    if given and processor.video_format is None:
        raise ValueError(f"{', '.join(given)} cannot act: this backbone takes no videos, or not here. Leave them out.")
    set_limits(processor, **given)


def _set_pixel_budget(processor: "ComaProcessor", min_pixels: int | None, max_pixels: int | None) -> None:
    budget = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    budget = {edge: pixels for edge, pixels in budget.items() if pixels is not None}
    if budget and processor.stock_processor is not None:
        size = describe_image_size(image_size(processor))
        raise ValueError(
            f"--min-pixels and --max-pixels do not act: the image processor of this backbone has no budget of pixels, "
            f"but a size ({size}) and tiles. Leave them out, or set what it has in the backbone's own folder."
        )
    if budget:
        images = processor.image_processor
        images.size = dataclasses.replace(images.size, **budget)
        processor.check_pixel_budget(images.size)


def _set_max_length(processor: "ComaProcessor", max_length: int | None) -> None:
    processor.max_length = max_length
    which, tokens = _largest_image(processor)
    needed = tokens + processor.num_compression_tokens
    if max_length is not None and max_length < needed:
        raise ValueError(
            f"max_length={max_length} is less than {needed}, the tokens of {which} and of compression: "
            "raise it, or lower the pixel budget."
        )


def _check_tiny(tiny: bool, texts: Sequence[str] | None, size: str | None) -> None:
    if texts is not None and not tiny:
        raise ValueError("--texts trains the tokenizer of a tiny backbone, and there is none without --tiny.")
    if size is not None and not tiny:
        raise ValueError(f"--size {size} is that of a tiny backbone, and there is none without --tiny.")


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
    add("backbone", metavar="BACKBONE", help="a vision-language model: name on the Hub, or folder")
    add("out", metavar="OUT", type=Path, help="folder to be made")
    add("--num-compression-tokens", type=int, default=32, metavar="K", help="1 to 256 (default: %(default)s)")
    add("--min-pixels", type=positive, metavar="N", help="images are enlarged to this (default: as the backbone)")
    add("--max-pixels", type=positive, metavar="N", help="images are shrunk to this (default: as the backbone)")
    add("--max-image-pixels", type=positive, metavar="N", help="images with more are refused (default: 89478485)")
    add("--video-fps", type=number_within(0.001, 1000), metavar="N", help="frames of a second taken (default: 2)")
    add("--max-video-frames", type=positive, metavar="N", help="frames of a video at most (default: 64)")
    add("--max-video-pixels", type=positive, metavar="N", help="of all its frames together (default: 16777216)")
    add("--max-length", type=positive, metavar="N", help="longest row in tokens; text is cut there (default: none)")
    add("--pooling", choices=("mean", "last"), default="mean", help="of the compression tokens (default: mean)")
    add("--memory", choices=("cache", "states"), help="that stage 1 answers from (default: cache, where that works)")
    add("--dtype", choices=DTYPES, default="auto", help="of the weights; auto is that of the backbone")
    add("--revision", help="branch, tag or commit on the Hub")
    add("--tiny", action="store_true", help="BACKBONE is qwen2_vl, qwen2_5_vl or qwen3_vl: make a small random one")
    size = "of a small one: demo learns in minutes on a CPU, tiny next to nothing (default: tiny)"
    add("--size", choices=("tiny", "demo"), help=size)
    add("--texts", type=Path, metavar="FILE", help="what its tokenizer is trained on (default: talk about emoji)")
    return parser


def _tiny_backbone(model_type: str, texts: Sequence[str] | None, size: str | None, folder: Path) -> Path:
    from hub_scripts.tiny.backbone import DEMO, TINY, create_tiny_backbone

    sizes = {None: TINY, "tiny": TINY, "demo": DEMO}
    if size not in sizes:
        raise ValueError(f"size={size!r} must be tiny or demo.")
    texts = _emoji_texts() if texts is None else texts
    return create_tiny_backbone(folder, texts=texts, model_type=model_type, sizes=sizes[size])


def _emoji_texts() -> list[str]:
    from trainers.data.emoji import emoji_dialogues, load_emoji

    emoji = load_emoji(["noto"])
    messages = (message for dialogue in emoji_dialogues(emoji)["messages"] for message in dialogue)
    return [*emoji["label"], *(message["content"] for message in messages)]


def _largest_image(processor: "ComaProcessor") -> tuple[str, int]:
    """The largest image that there can be, or a common one where there is no largest, and its tokens."""
    if processor.stock_processor is not None:
        return "an image of 512 x 384 pixels", image_tokens(processor, 512, 384)
    images = processor.image_processor
    area = (images.patch_size * images.merge_size) ** 2
    return "the largest image", images.size["longest_edge"] // area + 2  # two tokens enclose an image


def _describe_images(processor: "ComaProcessor") -> str:
    size = describe_image_size(image_size(processor))
    which, most = _largest_image(processor)
    if processor.stock_processor is not None:
        return f"{size}: {most} tokens for {which}"
    images = processor.image_processor
    least = max(1, images.size["shortest_edge"] // (images.patch_size * images.merge_size) ** 2)
    return f"{size}: {least} to {most - 2} image tokens"


def _describe_videos(processor: "ComaProcessor") -> str:
    if processor.video_format is None:
        return "none: the backbone has no way for them, or its video processor cannot be made here"
    return f"{processor.video_fps:g} frames a second, at most {processor.max_video_frames}"


def _memory(model: "ComaForEmbedding") -> str:
    """What stage 1 answers from, and why not from the cache where it cannot."""
    from trainers.capabilities import capabilities

    if model.config.memory == "cache":
        return "cache: keys and values of the compression tokens in every layer"
    why = capabilities(model.backbone).cache
    return f"states: last hidden states of the compression tokens{f' ({why})' if why else ''}"


def _report(model: "ComaForEmbedding", processor: "ComaProcessor", arguments: argparse.Namespace) -> str:
    out = arguments.out
    megabytes = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    dtype = str(model.dtype).removeprefix("torch.")
    rows = {
        "backbone": f"{arguments.backbone}{' (tiny, random)' if arguments.tiny else ''}",
        "compression tokens": f"{model.config.num_compression_tokens}, pooling {model.config.pooling}",
        "memory": _memory(model),
        "embedding size": model.config.hidden_size,
        "pixels of an image": _describe_images(processor),
        "videos": _describe_videos(processor),
        "longest row": f"{processor.max_length or 'no limit'}",
        "weights": f"{model.num_parameters() / 1e6:.1f} million, {dtype}",
        "folder": f"{out} ({megabytes:.1f} MB)",
    }
    table = "\n".join(f"{name:<20} {one_line(value)}" for name, value in rows.items())
    return f"""{table}

model = AutoModel.from_pretrained("{one_line(out)}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{one_line(out)}", trust_remote_code=True)
embeddings = model(**processor.process(["a text", image, {{"image": image, "text": "both"}}])).embeddings"""
