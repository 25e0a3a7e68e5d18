"""A digest of the footer of a Parquet file, which has no checksum of its own.

The footer says where in the file the columns are. A bit of it that has changed can make one row group of another, or
end the process in the library that reads it. The digest stands before the footer, where no other reader looks; a file
that another program has written has none, and is not checked.
"""

import hashlib
from pathlib import Path
from typing import BinaryIO


__all__ = ["check_seal", "seal"]

MAGIC = b"PAR1"
MARK = b"COMA footer "
DIGEST_BYTES = 16


def seal(path: Path) -> None:
    """Puts a digest before the footer of a file that has been written."""
    with path.open("r+b") as file:
        start = _footer_start(file)
        file.seek(start)
        footer = file.read()
        file.seek(start)
        file.write(MARK + _digest(footer) + footer)


def check_seal(path: Path) -> None:
    """Raises `OSError` if a footer has changed since it was sealed."""
    with path.open("rb") as file:
        file.seek(max(0, _footer_start(file) - len(MARK) - DIGEST_BYTES))
        mark, digest, footer = file.read(len(MARK)), file.read(DIGEST_BYTES), file.read()
    if mark == MARK and digest != _digest(footer):
        raise OSError("its footer has changed since it was written")


def _footer_start(file: BinaryIO) -> int:
    """Where the footer begins: at the end of the file are its length, in four bytes, and the magic number."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    length, magic = file.read(4), file.read()
    start = size - 8 - int.from_bytes(length, "little")
    if magic != MAGIC or start < len(MAGIC):
        raise OSError("it does not end as a Parquet file does")
    return start


def _digest(footer: bytes) -> bytes:
    return hashlib.blake2b(footer, digest_size=DIGEST_BYTES).digest()
