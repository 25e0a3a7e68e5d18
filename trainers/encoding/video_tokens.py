"""How many tokens the videos of a row have, known from the headers of their files before a frame is decoded."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from modeling_coma import ComaProcessor
from modeling_coma.videos_coma import Clip


__all__ = ["video_tokens"]

SMALL = (64, 64)  # pixels of the frames of a blank video by which the tokens around those of frames are counted


def video_tokens(processor: ComaProcessor, videos: list[Any]) -> int:
    """
    Tokens of the videos of a row beyond the one placeholder that each has in the text. One that cannot be read counts
    as none: it is reported, with its row, when it is decoded.
    """
    tokens = 0
    for video in videos:
        try:
            tokens += _count(processor, processor.clip(video)) - 1
        except ValueError:
            continue
    return tokens


def _count(processor: ComaProcessor, clip: Clip) -> int:
    """By the backbone's own processor, where it says how many tokens frames of a size have: what stands around them,
    such as their times, is what those of small ones show. Else those of a blank video of this size."""
    said = _said(processor, len(clip.times), clip.size)
    if said is None:
        return _tokens_of_blank(processor, len(clip.times), clip.size, clip.num_frames, clip.duration)
    small = _tokens_of_blank(processor, len(clip.times), SMALL, clip.num_frames, clip.duration)
    return said + small - (_said(processor, len(clip.times), SMALL) or 0)


@functools.lru_cache(maxsize=65536)
def _said(processor: ComaProcessor, num_frames: int, size: tuple[int, int]) -> int | None:
    """What vLLM goes by, for videos of which the tokens are a number of frames and their size."""
    stock = processor.stock_of_videos
    if not hasattr(stock, "_get_num_multimodal_tokens"):
        return None
    counted = stock._get_num_multimodal_tokens(video_sizes=[(num_frames, *size)]).num_video_tokens
    return counted[0] if counted else None


@functools.lru_cache(maxsize=65536)
def _tokens_of_blank(
    processor: ComaProcessor, taken: int, size: tuple[int, int], num_frames: int, duration: float
) -> int:
    times = [number * duration / taken for number in range(taken)]
    frames = np.zeros((taken, *size, 3), dtype=np.uint8)
    return len(processor.process_clip(frames, Clip(times, size, num_frames, duration))["input_ids"])
