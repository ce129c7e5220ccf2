"""Answers that are given before the whole request was read.

A connection that is closed while the client still sends is reset, and the answer with it. So the answer goes out whole, then what still
comes is read and thrown away for a while, and then the connection is closed.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

MOST_BYTES, MOST_SECONDS = 128 * 2**20, 1.0


class LingeringResponse:
    """`response`, which says `Connection: close`, after which the rest of the request is thrown away."""

    def __init__(self, response: Response) -> None:
        self.response = response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, read on for at most `MOST_SECONDS` and `MOST_BYTES`, and end."""
        await send({"type": "http.response.start", "status": self.response.status_code, "headers": self.response.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.response.body), "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(MOST_SECONDS):
                await _throw_away(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _throw_away(receive: Receive) -> None:
    seen = 0
    while seen < MOST_BYTES:
        message = await receive()
        seen += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return


def waits_for_leave(scope: Scope) -> bool:
    """Whether the client sends no body before it is told to (`Expect: 100-continue`), which to read would tell it."""
    return any(name == b"expect" for name, _ in scope["headers"]) and not scope.get("trimodal.begun")


def has_unread_body(scope: Scope) -> bool:
    """Whether the request has a body that nobody has read to its end."""
    headers = dict(scope["headers"])
    return not scope.get("trimodal.read") and (b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0")
