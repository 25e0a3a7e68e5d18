"""The part of the processor that makes videos: some of their frames, by the backbone's own processor."""

import functools
from typing import Any

import numpy as np

from .images_coma import make_stock_processor, videos_by_stock
from .videos_coma import Clip, Sampling, read_frames


class VideosMixin:
    """Of a [`ComaProcessor`], which has the settings."""

    @functools.cached_property
    def stock_of_videos(self) -> Any:
        """The same, where images do without it."""
        settings = self.video_format["processor"]
        if settings is None:
            return self.stock
        return make_stock_processor(settings, self.image_processor, self.tokenizer, "Videos")

    @property
    def video_inputs(self) -> dict[str, int]:
        """Names and axes of the tensors of videos; none where their frames are images to the backbone."""
        return (self.video_format or {}).get("inputs", {})

    def clip(self, video: Any, row: int = 0) -> Clip:
        """Which frames of a video are taken, and how large, without decoding any."""
        step = getattr(self.stock_of_videos.video_processor, "temporal_patch_size", None) or 1
        least = self.max_video_frames if self.video_format["same_length"] else min(step, self.max_video_frames)
        sampling = Sampling(self.video_fps, self.max_video_frames, self.max_video_pixels, least)
        return sampling.clip(video, row, self.max_image_pixels)

    def process_videos(self, videos: list, rows: list[int]) -> list[dict[str, np.ndarray]]:
        """As `process_images`, with the tensors that `video_inputs` names or, where there are none, `image_inputs`."""
        return [self._process_video(video, row) for video, row in zip(videos, rows, strict=True)]

    def _process_video(self, video: Any, row: int) -> dict[str, np.ndarray]:
        clip = self.clip(video, row)
        frames = read_frames(video, clip, row, self.max_image_pixels)
        return self.process_clip(frames, clip, row)

    def process_clip(self, frames: np.ndarray, clip: Clip, row: int = 0) -> dict[str, np.ndarray]:
        """What `process_videos` makes of a video, from the frames of its clip."""
        try:
            made = videos_by_stock(self.stock_of_videos, self.video_format["stock_token"], [frames], [clip.metadata()])
        except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
            height, width = clip.size
            what = f"cannot make the tokens of a video of {len(frames)} frames of {width}x{height} pixels"
            raise ValueError(f"Row {row}: {type(self.stock_of_videos).__name__} {what}: {error}") from error
        names = self.video_inputs or self.image_inputs
        return {"input_ids": made["input_ids"][0], **{name: made[name] for name in names}}


__all__ = ["VideosMixin"]
