"""The image files of a folder, at any depth, by their names; what cannot be read is told and not left out."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from trainers.data.images import IMAGE_SUFFIXES
from trainers.data.tables import Records
from trainers.data.text_files import printable


__all__ = ["FoundImage", "ImageFolder", "folder_records", "is_system_file", "walk_images"]

# What systems leave between the files of people, beside everything that begins with a dot (`._a.jpg`, `.DS_Store`).
SYSTEM_NAMES = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db"}


class FoundImage(NamedTuple):
    """
    An image file, or what stands in its place.

    Args:
        name (`str`): path from the folder, printable.
        error (`str`, *optional*): why it cannot be read.
    """

    name: str
    error: str | None = None


class ImageFolder(NamedTuple):
    """
    What is in a folder.

    Args:
        images (`list[FoundImage]`): in the order of their names.
        left_alone (`int`): files that are no images, and files and folders of the system.
    """

    images: list[FoundImage]
    left_alone: int


def is_system_file(name: str) -> bool:
    """Whether a file or folder of this name belongs to a system: hidden, or of the sort of `__MACOSX`."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def walk_images(folder: str | Path) -> ImageFolder:
    """
    Finds the images of a folder. Links are followed, to folders as well.

    Args:
        folder (`str` or `Path`): searched at any depth.

    Returns:
        [`ImageFolder`]: with an error in place of a folder that cannot be listed, a link that leads nowhere or back, a
        FIFO or a device that is called like an image, and an image whose name is not UTF-8.

    Raises:
        ValueError: if the path of the folder itself is not UTF-8.
    """
    if printable(folder) != str(folder):
        raise ValueError(f"{printable(folder)}: the name of the folder is not UTF-8, and paths are stored: rename it.")
    found = list(_walk(os.fspath(folder), PurePath(), (os.path.realpath(folder),)))
    images = [image for image in found if image is not None]
    return ImageFolder(images, len(found) - len(images))


def folder_records(folder: str | Path) -> tuple[Records, int]:
    """The images of a folder as records with a `name` and an `error`, and how many files are left alone."""
    images, left_alone = walk_images(folder)
    folder = Path(folder).absolute()
    return Records(
        name=folder.name,
        columns=["name", "error"],
        rows=lambda columns=None: (image._asdict() for image in images),
        identity=(str(folder), images),
        num_rows=len(images),
    ), left_alone


def _walk(folder: str, inside: PurePath, above: tuple[str, ...]) -> Iterator[FoundImage | None]:
    """What is found in a folder, `None` for what is left alone; `above` are the folders that it is in."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        yield FoundImage(printable(inside), f"the folder cannot be listed: {error.strerror}")
        return
    for name in names:
        path, place = os.path.join(folder, name), inside / name
        if is_system_file(name):
            yield None
        elif os.path.isdir(path):
            real = os.path.realpath(path)
            if real in above:
                yield FoundImage(printable(place), f"a link that leads back to {printable(real)}")
            else:
                yield from _walk(path, place, (*above, real))
        else:
            yield _file(path, place)


def _file(path: str, place: PurePath) -> FoundImage | None:
    """A file, or something else that is no folder; what is called like neither an image nor a folder is left alone."""
    is_image, name = place.suffix.lower() in IMAGE_SUFFIXES, printable(place)
    error = None
    try:
        mode = os.stat(path).st_mode
    except OSError as why:
        what = "a link that leads nowhere" if os.path.islink(path) else "it cannot be read"
        # What has no suffix may be a folder of images.
        return FoundImage(name, f"{what}: {why.strerror}") if is_image or not place.suffix else None
    if not stat.S_ISREG(mode):
        error = "a FIFO, a device or a socket, and no file"
    elif name != str(place):
        error = "its name, or that of a folder it is in, is not UTF-8: rename it"
    return FoundImage(name, error) if is_image else None
