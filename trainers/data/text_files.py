"""Files of text, opened so that what is no text of ours is said at once: no FIFOs, no UTF-16, no byte-order mark."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO

from modeling_coma.inputs_coma import open_regular_file


__all__ = ["SURROGATES", "open_file", "open_text", "printable", "text_rows"]

SURROGATES = "surrogateescape"  # bytes that are not UTF-8 are carried to the check of their row
# UTF-32 first: its little-endian mark begins with that of UTF-16.
OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def open_file(path: str | Path) -> BinaryIO:
    """Opens a file to be read; raises `ValueError` for what cannot be, and for FIFOs and devices, which never end."""
    try:
        return open_regular_file(path, "must be a file; it is a FIFO, a device, a socket or a folder")
    except OSError as error:
        raise ValueError(f"{printable(path)} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise ValueError(f"{printable(path)} {error}.") from error


def open_text(path: str | Path, newline: str | None = None) -> TextIOWrapper:
    """
    Opens a file of text in UTF-8, with or without a byte-order mark.

    Args:
        path (`str` or `Path`): the file.
        newline (`str`, *optional*): as in `open`.

    Returns:
        `TextIOWrapper`: bytes that are not UTF-8 are lone surrogates in it; `check_text` finds them.

    Raises:
        ValueError: for what is no file, and for UTF-16 and UTF-32.
    """
    file = open_file(path)
    beginning = file.read(4)
    file.seek(0)
    for mark, name in OTHER_MARKS.items():
        if beginning.startswith(mark):
            file.close()
            raise ValueError(f"{printable(path)} is {name} and not UTF-8: save it again, `iconv -f {name} -t UTF-8`.")
    return TextIOWrapper(file, encoding="utf-8-sig", errors=SURROGATES, newline=newline)


def text_rows(path: Path) -> Iterator[dict[str, str]]:
    """The lines of a .txt file as rows with one column, `text`; a blank line is a row, too."""
    with open_text(path) as file:
        for line in file:
            yield {"text": line.removesuffix("\n")}


def printable(path: str | Path) -> str:
    """A path as a text that can be printed and stored: bytes that are not UTF-8 are written out, as in `b'\\xff'`."""
    return str(path).encode("utf-8", SURROGATES).decode("utf-8", "backslashreplace")
