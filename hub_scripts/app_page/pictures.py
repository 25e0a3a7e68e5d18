"""Images of an index, for a page that strangers may see: only what lies below one folder, as small copies."""

import base64
import io
import os
from pathlib import Path

from PIL import Image

from hub_scripts.common.terminal import one_line
from modeling_coma.inputs_coma import to_rgb
from modeling_coma.pages_coma import page_of
from trainers.data.images import as_stored, root_of
from trainers.data.videos import VIDEO_SUFFIXES


__all__ = ["Pictures", "thumbnail"]

SIDE = 224  # pixels of a thumbnail
QUALITY = 85


class Pictures:
    """
    The images that the paths of an index lead to.

    An index may come from anybody, and what it names is shown to whoever opens the page. Other than where a corpus is
    embedded, the file that a path leads to in the end counts, links followed.

    Args:
        root (`str` or `Path`): the folder below which they lie, and at which relative paths begin.
        max_pixels (`int`): an image with more is not decoded.

    Raises:
        ValueError: if the folder is not there.
    """

    def __init__(self, root: str | Path, max_pixels: int) -> None:
        if not os.path.isdir(root):
            raise ValueError(f"There is no folder {root}: give the folder at which paths of images begin.")
        self.root, self.max_pixels = Path(root), max_pixels
        self._real_root = os.path.realpath(root)

    def find(self, path: str) -> str:
        """
        The file of a path of the index, or the page in it.

        Raises:
            ValueError: says, in words for the page, that the path leads elsewhere or nowhere.
        """
        try:
            stored = as_stored(path, "image", root_of(None, self.root))
        except ValueError:  # it is no path, or one that leaves the folder as it is written
            stored = None
        if stored is None or stored["path"] is None:
            raise ValueError(_outside(path))
        try:
            file, *page = page_of(stored["path"]) or (stored["path"],)
            file = os.path.realpath(file)
        except OSError:  # links that lead in a circle
            file = ""
        if not file.startswith(os.path.join(self._real_root, "")):
            raise ValueError(_outside(path))
        if not os.path.isfile(file):
            raise ValueError(f"{path} is no file below the image root")
        return stored["path"] if page else file  # what a link to a PDF leads to may have a name without .pdf

    def open(self, path: str) -> Image.Image:
        """
        The image of a path of the index, decoded.

        Raises:
            ValueError: as [`Pictures.find`], and for a video, for what is no image or has too many pixels.
        """
        file = self.find(path)
        if path.lower().endswith(VIDEO_SUFFIXES):
            raise ValueError(f"{path} is a video, and this page shows images")
        try:
            return to_rgb(file, max_pixels=self.max_pixels)
        except ValueError as error:  # the page need not know where the folder lies
            raise ValueError(str(error).removeprefix("Row 0: ").replace(file, path)) from error


def _outside(path: str) -> str:
    return f"outside the image root: {one_line(path, 100)}"


def thumbnail(image: Image.Image) -> str:
    """A small copy of an image as a `data:` URI."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    small.info = {}  # comments would go along
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
