"""How a backbone takes videos, found by letting its own processor make some; or why it takes none."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedModel, ProcessorMixin

from modeling_coma.backbone_coma import feature_inputs, position_inputs
from modeling_coma.images_coma import first_sentence, make_stock_processor, videos_by_stock
from modeling_coma.rows_coma import compression_tokens
from modeling_coma.videos_coma import Clip
from trainers.chat_format import image_placeholder
from trainers.image_format import CANNOT_MAKE, growing_axis, processor_settings


__all__ = ["VideoFormat", "video_format"]

Arrays = dict[str, np.ndarray]
OF_ROWS = {"input_ids", "attention_mask", "mm_token_type_ids"}  # which positions follow from, too


class VideoFormat(NamedTuple):
    """
    Args:
        format (`dict`, *optional*): what a [`ComaProcessor`] has to know to show videos to a backbone, its
            `video_format`: the tokens that stand for a video, in its rendered texts (`token`, with what is around it
            `placeholder`) and in those of the backbone's own processor (`stock_token`); the tensors that the vision
            tower takes with the axes along which those of several videos are joined (`inputs`), none where the frames
            are images to it; whether all videos must have as many frames (`same_length`); and the settings of its
            `processor`, where images do without it.
        why (`str`, *optional*): why there is none, in a sentence.
    """

    format: dict[str, Any] | None = None
    why: str | None = None


def video_format(stock: ProcessorMixin | None, images: dict[str, Any], backbone: PreTrainedModel) -> VideoFormat:
    r"""
    Finds whether and how a backbone takes videos.

    Args:
        stock (`ProcessorMixin`, *optional*): its own processor, from [`~trainers.image_format.load_processors`].
        images (`dict`): what [`~trainers.image_format.image_format`] has found.
        backbone (`PreTrainedModel`): whose vision tower takes the tensors.
    """
    if stock is None:
        return VideoFormat(why="its own processor cannot be made here (torchvision is missing)")
    if getattr(stock, "video_processor", None) is None or not getattr(stock, "video_token", None):
        return VideoFormat(why="its own processor makes no videos")
    settings = processor_settings(stock)
    try:
        stock = make_stock_processor(settings, images["image_processor"], stock.tokenizer, "Videos")
        inputs, same_length = _inputs(stock, images, backbone)
    except CANNOT_MAKE as error:
        return VideoFormat(why=first_sentence(error))
    token = stock.video_token
    is_token = token in stock.tokenizer.get_vocab()
    placeholder = image_placeholder(stock, token, "video")
    if not is_token:  # its processor finds it as a text; here a token keeps the place, which no text may type
        token, marker = compression_tokens(1)[0], token
        placeholder = placeholder.replace(marker, token)
    return VideoFormat(
        {
            "token": token,
            "placeholder": placeholder,
            "stock_token": stock.video_token,
            "inputs": inputs,
            "same_length": same_length,
            "processor": None if images.get("stock_processor") else settings,
        }
    )


def _inputs(stock: ProcessorMixin, images: dict[str, Any], backbone: PreTrainedModel) -> tuple[dict[str, int], bool]:
    """Tensors of videos with their axes, and whether all must have as many frames.

    Raises:
        ValueError: if the vision tower does not take what the processor makes.
    """
    one, two, longer = (_make(stock, *frames) for frames in ([4], [4, 4], [8]))
    own = feature_inputs(backbone, "video")
    if "pixel_values_videos" in one and "pixel_values_videos" in own:
        names = sorted(one.keys() & (own | position_inputs(backbone)) - OF_ROWS)
        if not _has(one, backbone.config.video_token_id) or _has(one, backbone.config.image_token_id):
            raise ValueError("its videos have features of their own in the place of images, which would be mixed up")
        axes = {name: growing_axis(name, one[name], two[name]) for name in names}
        return axes, any(_across(one[name], axis) != _across(longer[name], axis) for name, axis in axes.items())
    axes = images.get("image_inputs") or {}
    if not axes or not axes.keys() <= one.keys() or not _has(one, backbone.config.image_token_id):
        raise ValueError("its vision tower does not take what its processor makes of videos")
    if other := [name for name, axis in axes.items() if growing_axis(name, one[name], two[name]) != axis]:
        raise ValueError(f"{other} of its videos cannot be joined with those of images")
    return {}, False


def _make(stock: ProcessorMixin, *num_frames: int) -> Arrays:
    videos = [np.random.default_rng(0).integers(0, 256, (number, 64, 96, 3), dtype=np.uint8) for number in num_frames]
    clips = [Clip([place / 2 for place in range(number)], (64, 96), number, number / 2) for number in num_frames]
    return videos_by_stock(stock, stock.video_token, videos, [clip.metadata() for clip in clips])


def _has(made: Arrays, token_id: int | None) -> bool:
    return token_id is not None and bool((made["input_ids"] == token_id).any())


def _across(array: np.ndarray, axis: int) -> tuple[int, ...]:
    """The shape without the axis along which videos are joined."""
    return (*array.shape[:axis], *array.shape[axis + 1 :])
