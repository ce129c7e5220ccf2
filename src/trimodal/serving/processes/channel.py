"""Short messages between two of our processes: one JSON object per line over a pair of sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

Message = dict[str, Any]
_MOST_BYTES = 1 << 20


def write_message(message: Message) -> bytes:
    """The line that says it."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class Channel:
    """One end, in an event loop."""

    def __init__(self, own: socket.socket) -> None:
        self._own = own
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Begin to read; nothing is lost that was sent before."""
        self._own.setblocking(False)
        self._reader, self._writer = await asyncio.open_connection(sock=self._own, limit=_MOST_BYTES)

    def send(self, message: Message) -> None:
        """Say something; nothing happens where nobody listens any more."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(write_message(message))

    async def read(self) -> AsyncIterator[Message]:
        """What the other end says, until it is closed."""
        assert self._reader is not None, "opened first"
        while True:
            try:
                line = await self._reader.readline()
            except (ConnectionError, ValueError):
                return
            if not line.endswith(b"\n"):
                return
            yield json.loads(line)

    def close(self) -> None:
        """Close this end."""
        if self._writer is not None:
            self._writer.close()
        else:
            self._own.close()
