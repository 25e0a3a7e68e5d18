"""The videos among the files of a folder, by their names."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import PurePath

from trainers.data.image_folders import FoundImage, ImageFolder, is_system_file
from trainers.data.pdf_pages import by_name
from trainers.data.videos import VIDEO_SUFFIXES


__all__ = ["with_videos"]

MISSING = "a video, which is read where PyAV is installed: pip install 'coma-embedding[video]'"


def with_videos(found: ImageFolder) -> tuple[ImageFolder, set[str]]:
    """
    The images of a folder and the videos in it.

    Args:
        found ([`ImageFolder`]): its images, and the files that are none.

    Returns:
        `tuple[ImageFolder, set[str]]`: with videos among the images, in the order of their names, with an error where
        one of images has it; and which these are. Without PyAV videos are left alone, and it is said why.
    """
    if find_spec("av") is None:
        told = [file._replace(error=_why_left(file)) if _is_video(file) else file for file in found.left_alone]
        return ImageFolder(found.images, told), set()
    videos = [FoundImage(file.name, _wrong_with(file)) for file in found.left_alone if _is_video(file)]
    others = [file for file in found.left_alone if not _is_video(file)]
    files = sorted([*found.images, *videos], key=by_name) if videos else found.images
    return ImageFolder(files, others), {file.name for file in videos}


def _is_video(file: FoundImage) -> bool:
    """Not a hidden one."""
    path = PurePath(file.name)
    return path.suffix.lower() in VIDEO_SUFFIXES and not is_system_file(path.name)


def _wrong_with(file: FoundImage) -> str | None:
    """As of an image: that it cannot be read, or is no file."""
    return None if file.error == "no image" else file.error


def _why_left(file: FoundImage) -> str:
    return _wrong_with(file) or MISSING
