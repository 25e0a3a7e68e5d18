"""Images as people write them down, as `datasets` stores them: a path or the bytes of a file; none is decoded."""

from __future__ import annotations

import base64
import binascii
import copy
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
from datasets import Dataset, Features, Image, LargeList, List, Video
from datasets.fingerprint import Hasher

from modeling_coma.inputs_coma import to_rgb
from trainers.data.faults import describe, fault


__all__ = [
    "IMAGE_SUFFIXES",
    "ImageRoot",
    "as_image",
    "as_stored",
    "as_stored_list",
    "image_key",
    "images_of",
    "root_of",
    "undecoded",
    "without_decoding",
]

IMAGE_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
EXPECTED = "a path, the bytes of a file, a data: URI or nothing"
OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\")  # what its absolute paths begin with
LONGEST_PATH, LONGEST_NAME = 4095, 255  # bytes that Linux takes; longer ones raise where nobody knows the row


class ImageRoot(NamedTuple):
    """
    The folder at which the relative paths of a table begin, and which they may not leave.

    A table may come from anybody, so `../../etc/x.png` is refused. Absolute paths are taken, unless a folder was
    given: then they must lead into it. What counts is the path as it is written: a link in the folder may lead
    anywhere, for links are made by whoever owns the disk, and folders of links are how data are shared on clusters.

    Args:
        folder (`str`): an absolute path.
        given (`bool`): whether somebody named it; otherwise it is that of the table.
    """

    folder: str
    given: bool

    def path(self, value: str, column: str) -> str:
        """
        The absolute path of an image. What Windows has written is read: `photos\\cat.jpg`.

        Raises:
            ValueError: if it leads out of the folder, is longer than paths can be, or begins at a drive of Windows.
        """
        value = self._from_windows(value, column)
        path = value if os.path.isabs(value) else os.path.join(self.folder, value)
        if len(os.fsencode(path)) > LONGEST_PATH or any(len(os.fsencode(n)) > LONGEST_NAME for n in path.split("/")):
            found = f"a text of {len(value)} characters, {value[:40]!r}…"
            raise fault(column, found, "a path; base64 begins with data:image/png;base64,")
        if os.path.isabs(value) and not self.given:
            return value
        path = os.path.normpath(path)  # and this is what is opened: a link before a `..` leads nowhere else
        if os.path.commonpath([self.folder, path]) != self.folder:
            told = "(`image_root`) that all of them are in"
            raise fault(column, describe(value), f"a path inside of {self.folder}, or another image root {told}")
        return path

    def _from_windows(self, value: str, column: str) -> str:
        """A path with slashes, unless a file has this very name."""
        is_absolute = OF_WINDOWS.match(value) is not None
        if os.sep == "\\" or not (is_absolute or "\\" in value) or self._has(value):
            return value
        slashed = value.replace("\\", "/")
        if not is_absolute or self._has(slashed):
            return slashed
        names = [name for name in slashed.split("/") if name]
        ends = ("/".join(names[start:]) for start in range(1, len(names)))
        there = next((end for end in ends if self._has(end)), None)
        hint = "" if there is None else f": {there!r} is there, so leave out what stands before it"
        found = f"{describe(value)}, which begins at a drive of Windows and leads nowhere here"
        raise fault(column, found, f"a path from {self.folder} on (or from another image root){hint}")

    def _has(self, path: str) -> bool:
        return os.path.lexists(os.path.join(self.folder, path))


def root_of(source: Any, image_root: str | Path | None) -> ImageRoot:
    """The folder at which relative paths begin: the one that is given, that of a file, or that of this process."""
    if image_root is not None:
        return ImageRoot(os.path.abspath(image_root), True)
    if not isinstance(source, str | Path):
        return ImageRoot(os.getcwd(), False)
    path = os.path.abspath(source)
    return ImageRoot(path if os.path.isdir(path) else os.path.dirname(path), False)


def as_stored(value: Any, column: str, root: ImageRoot) -> dict[str, Any] | None:
    """
    An image as `datasets` stores it.

    Args:
        value: a path, a `file:` or `data:` URI, bytes, `{"bytes", "path"}`, or nothing (`None` or an empty text).
        column (`str`): where it stands, for error messages.
        root ([`ImageRoot`]): folder at which relative paths begin.

    Returns:
        `dict` with `bytes` and `path`, one of them `None`; or `None` for nothing.

    Raises:
        ValueError: for anything else, an address on the network among it.
    """
    if isinstance(value, dict) and value and value.keys() <= {"bytes", "path"}:
        if not isinstance(value.get("bytes"), bytes | bytearray | memoryview | None):
            raise fault(f"{column}.bytes", describe(value["bytes"]), "the bytes of a file")
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if value is None or value == "":
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        if not len(value):
            raise fault(column, "0 bytes", EXPECTED)
        return {"bytes": bytes(value), "path": None}
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        raise fault(column, describe(value), EXPECTED)
    return _from_text(value, column, root)


def _from_text(value: str, column: str, root: ImageRoot) -> dict[str, Any]:
    scheme = value.partition(":")[0].lower() if ":" in value else ""
    if scheme == "data":
        return {"bytes": _from_data_uri(value, column), "path": None}
    if scheme in ("http", "https", "ftp", "s3", "gs", "hf"):
        raise fault(column, describe(value), "a file: nothing is fetched from the network, download it first")
    if scheme == "file":
        value = _from_file_uri(value, column)
    if "\0" in value or not value.strip():
        raise fault(column, describe(value), EXPECTED)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise fault(column, f"{ascii(value)[:80]}, which is not UTF-8", EXPECTED) from error
    return {"bytes": None, "path": root.path(value, column)}


def _from_file_uri(value: str, column: str) -> str:
    try:
        path = unquote(urlsplit(value).path, errors="strict")
    except ValueError as error:
        raise fault(column, describe(value), f"file:///path, but: {error}") from error
    return path[1:] if OF_WINDOWS.match(path[1:]) and not os.path.lexists(path) else path  # /C:/…


def _from_data_uri(value: str, column: str) -> bytes:
    head, comma, body = value.partition(",")
    if not comma or not head.endswith(";base64"):
        raise fault(column, describe(value), "data:image/png;base64,… in a data: URI")
    try:
        content = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise fault(column, describe(value), f"base64 in a data: URI, but: {error}") from error
    if not content:
        raise fault(column, "0 bytes", EXPECTED)
    return content


def as_stored_list(value: Any, column: str, root: ImageRoot) -> list[dict[str, Any]]:
    """The same for a list, or for one image or video; none may be missing in a list."""
    if not isinstance(value, list | tuple):
        stored = as_stored(value, column, root)
        return [] if stored is None else [stored]
    images = [as_stored(one, f"{column}[{place}]", root) for place, one in enumerate(value)]
    if None in images:
        raise fault(f"{column}[{images.index(None)}]", "nothing", "a file")
    return images


def as_image(value: Any) -> Any:
    """An image as the processor takes it, from what `datasets` returns where it does not decode: bytes or a path."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        return value["bytes"] if value["bytes"] is not None else value["path"]
    return value


def images_of(value: Any, column: str = "", kind: str = "image") -> Iterator[tuple[str, Any]]:
    """The images of a row, however nested, and the columns they stand in: what is called `image` or `images`; or the
    videos, by the same token."""
    if isinstance(value, dict) and value.keys() != {"bytes", "path"}:
        for name, inner in value.items():
            yield from images_of(inner, f"{column}.{name}" if column else str(name), kind)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from images_of(inner, f"{column}[{place}]", kind)
    elif re.search(rf"\b({kind}|{kind}s?\[\d+\])$", column) and as_image(value) is not None:
        yield column, as_image(value)


def without_decoding(dataset: Dataset) -> Dataset:
    """
    The same data set with every image, however nested, left as the bytes or the path that it is stored as.

    What is stored is the same either way, so no row is read or written; only the twin's description differs.
    """
    features = Features({name: undecoded(feature) for name, feature in dataset.features.items()})
    if features == dataset.features:
        return dataset
    twin = copy.deepcopy(dataset)  # tables are shared
    twin.info.features = features
    twin._fingerprint = Hasher.hash((dataset._fingerprint, "undecoded"))  # what `map` makes of the two is not the same
    return twin


def undecoded(feature: Any) -> Any:
    """A feature with every image in it left as it is stored."""
    if isinstance(feature, Image):
        return Image(mode=feature.mode, decode=False)
    if isinstance(feature, Video):
        return Video(decode=False)
    if isinstance(feature, dict):
        return {name: undecoded(inner) for name, inner in feature.items()}
    if isinstance(feature, List | LargeList):
        inner = undecoded(feature.feature)
        return List(inner, length=feature.length) if isinstance(feature, List) else LargeList(inner)
    if isinstance(feature, list):
        return [undecoded(inner) for inner in feature]
    return feature


def image_key(image: Any, row: int = 0) -> str:
    """
    A key of the content of an image, in any form that `ComaProcessor` takes. A file is its bytes, or its path;
    of an open image it is the colours after decoding, on which palette, transparency and EXIF have acted.
    """
    if isinstance(image, str | Path):
        content = str(image).encode()
    elif isinstance(image, bytes):
        content = image
    else:
        pixels = np.asarray(to_rgb(image, row))
        content = f"{pixels.shape}".encode() + pixels.tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
