"""Pictures as people write them down, as `datasets` stores them: a path or the bytes of a file; none is decoded."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from trainers.rows import describe, fault


__all__ = ["PICTURE_SUFFIXES", "as_stored", "as_stored_list", "picture_files"]

PICTURE_SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
EXPECTED = "a path, the bytes of a file, a data: URI or nothing"


def as_stored(value: Any, column: str, root: str) -> dict[str, Any] | None:
    """
    A picture as `datasets` stores it.

    Args:
        value: a path, a `file:` or `data:` URI, bytes, `{"bytes", "path"}`, or nothing (`None` or an empty text).
        column (`str`): where it stands, for error messages.
        root (`str`): folder at which relative paths begin.

    Returns:
        `dict` with `bytes` and `path`, one of them `None`; or `None` for nothing.

    Raises:
        ValueError: for anything else, an address on the network among it.
    """
    if isinstance(value, dict) and value and value.keys() <= {"bytes", "path"}:
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


def _from_text(value: str, column: str, root: str) -> dict[str, Any]:
    scheme = value.partition(":")[0].lower() if ":" in value else ""
    if scheme == "data":
        return {"bytes": _from_data_uri(value, column), "path": None}
    if scheme in ("http", "https", "ftp", "s3", "gs", "hf"):
        raise fault(column, describe(value), "a file: nothing is fetched from the network, download it first")
    if scheme == "file":
        value = unquote(urlsplit(value).path)
    if "\0" in value or not value.strip():
        raise fault(column, describe(value), EXPECTED)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise fault(column, f"{ascii(value)[:80]}, which is not UTF-8", EXPECTED) from error
    return {"bytes": None, "path": os.path.join(root, value)}


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


def as_stored_list(value: Any, column: str, root: str) -> list[dict[str, Any]]:
    """The same for a list, or for one picture; none may be missing in a list."""
    if not isinstance(value, list | tuple):
        picture = as_stored(value, column, root)
        return [] if picture is None else [picture]
    pictures = [as_stored(one, f"{column}[{place}]", root) for place, one in enumerate(value)]
    if None in pictures:
        raise fault(f"{column}[{pictures.index(None)}]", "nothing", "a picture")
    return pictures


def picture_files(folder: Path) -> Iterator[Path]:
    """The pictures in a folder, at any depth, in the order of their names."""
    yield from sorted(file for file in folder.rglob("*") if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file())
