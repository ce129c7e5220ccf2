"""Bodies of requests: read whole, within a number of bytes and of seconds, and unpacked within the same number of bytes.

A connection that ends in the middle is no end of the body: half a request is never answered.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from trimodal.serving.http.errors import ClientGoneError
from trimodal.serving.limits import Limits
from trimodal.serving.refusals import RefusedError, refuse_bad, refuse_kind, refuse_large

_IN_THREAD = 256 * 1024
"""Packed bytes from which unpacking leaves the event loop."""


class BodyReader:
    """Reads the bodies of all requests of a process; `held` counts the bytes of those under way."""

    def __init__(self, limits: Limits, most_held: int, most_chunks: int) -> None:
        self.limits, self.most_held, self.most_chunks = limits, most_held, most_chunks
        self.held = 0

    @asynccontextmanager
    async def hold(self, request: Request) -> AsyncIterator[bytes]:
        """The body of `request`, whole and unpacked, while the block runs.

        Raises:
            RefusedError: 400 malformed packing; 408 too slow; 413 too large; 415 unknown packing; 503 too much is held already.
            ClientGoneError: the connection ended before the body did.
        """
        taken = [0]
        try:
            yield await self._read(request, taken)
        finally:
            self.held -= taken[0]

    async def _read(self, request: Request, taken: list[int]) -> bytes:
        declared = int(request.headers.get("content-length", 0))
        if declared > self.limits.body_bytes:
            raise self._refuse_large()
        packing = request.headers.get("content-encoding", "identity").strip().lower()
        if packing not in ("identity", "gzip", "x-gzip", "deflate"):
            raise refuse_kind("Content-Encoding is not known; known are gzip, deflate and identity", "Content-Encoding")
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                packed = await self._collect(request, taken)
        except TimeoutError:
            raise RefusedError(408, f"the body did not come within {self.limits.body_seconds:g} seconds") from None
        if packing == "identity":
            return packed
        unpack = asyncio.to_thread(unpack_body, packed, packing, self.limits.body_bytes) if len(packed) > _IN_THREAD else None
        body = await unpack if unpack else unpack_body(packed, packing, self.limits.body_bytes)
        self._take(len(body), taken)
        return body

    async def _collect(self, request: Request, taken: list[int]) -> bytes:
        pieces: list[bytes] = []
        while True:
            request.scope["trimodal.begun"] = True
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            piece = message.get("body", b"")
            self._take(len(piece), taken)
            if taken[0] > self.limits.body_bytes:
                raise self._refuse_large()
            if piece:
                pieces.append(piece)
            if len(pieces) > self.most_chunks:
                raise refuse_large(f"the body came in more than {self.most_chunks:,} pieces")
            if not message.get("more_body", False):
                request.scope["trimodal.read"] = True
                return b"".join(pieces)

    def _take(self, size: int, taken: list[int]) -> None:
        self.held, taken[0] = self.held + size, taken[0] + size
        if self.held > self.most_held:
            raise RefusedError(503, "too many bodies are held at once; ask again later", retry_after=1)

    def _refuse_large(self) -> RefusedError:
        return refuse_large(f"the body is larger than the {self.limits.body_bytes:,} bytes that are taken")


def unpack_body(packed: bytes, packing: str, most: int) -> bytes:
    """`packed` without gzip or deflate; deflate is taken with zlib's frame, as RFC 9110 says, and without.

    Raises:
        RefusedError: 400 where it is broken, ends early, or goes on behind its end; 413 above `most` bytes, of which no more are made.
    """
    if packing == "deflate":
        window = (
            zlib.MAX_WBITS if packed[:1] and packed[0] & 0x0F == 8 and int.from_bytes(packed[:2], "big") % 31 == 0 else -zlib.MAX_WBITS
        )
    else:
        window = zlib.MAX_WBITS | 16
    unpacker = zlib.decompressobj(window)
    try:
        body = unpacker.decompress(packed, most + 1)
    except zlib.error:
        raise refuse_bad("the body is not what Content-Encoding says", "Content-Encoding") from None
    if len(body) > most:
        raise refuse_large(f"the body is larger than the {most:,} bytes that are taken, once unpacked")
    if not unpacker.eof or unpacker.unused_data:
        raise refuse_bad("the packed body ends early, or goes on behind its end", "Content-Encoding")
    return body
