"""HTTP/1.1 by uvicorn and h11, with what they leave open: how long a head may take and how large it may be, what it may not say, and how a
connection ends whose body was not read.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from trimodal.serving.limits import Limits

MOST_HEADERS = 200
_LITTLE = 4096
_LINGER_SECONDS = 2.0
_LINE_EXTRA = 4  # ": " and the end of the line
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_SAID = {
    400: "this is not a request that is understood", 408: "the head of the request did not come in time",
    431: "the head of the request is too large", 501: "this way of sending a body is not known",
}  # fmt: skip


class _CheckedConnection(h11.Connection):
    """h11's, which looks at heads once more, and remembers why it refused one."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(h11.SERVER, limits.header_bytes)
        self._limits = limits
        self.status = 400

    def next_event(self) -> Any:
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            self.status = int(error.error_status_hint or 400)
            raise
        if isinstance(event, h11.Request):
            status = _find_fault(event, self._limits)
            if status:
                self.status = status
                self._process_error(self.their_role)  # what h11 does with a head that it refuses itself
                raise h11.RemoteProtocolError(_SAID[status], error_status_hint=status)
        return event


def _find_fault(request: h11.Request, limits: Limits) -> int:
    """The status that refuses this head; 0 where nothing is wrong with it."""
    headers = request.headers.raw_items()
    size = len(request.method) + len(request.target) + sum(len(name) + len(value) + _LINE_EXTRA for name, value in headers)
    if size > limits.header_bytes or len(headers) > MOST_HEADERS:
        return 431
    names = [name.lower() for name, _ in headers]
    if b"content-length" in names and (b"transfer-encoding" in names or names.count(b"content-length") > 1):
        return 400  # two servers may read two different requests from it
    host = [value for name, value in headers if name.lower() == b"host"]
    if not request.target.startswith(b"/") or not all(_HOST.fullmatch(value) for value in host):
        return 400
    return 0


class GuardedProtocol(H11Protocol):
    """One connection. `on_lost` is called when it has ended."""

    def __init__(self, config: Config, state: ServerState, limits: Limits, on_lost: Callable[[], None]) -> None:
        super().__init__(config, state, {})
        self._limits, self._on_lost = limits, on_lost
        self.conn = _CheckedConnection(limits)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._heard = False
        self.idle_since = self.loop.time()

    @property
    def idle(self) -> bool:
        """Whether no request is under way in it."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first head, for so long."""
        super().connection_made(_LingeringTransport(transport, self))  # type: ignore[arg-type]
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Read on; whatever comes after the end is thrown away."""
        if self._linger_timer is not None:
            return
        self._heard = True
        if self.conn.their_state is h11.IDLE:
            self._expect_head()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._cancel("_head_timer")

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of timers, and tell whoever counts connections."""
        for name in ("_head_timer", "_write_timer", "_linger_timer"):
            self._cancel(name)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._on_lost()

    def on_response_complete(self) -> None:
        """As uvicorn; a body that was not read is not waited for."""
        self.idle_since = self.loop.time()
        super().on_response_complete()
        if self.idle and self.conn.their_state is h11.SEND_BODY:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client does not read: for so long, and no longer."""
        super().pause_writing()
        self._cancel("_write_timer")
        self._write_timer = self.loop.call_later(self._limits.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._cancel("_write_timer")

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, with the status that fits, and close."""
        self._refuse(self.conn.status)  # type: ignore[attr-defined]

    def linger(self, close: Callable[[], None]) -> None:
        """Close once the client has had time to read the answer: at once, what it still sends would make the kernel take it back."""
        if self._linger_timer is None:
            self._linger_timer = self.loop.call_later(_LINGER_SECONDS, close)

    def _cancel(self, name: str) -> None:
        timer = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.header_seconds, self._end_late)

    def _end_late(self) -> None:
        self._head_timer = None
        if self._heard and not self.transport.is_closing():
            self._refuse(408)
        else:
            self.transport.abort()

    def _refuse(self, status: int) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": _SAID.get(status, _SAID[400])}).encode()
            headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
            head = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode())
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _LingeringTransport:
    """A transport whose `close` ends our half first where the client may still be sending, and that sends an answer's head with its body:
    alone it would cost another call of the kernel, and wake the client for nothing."""

    def __init__(self, transport: asyncio.BaseTransport, protocol: GuardedProtocol) -> None:
        self._transport: Any = transport
        self._protocol = protocol
        for name in ("get_extra_info", "pause_reading", "resume_reading", "abort", "set_protocol"):
            setattr(self, name, getattr(transport, name))
        self._closing = False
        self._held = b""

    def write(self, data: bytes) -> None:
        """Send `data`; a little of it, with nothing before it, once something follows or the loop has come round."""
        if data and not self._held and len(data) < _LITTLE:
            self._held = data
            self._protocol.loop.call_soon(self._flush)
        elif data:
            held, self._held = self._held, b""
            self._transport.write(held + data)

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def is_closing(self) -> bool:
        return self._closing or bool(self._transport.is_closing())

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._flush()
        if self._protocol.conn.their_state in (h11.SEND_BODY, h11.ERROR) and self._transport.can_write_eof():
            self._transport.resume_reading()
            self._transport.write_eof()
            self._protocol.linger(self._transport.close)
        else:
            self._transport.close()
