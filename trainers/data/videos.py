"""Videos as rows have them: in tables as images are, the path or the bytes of a file; else also a list of frames."""

from __future__ import annotations

import hashlib
from itertools import islice
from typing import Any

from modeling_coma.videos_coma import frames_of, is_file, naming
from trainers.data.faults import fault
from trainers.data.images import image_key
from trainers.data.tables import Records


__all__ = ["has_videos", "refuse_late_video", "video_key"]

LOOKED_AT = 100  # rows of a source by which it is known whether there are videos
KEYS = ("video", "videos")


def has_videos(records: Records, names: tuple[str, ...] = KEYS) -> bool:
    """Whether the first rows of a source have a video: a value that is called so, however deep it stands."""
    return any(_mentions(record, names) for record in islice(records.rows(), LOOKED_AT))


def _mentions(value: Any, names: tuple[str, ...]) -> bool:
    waiting = [value]  # and no recursion: JSON can be nested deeper than Python calls
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if any(value.get(name) for name in names):
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False


def refuse_late_video(record: Any, names: tuple[str, ...] = KEYS) -> None:
    """Raises `ValueError` for a row with a video in a source whose first rows have none: there is no column for it."""
    if _mentions(record, names):
        raise fault(
            names[0], "the first one of the file", f"one in the first {LOOKED_AT} rows, too: put this row first"
        )


def video_key(video: Any) -> str:
    """A key of the content of a video, in any form that `ComaProcessor` takes: of a file as that of an image; of
    frames that of each, and how many a second has. Raises `ValueError` for what is no video."""
    if is_file(video):
        return image_key(video)
    with naming(video, 0):
        frames, fps = frames_of(video, 1e-9)  # which nobody gives
        keys = [image_key(frame) for frame in frames]
    return hashlib.blake2b("\0".join([*keys, str(fps)]).encode(), digest_size=16).hexdigest()
