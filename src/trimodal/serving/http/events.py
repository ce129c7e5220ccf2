"""Answers in pieces, as server-sent events: each goes out when it is said, and the work ends where the client goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from starlette.types import Receive, Scope, Send

from trimodal.serving.http.doors import wait_until_gone
from trimodal.serving.http.errors import FAULT, logger
from trimodal.serving.refusals import RefusedError

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class EventStream:
    """Events of `pieces`, an async generator; a refusal on the way goes out as an event of its own, written by `tell`. Ends in `last`."""

    def __init__(self, pieces: AsyncIterator[dict[str, Any]], tell: Callable[[RefusedError], dict[str, Any]], last: str = "") -> None:
        self.pieces, self.tell, self.last = pieces, tell, last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all pieces, or stop where the client is gone."""
        work = asyncio.ensure_future(self._send_all(send))
        gone = asyncio.ensure_future(wait_until_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in (work, gone):
                future.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        async with aclosing(self.pieces) as pieces:  # type: ignore[type-var]
            try:
                async for piece in pieces:
                    await _send_event(send, json.dumps(piece, ensure_ascii=False))
            except RefusedError as refused:
                await _send_event(send, json.dumps(self.tell(refused)))
            except Exception as error:
                logger.error("fault while answering in pieces", exc_info=error)
                await _send_event(send, json.dumps(self.tell(FAULT)))
        if self.last:
            await _send_event(send, self.last)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_event(send: Send, data: str) -> None:
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})
