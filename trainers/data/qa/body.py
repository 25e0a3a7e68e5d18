"""What a server sends back, unpacked and of bounded size, whatever it sends."""

from __future__ import annotations

import zlib

import aiohttp


__all__ = ["BadBody", "TooLarge", "read_body"]

PIECE = 1 << 16  # bytes
ZLIB = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class BadBody(ValueError):
    """A body that cannot be read."""


class TooLarge(BadBody):
    """A body that goes on after the most bytes that one may have."""


async def read_body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """
    Reads a body, unpacked, and no more of it than agreed.

    Args:
        response (`aiohttp.ClientResponse`): of a session that does not unpack by itself.
        most (`int`): bytes, packed and unpacked.

    Returns:
        `bytes`

    Raises:
        TooLarge: if there is more.
        BadBody: if it is packed in a way that was not asked for, or not as it says.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("", "identity"):
        unpack = None
    elif encoding in ZLIB:
        unpack = zlib.decompressobj(wbits=ZLIB[encoding])
    else:
        raise BadBody(f"the body is packed by {encoding[:40]!r}, which was not asked for")
    body, length = bytearray(), 0
    async for piece in response.content.iter_chunked(PIECE):
        length += len(piece)
        try:
            body += piece if unpack is None else unpack.decompress(piece, most + 1 - len(body))
        except zlib.error as error:
            raise BadBody(f"the body is not {encoding}: {error}") from error
        if max(length, len(body)) > most:
            raise TooLarge(f"the body has more than {most} bytes")
    return bytes(body)
