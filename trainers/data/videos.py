"""Videos as rows have them: in tables as images are, the path or the bytes of a file; else also a list of frames."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import islice
from typing import Any

from modeling_coma.videos_coma import frames_of, is_file, naming
from trainers.data.faults import fault
from trainers.data.images import image_key
from trainers.data.tables import Records


__all__ = ["has_videos", "late_video", "video_key"]

LOOKED_AT = 100  # rows of a source by which it is known whether there are videos


def has_videos(records: Records, has_video: Callable[[dict[str, Any]], bool]) -> bool:
    """Whether one of the first rows of a source has a video, as a function says it of a record."""
    return any(isinstance(record, dict) and has_video(record) for record in islice(records.rows(), LOOKED_AT))


def late_video(column: str) -> ValueError:
    """What is wrong with a row that has a video where the first rows have none: there is no column for it."""
    return fault(column, "the first one of the file", f"one in the first {LOOKED_AT} rows, too: put this row first")


def video_key(video: Any) -> str:
    """A key of the content of a video, in any form that `ComaProcessor` takes: of a file as that of an image; of
    frames that of each, and how many a second has. Raises `ValueError` for what is no video."""
    if is_file(video):
        return image_key(video)
    with naming(video, 0):
        frames, fps = frames_of(video, 1e-9)  # which nobody gives
        keys = [image_key(frame) for frame in frames]
    return hashlib.blake2b("\0".join([*keys, str(fps)]).encode(), digest_size=16).hexdigest()
