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


__all__ = ["LOOKED_AT", "VIDEO_SUFFIXES", "has_videos", "late_video", "video_key"]

# Files that are videos by their names, all in containers that `modeling_coma.videos_coma` reads.
VIDEO_SUFFIXES = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")

LOOKED_AT = 100  # rows of a source by which it is known whether there are videos


def has_videos(
    records: Records, has_video: Callable[[dict[str, Any]], bool], columns: list[str] | None = None
) -> bool:
    """Whether one of the first rows of a source has a video, as a function says it of a record; of `columns` alone."""
    rows = islice(records.rows(columns), LOOKED_AT)
    return any(isinstance(record, dict) and has_video(record) for record in rows)


def late_video(column: str, source: str = "file", way_out: str = "put this row first") -> ValueError:
    """What is wrong with a row that has a video where the first rows have none: there is no column for it."""
    return fault(column, f"the first video of the {source}", f"one in the first {LOOKED_AT} rows, too: {way_out}")


def video_key(video: Any) -> str:
    """A key of the content of a video, in any form that `ComaProcessor` takes: of a file as that of an image; of
    frames that of each, and how many a second has. Raises `ValueError` for what is no video."""
    if is_file(video):
        return image_key(video)
    with naming(video, 0):
        frames, fps = frames_of(video, 1e-9)  # which nobody gives
        keys = [image_key(frame) for frame in frames]
    return hashlib.blake2b("\0".join([*keys, str(fps)]).encode(), digest_size=16).hexdigest()
