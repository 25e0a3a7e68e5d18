"""The pages of PDFs as images by their names, `report.pdf#3`, and the text that a PDF has of a page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

from modeling_coma.inputs_coma import open_regular_file
from modeling_coma.pages_coma import open_pdf, page_of
from trainers.data.image_folders import FoundImage, ImageFolder


__all__ = ["PDF", "by_name", "page_text", "pdf_pages", "with_pages"]

PDF = ".pdf"
MISSING = "a PDF, whose pages are read where pypdfium2 is installed: pip install 'coma-embedding[pdf]'"


def pdf_pages(file: str | Path) -> list[str]:
    """
    The pages of a PDF by their names, as `ComaProcessor` takes them.

    Args:
        file (`str` or `Path`): the PDF. Of it the table of its pages is read.

    Returns:
        `list[str]`: `report.pdf#1` and so on, with the path before it as it was given.

    Raises:
        ValueError: if it cannot be opened, as one without pages, or is encrypted; and if there is no pypdfium2.
    """
    try:
        with open_regular_file(file) as opened, open_pdf(opened) as document:
            count = len(document)
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from error
    return [f"{file}#{number}" for number in range(1, count + 1)]


def page_text(path: str) -> str | None:
    """
    The words of a page that a PDF has beside what is drawn; a scan has none.

    Args:
        path (`str`): of the page, `report.pdf#3`; of any other image there is no text.

    Returns:
        `str` or `None`: in the order in which the file has them.

    Raises:
        ValueError: if the page cannot be read.
    """
    page = page_of(path)
    if page is None:
        return None
    file, number = page
    try:
        with open_regular_file(file) as opened, open_pdf(opened) as document:
            text = document[number - 1].get_textpage().get_text_bounded()
    except (OSError, RuntimeError, IndexError) as error:  # that of PDFium is a RuntimeError
        raise ValueError(f"page {number} cannot be read: {error}") from error
    return text.replace("\r\n", "\n").replace("\0", "").strip() or None


def with_pages(folder: str | Path, found: ImageFolder) -> ImageFolder:
    """
    The images of a folder and the pages of the PDFs in it.

    Args:
        folder (`str` or `Path`): the folder.
        found ([`ImageFolder`]): what [`~trainers.data.image_folders.walk_images`] has found in it.

    Returns:
        [`ImageFolder`]: pages stand among the images, by the name of their PDF. One that cannot be opened is an image
        with an error. Without pypdfium2 PDFs are left alone, and it is said why.
    """
    is_readable = find_spec("pypdfium2") is not None
    images, left_alone = list(found.images), []
    for file in found.left_alone:
        if not _is_pdf(file):
            left_alone.append(file)
        elif is_readable:
            images += _pages_in(os.fspath(folder), file.name)
        else:
            left_alone.append(file._replace(error=MISSING))
    is_mixed = len(images) > len(found.images)
    return ImageFolder(sorted(images, key=by_name) if is_mixed else images, left_alone)


def _is_pdf(file: FoundImage) -> bool:
    """Not a hidden one, nor what only is called so and is no file."""
    return file.name.lower().endswith(PDF) and file.error == "no image"


def _pages_in(folder: str, name: str) -> Iterator[FoundImage]:
    try:
        pages = pdf_pages(os.path.join(folder, name))
    except ValueError as error:
        return iter([FoundImage(name, str(error))])
    return (FoundImage(f"{name}#{number}") for number in range(1, len(pages) + 1))


def by_name(image: FoundImage) -> Any:
    """A key for the order of a walk through the folder, with pages by their numbers."""
    name, number = page_of(image.name) or (image.name, 0)
    return PurePath(name).parts, number
