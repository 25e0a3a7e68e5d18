"""Files of text, opened as they are: in UTF-8 or in the encoding that is found by looking. FIFOs are no files."""

from __future__ import annotations

import codecs
import functools
import os
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO

from modeling_coma.inputs_coma import open_regular_file
from trainers.data.encodings import UTF_8, FoundEncoding, find_encoding


__all__ = ["SURROGATES", "encoding_of", "open_file", "open_text", "printable", "text_rows"]

SURROGATES = "surrogateescape"  # bytes that are not UTF-8 are carried to the check of their row
CARRIED = "coma-carried"  # the same for encodings in which any byte may be wrong


def _carry(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC80 | byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(CARRIED, _carry)


def open_file(path: str | Path) -> BinaryIO:
    """Opens a file to be read; raises `ValueError` for what cannot be, and for FIFOs and devices, which never end."""
    try:
        return open_regular_file(path, "must be a file; it is a FIFO, a device, a socket or a folder")
    except OSError as error:
        raise ValueError(f"{printable(path)} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise ValueError(f"{printable(path)} {error}.") from error


def open_text(path: str | Path, newline: str | None = None, encoding: str | None = None) -> TextIOWrapper:
    """
    Opens a file of text.

    Args:
        path (`str` or `Path`): the file.
        newline (`str`, *optional*): as in `open`.
        encoding (`str`, *optional*): by default the one that is found by looking: mostly UTF-8.

    Returns:
        `TextIOWrapper`: bytes that are not of the encoding are lone surrogates in it; `check_text` finds them.

    Raises:
        ValueError: for what is no file, and where looking does not tell the encoding.
    """
    encoding = encoding or encoding_of(path).name
    return TextIOWrapper(
        open_file(path), encoding=encoding, errors=SURROGATES if encoding == UTF_8 else CARRIED, newline=newline
    )


def encoding_of(path: str | Path) -> FoundEncoding:
    """The encoding of a file, found by looking at it, as [`~trainers.data.encodings.find_encoding`] says."""
    with open_file(path) as file:
        state = os.fstat(file.fileno())
    return _looked_at(str(path), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)  # whoever reads a table opens it several times
def _looked_at(path: str, size: int, changed: int) -> FoundEncoding:
    with open_file(path) as file:
        return find_encoding(file, printable(path))


def text_rows(path: Path, encoding: str | None = None) -> Iterator[dict[str, str]]:
    """The lines of a .txt file as rows with one column, `text`; a blank line is a row, too."""
    with open_text(path, encoding=encoding) as file:
        for line in file:
            yield {"text": line.removesuffix("\n")}


def printable(path: str | Path) -> str:
    """A path as a text that can be printed and stored: bytes that are not UTF-8 are written out, as in `b'\\xff'`."""
    return str(path).encode("utf-8", SURROGATES).decode("utf-8", "backslashreplace")
