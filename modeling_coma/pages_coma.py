"""A page of a PDF as an image: `report.pdf#3`. Its size is known before it is drawn."""

import atexit
import importlib
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, BinaryIO

from PIL import Image, ImageFile


__all__ = ["PAGE_PIXELS", "PageImage", "file_of", "open_pdf", "page_of"]

PAGE_PIXELS = 2**21  # of a page that nobody gives a budget: A4 at 145 dots per inch
MOST_DOTS = 300 / 72  # per point; more would draw a small page larger than anybody prints it
NAME = re.compile(r"(.+\.pdf)#([1-9][0-9]{0,8})", re.IGNORECASE | re.DOTALL)
ONE_AT_A_TIME = Lock()  # PDFium is not safe to be called by two threads
# The document that was read last, of this process. It stays open: opening one takes as long as it has pages, and these
# are read one after another.
LAST: dict[tuple[int, ...], Any] = {}


def page_of(path: Any) -> tuple[str, int] | None:
    """The file and the number, from 1, of a page; `None` for what names none, as a file that is called so."""
    found = NAME.fullmatch(os.fspath(path)) if isinstance(path, str | os.PathLike) else None
    return None if found is None or os.path.lexists(found[0]) else (found[1], int(found[2]))


def file_of(path: Any) -> Any:
    """The file that the path of an image leads to: that of a page is its PDF."""
    page = page_of(path)
    return path if page is None else page[0]


@contextmanager
def open_pdf(file: BinaryIO) -> Iterator[Any]:
    """The `pypdfium2.PdfDocument` of a file, for one thread at a time; `ValueError` if it cannot be opened."""
    with ONE_AT_A_TIME:
        state = os.fstat(file.fileno())
        known_by = os.getpid(), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
        if known_by not in LAST:
            _close()
            LAST[known_by] = _document(file)
        yield LAST[known_by]


def _document(file: BinaryIO) -> Any:
    try:
        pypdfium2 = importlib.import_module("pypdfium2")
    except ImportError as error:
        raise ValueError("pages of a PDF need pypdfium2: `pip install pypdfium2` to read them") from error
    own = os.fdopen(os.dup(file.fileno()), "rb")
    try:
        document = pypdfium2.PdfDocument(own, autoclose=True)
    except pypdfium2.PdfiumError as error:
        own.close()
        is_locked = "password" in str(error).lower()
        why = "it is encrypted: save it without its password" if is_locked else f"it is damaged, or no PDF: {error}"
        raise ValueError(why) from error
    atexit.unregister(_close)
    atexit.register(_close)  # before PDFium, which tells of what it finds open
    return document


def _close():
    while LAST:
        LAST.popitem()[1].close()


class PageImage(ImageFile.ImageFile):
    """
    A page that is drawn when its pixels are asked for, with as many dots per inch as a number of pixels allows.

    Args:
        file (`BinaryIO`): the PDF.
        number (`int`): of the page, from 1.
        max_pixels (`int`): of the image; 300 dots per inch at most, however many these are.
    Raises `ValueError` if there is no such page, or it is no shape of an image.
    """

    format = "PDF page"

    def __init__(self, file: BinaryIO, number: int, max_pixels: int):
        self.number, self.max_pixels = number, max_pixels
        super().__init__(file)

    def _open(self):
        with open_pdf(self.fp) as document:
            if self.number > len(document):
                raise ValueError(f"there is no page {self.number}: it has {len(document)}")
            width, height = document[self.number - 1].get_size()
        if not width > 0 < height:
            raise ValueError(f"page {self.number} has no area: {width} x {height} points")
        if max(width, height) > 200 * min(width, height):  # the limit of images; no side is rounded up to far more
            raise ValueError(f"page {self.number} has {width:g} x {height:g} points; an image has at most 1:200")
        self.dots = min(MOST_DOTS, math.sqrt(self.max_pixels / (width * height)))
        self._mode, self._size = "RGB", (math.ceil(width * self.dots), math.ceil(height * self.dots))

    def load(self) -> Any:
        """Draws the page, which this image becomes, as other stubs of Pillow do."""
        with open_pdf(self.fp) as document:
            drawn = document[self.number - 1].render(scale=self.dots, rev_byteorder=True).to_pil().copy()
        self.__class__, self.__dict__ = Image.Image, drawn.__dict__  # the file is not needed any more
        return Image.Image.load(self)
