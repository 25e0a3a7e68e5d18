"""Files of text, opened so that what is no text of ours is said at once: no FIFOs, no UTF-16, no byte-order mark."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path
from typing import IO


__all__ = ["SURROGATES", "check_regular", "open_text", "printable"]

SURROGATES = "surrogateescape"  # bytes that are not UTF-8 are carried to the check of their row
# UTF-32 first: its little-endian mark begins with that of UTF-16.
OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def check_regular(path: str | Path) -> None:
    """Raises `ValueError` unless a path names a file: opening a FIFO waits for ever, reading a device never ends."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise ValueError(f"{printable(path)} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a FIFO, a device or a socket"
        raise ValueError(f"{printable(path)} must be a file; it is {kind}.")


def open_text(path: str | Path, newline: str | None = None) -> IO[str]:
    """
    Opens a file of text in UTF-8, with or without a byte-order mark.

    Args:
        path (`str` or `Path`): the file.
        newline (`str`, *optional*): as in `open`.

    Returns:
        `IO[str]`: bytes that are not UTF-8 are lone surrogates in it; `check_text` finds them.

    Raises:
        ValueError: for what is no file, and for UTF-16 and UTF-32.
    """
    check_regular(path)
    with open(path, "rb") as file:
        beginning = file.read(4)
    for mark, name in OTHER_MARKS.items():
        if beginning.startswith(mark):
            raise ValueError(f"{printable(path)} is {name} and not UTF-8: save it again, `iconv -f {name} -t UTF-8`.")
    return open(path, encoding="utf-8-sig", errors=SURROGATES, newline=newline)


def printable(path: str | Path) -> str:
    """A path as a text that can be printed and stored: bytes that are not UTF-8 are written out, as in `b'\\xff'`."""
    return str(path).encode("utf-8", SURROGATES).decode("utf-8", "backslashreplace")
