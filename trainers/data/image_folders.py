"""The image files of a folder, at any depth, by their names or what is in them; the others are named, too."""

from __future__ import annotations

import os
import stat
from itertools import islice
from pathlib import Path, PurePath
from typing import NamedTuple

from modeling_coma.inputs_coma import HEIC, open_regular_file
from trainers.data.images import IMAGE_SUFFIXES
from trainers.data.tables import Records
from trainers.data.text_files import printable


__all__ = ["FoundImage", "ImageFolder", "describe_left_alone", "folder_records", "is_system_file", "walk_images"]

# What systems leave between the files of people, beside everything that begins with a dot (`._a.jpg`, `.DS_Store`).
SYSTEM_NAMES = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db"}
# What images begin with.
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
AFTER_LENGTH = (*HEIC, b"ftypavif", b"ftypavis")
MOST_NAMED = 8  # of the files that are left alone


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
        left_alone (`list[FoundImage]`): files that are no images, and files and folders of the system, and why.
    """

    images: list[FoundImage]
    left_alone: list[FoundImage]


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
    found = ImageFolder([], [])
    _walk(os.fspath(folder), PurePath(), (os.path.realpath(folder),), found)
    return found


def describe_left_alone(folder: str | Path, left_alone: list[FoundImage]) -> str:
    """Says which files are left alone, the first of them by name; an empty text where there are none."""
    if not left_alone:
        return ""
    named = ", ".join(f"{name} ({why})" for name, why in left_alone[:MOST_NAMED])
    more = f" and {len(left_alone) - MOST_NAMED} more" if len(left_alone) > MOST_NAMED else ""
    return f"{printable(folder)}: {len(left_alone)} files are left alone: {named}{more}"


def folder_records(folder: str | Path, images: list[FoundImage]) -> Records:
    """The images of a folder as records with a `name` and an `error`."""
    folder = Path(folder).absolute()
    return Records(
        name=folder.name,
        columns=["name", "error"],
        rows=lambda columns=None: (image._asdict() for image in images),
        identity=(str(folder), images),
        num_rows=len(images),
        rows_from=lambda start, columns=None: (image._asdict() for image in islice(images, start, None)),
    )


def _walk(folder: str, inside: PurePath, above: tuple[str, ...], found: ImageFolder) -> None:
    """Adds what is in a folder; `above` are the folders that it is in."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        found.images.append(FoundImage(printable(inside), f"the folder cannot be listed: {error.strerror}"))
        return
    for name in names:
        path, place = os.path.join(folder, name), inside / name
        if is_system_file(name):
            why = "hidden" if name.startswith(".") else "of the system"
            found.left_alone.append(FoundImage(printable(place), why))
        elif not os.path.isdir(path):
            _add_file(path, place, found)
        elif (real := os.path.realpath(path)) in above:
            found.images.append(FoundImage(printable(place), f"a link that leads back to {printable(real)}"))
        else:
            _walk(path, place, (*above, real), found)


def _add_file(path: str, place: PurePath, found: ImageFolder) -> None:
    """Adds a file, or something else that is no folder. What is not called like an image may be one nevertheless."""
    is_image, name = place.suffix.lower() in IMAGE_SUFFIXES, printable(place)
    is_there, error = True, None
    try:
        is_there = os.path.exists(path)
        if not stat.S_ISREG(os.stat(path).st_mode):
            error = "a FIFO, a device or a socket, and no file"
        elif not is_image:
            with open_regular_file(path) as file:
                is_image = _begins_like_an_image(file.read(16))
    except OSError as why:
        what = "it cannot be read" if is_there else "a link that leads nowhere"
        error = f"{what}: {why.strerror}"
        is_image = is_image or not (is_there or place.suffix)  # which may have been a folder of images
    if name != str(place):
        error = error or "its name, or that of a folder it is in, is not UTF-8: rename it"
    if is_image:
        found.images.append(FoundImage(name, error))
    else:
        found.left_alone.append(FoundImage(name, error or "no image"))


def _begins_like_an_image(prefix: bytes) -> bool:
    is_bmp = prefix[:2] == b"BM" and prefix[6:10] == bytes(4)
    is_webp = prefix[:4] == b"RIFF" and prefix[8:12] == b"WEBP"
    return is_bmp or is_webp or prefix.startswith(SIGNATURES) or prefix[4:12] in AFTER_LENGTH
