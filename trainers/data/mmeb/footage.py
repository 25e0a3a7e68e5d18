"""Frames of the videos of MMEB-V2: images in a folder of their own, which are made of the file where they are missing.

The benchmark shows some frames of a folder at equal distances, the first and the last among them, or all where there
are no more. A video without a folder is decoded once, as the benchmark does it: 64 of its frames are written there.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from modeling_coma.videos_coma import Sampling, read_frames
from trainers.data.image_folders import is_system_file


__all__ = ["MOST_SAVED", "frames_in", "save_frames"]

ENDS = (".jpg", ".jpeg", ".png")
MOST_SAVED = 64
AT_ONCE = 8  # frames that are held while a video is decoded


def frames_in(folder: str | Path, number: int | None = None) -> list[str]:
    """
    The frames of a video.

    Args:
        folder (`str` or `Path`): which has them as images, in the order of the numbers in their names.
        number (`int`, *optional*): how many, by default all.

    Returns:
        `list[str]`: their paths; none if there is no such folder.
    """
    if not os.path.isdir(folder):
        return []
    names = [name for name in os.listdir(folder) if name.lower().endswith(ENDS) and not is_system_file(name)]
    names.sort(key=_numbers_as_such)
    if number is not None and number < len(names):
        names = [names[place] for place in np.linspace(0, len(names) - 1, number, dtype=int)]
    return [os.path.join(folder, name) for name in names]


def save_frames(
    video: str | Path, folder: str | Path, whole_steps: bool = False, row: int = 0, most: int = MOST_SAVED
) -> None:
    """
    Writes frames of a video as images into a folder, which appears when all are there.

    Args:
        video (`str` or `Path`): its file.
        folder (`str` or `Path`): for the frames.
        whole_steps (`bool`, *optional*, defaults to `False`): whether each is a whole number of frames after the last,
            as in sets of questions, so that the end of a video may be left out.
        row (`int`, *optional*, defaults to 0): of the set, for messages.
        most (`int`, *optional*, defaults to 64): how many are written at most.

    Raises:
        ValueError: for a file that is no video or is damaged.
    """
    folder = Path(folder)
    clip = Sampling(fps=1e6, max_frames=most, max_pixels=math.inf).clip(video, row)
    if whole_steps:
        step = max(1, clip.num_frames // most) * clip.duration / clip.num_frames
        clip = clip._replace(times=[place * step for place in range(len(clip.times))])
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = tempfile.mkdtemp(prefix=".", dir=folder.parent)
    try:
        for start in range(0, len(clip.times), AT_ONCE):
            frames = read_frames(video, clip._replace(times=clip.times[start : start + AT_ONCE]), row)
            for place, frame in enumerate(frames, start + 1):
                Image.fromarray(frame).save(os.path.join(unfinished, f"frame_{place:04d}.jpg"), quality=95)
        os.chmod(unfinished, 0o755)
        try:
            os.replace(unfinished, folder)
        except OSError:
            if not frames_in(folder):  # else another process was quicker
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _numbers_as_such(name: str) -> list[int | str]:
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name)]
