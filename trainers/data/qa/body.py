"""What a server sends back: read whole, unpacked, and of bounded size, whatever it sends."""

from __future__ import annotations

from typing import Any

import httpx2


__all__ = ["BoundedTransport", "TooLarge"]

PACKED_BY = ("identity", "gzip", "deflate")
KEPT_HEADERS = ("location", "retry-after")  # no other is looked at


class TooLarge(ValueError):
    """A body that goes on after the most bytes that one may have."""


class BoundedTransport(httpx2.AsyncHTTPTransport):
    """
    Reads bodies before anybody else does.

    Args:
        max_bytes (`int`): the most bytes of a body, packed and unpacked.
        options: of `httpx2.AsyncHTTPTransport`.
    """

    def __init__(self, max_bytes: int, **options: Any) -> None:
        super().__init__(**options)
        self.max_bytes = max_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """
        Sends a request.

        Returns:
            `httpx2.Response`: with its whole body, and of its headers those that matter.

        Raises:
            TooLarge: if the body is larger than agreed.
            httpx2.DecodingError: if it is packed in a way that was not asked for, or not as it says.
        """
        response = await super().handle_async_request(request)
        try:
            body = await self._read(response)
        finally:
            await response.aclose()
        headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
        return httpx2.Response(response.status_code, headers=headers, content=body)

    async def _read(self, response: httpx2.Response) -> bytes:
        encoding = response.headers.get("content-encoding", "").strip().lower().removeprefix("x-") or "identity"
        if encoding not in PACKED_BY:
            raise httpx2.DecodingError(f"the body is packed by {encoding[:40]!r}, which was not asked for")
        response.headers["content-encoding"] = encoding
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if max(len(body), response.num_bytes_downloaded) > self.max_bytes:
                raise TooLarge(f"HTTP {response.status_code}: the body has more than {self.max_bytes} bytes")
        return bytes(body)
