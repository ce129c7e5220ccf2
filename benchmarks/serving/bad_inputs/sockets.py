"""Requests as bytes, over bare sockets: what no client library would send."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

CLOSED, SILENT = 0, -1
"""In place of a status: the server closed the connection without an answer; it said nothing until patience was over."""
PATIENCE = 45.0


@dataclass(frozen=True)
class Reply:
    """What came back: the status, the head, the body, and the seconds from the last byte that was sent to the last that came."""

    status: int
    head: bytes
    body: bytes
    seconds: float


def make_request(
    path: str, body: bytes = b"", headers: Mapping[str, str] | Sequence[tuple[str, str]] = (), *, method: str = "POST",
    host: str = "localhost", length: int | None = None,
) -> bytes:  # fmt: skip
    """A request as it goes over the wire; `length` in place of the body's true one, below 0 for none at all."""
    given = list(headers.items() if isinstance(headers, Mapping) else headers)
    declared = len(body) if length is None else length
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"Content-Length: {declared}"] if declared >= 0 else []
    lines += [f"{name}: {value}" for name, value in given]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def connect(port: int) -> socket.socket:
    """A connection to the service."""
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def talk(port: int, *pieces: bytes, pause: float = 0.0, patience: float = PATIENCE) -> Reply:
    """Send the pieces, with a pause behind each but the last, and read one answer."""
    with connect(port) as line:
        line.settimeout(patience)
        begun = time.perf_counter()
        for place, piece in enumerate(pieces):
            with suppress(ConnectionError):  # it has been told off, and the line cut; the answer may still be there to read
                line.sendall(piece)
            if pause and place + 1 < len(pieces):
                time.sleep(pause)
                if _has_answer(line):
                    break
        begun = time.perf_counter() if not pause else begun
        return read_reply(line, begun)


def read_reply(line: socket.socket, begun: float) -> Reply:
    """One answer, whole; `begun` is the time that seconds count from."""
    heard = b""
    try:
        while (end := _find_end(heard)) is None or len(heard) < end:
            piece = line.recv(1 << 16)
            if not piece:
                break
            heard += piece
    except TimeoutError:
        return Reply(SILENT, heard, b"", time.perf_counter() - begun)
    except ConnectionError:
        pass
    head, _, body = heard.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.") else CLOSED
    return Reply(status, head, body, time.perf_counter() - begun)


def _has_answer(line: socket.socket) -> bool:
    line.setblocking(False)
    try:
        return bool(line.recv(1, socket.MSG_PEEK)) or True
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    finally:
        line.settimeout(PATIENCE)


def _find_end(heard: bytes) -> int | None:
    """How many bytes the whole answer has, where its head tells."""
    head, found, _ = heard.partition(b"\r\n\r\n")
    if not found:
        return None
    lowered = head.lower()
    if b"\r\ncontent-length:" not in lowered:
        return None
    value = lowered.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return len(head) + 4 + int(value)


def show_status(status: int) -> str:
    """As the table has it."""
    return {CLOSED: "closed", SILENT: "SILENT"}.get(status, str(status))


def as_json(reply: Reply) -> Any:
    """The body's content; None where it is no JSON."""
    import json

    try:
        return json.loads(reply.body)
    except ValueError:
        return None
