"""Rows 1 to 12: what goes wrong before a body is read, or while it is."""

from __future__ import annotations

import gzip
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.serving.bad_inputs.cases import Case, Found, Place, Row, judge, post_json
from benchmarks.serving.bad_inputs.good import ADD, SUM, TENSORS, list_good
from benchmarks.serving.bad_inputs.sockets import CLOSED, as_json, connect, make_request, talk

MiB = 1 << 20
HEAD = b"POST " + ADD.encode() + b" HTTP/1.1\r\nHost: localhost\r\n"
_HEAD_SECONDS, _BODY_SECONDS, _SLACK = 10.0, 30.0, 3.0
_CONNECTIONS = 10_000
_PIPELINED = 200


def list_rows(quick: bool) -> list[Row]:
    """The rows."""
    return [*_list_slow(), *_list_heads(), *_list_bodies(), *_list_forms(), *_list_clients(quick)]


def _list_slow() -> list[Row]:
    partly = [HEAD + b"Content-Length: 100\r\n\r\n{"]
    return [
        Row(1, "half a head, then silence; a head that drips", "closed within 10 s", [
            Case("half a head", attempt=_wait_for([HEAD + b"X-Half: "], (408, CLOSED), _HEAD_SECONDS), slow=True),
            Case("nothing at all", attempt=_wait_for([b""], (CLOSED,), _HEAD_SECONDS), slow=True),
            Case("dripped", attempt=_wait_for([HEAD + b"X: ", *[b"x"] * 60], (408, CLOSED), _HEAD_SECONDS, pause=0.3), slow=True),
        ]),
        Row(2, "half a body; one that drips", "408 by a deadline for all of it", [
            Case("half a body", attempt=_wait_for(partly, (408,), _BODY_SECONDS), slow=True),
            Case("dripped, 1 byte in 2 s", attempt=_wait_for([*partly, *[b" "] * 40], (408,), _BODY_SECONDS, pause=2.0), slow=True),
            Case("chunks that drip", attempt=_wait_for([HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\n \r\n"] * 40], (408,),
                                                       _BODY_SECONDS, pause=2.0), slow=True),
        ]),
    ]  # fmt: skip


def _wait_for(pieces: list[bytes], allowed: tuple[int, ...], most: float, pause: float = 0.0) -> Callable[[Place], Found]:
    def attempt(place: Place) -> Found:
        reply = talk(place.port, *pieces, pause=pause)
        found = judge(reply, allowed) if reply.status != CLOSED else Found("closed", "" if CLOSED in allowed else "closed", reply.seconds)
        late = f"after {reply.seconds:.1f} s" if reply.seconds > most + _SLACK else ""
        return Found(f"{found.said} after {reply.seconds:.0f} s", found.fault or late, 0.0)

    return attempt


def _list_heads() -> list[Row]:
    many = b"".join(b"X-%d: a\r\n" % number for number in range(10_000))
    lengths = {
        "negative": b"Content-Length: -5\r\n\r\n", "two that differ": b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "twice the same": b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", "with a plus": b"Content-Length: +2\r\n\r\n{}",
        "in hexadecimal": b"Content-Length: 0x2\r\n\r\n{}", "a list": b"Content-Length: 2, 3\r\n\r\n{} ",
        "2^70": b"Content-Length: 1180591620717411303424\r\n\r\n",
        "with Transfer-Encoding": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "behind Transfer-Encoding": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    }  # fmt: skip
    return [
        Row(3, "a head of 1 MB; 10,000 lines", "431", [
            Case("1 MB in one line", HEAD + b"X: " + b"a" * MiB + b"\r\n\r\n", (431,)),
            Case("10,000 lines", HEAD + many + b"\r\n", (431,)),
            Case("40 kB", HEAD + b"X: " + b"a" * 40_000 + b"\r\n\r\n", (431,)),
            Case("a target of 1 MB", b"GET /" + b"a" * MiB + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", (431,)),
        ]),
        Row(4, "Content-Length above the cap", "413 before reading", [
            Case(path, make_request(path, b"", {"Content-Type": kind}, length=size), (413,), declared=True)
            for path, kind, size in (
                (ADD, "application/json", 65 * MiB), ("/embed", "image/png", 10**9), ("/v1/embeddings", "application/json", 10**12),
                ("/transcribe", "multipart/form-data; boundary=a", 10**15), ("/v1/audio/transcriptions", "multipart/form-data", 10**9),
                ("/v2/repository/index", "application/json", 10**9),
            )
        ]),
        Row(7, "Content-Length negative, twice, or beside Transfer-Encoding", "400, and the connection closed", [
            Case(label, HEAD + lines, (400,), check=_check_closed) for label, lines in lengths.items()
        ]),
        Row(8, "a target without a slash; Host missing or malformed", "400", [
            Case("@host", b"GET @evil.example/v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            Case("a whole address", b"GET http://evil.example/v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            Case("*", b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            *(Case(f"Host {host!r}", b"GET /v2 HTTP/1.1\r\n" + host + b"\r\n") for host in (
                b"", b"Host: a b\r\n", b"Host: evil.example\r\n", b"Host: localhost:99999\r\n", b"Host: user@localhost\r\n",
                b"Host: localhost\r\nHost: localhost\r\n", b"Host: localhost/x\r\n",
            )),
        ]),
    ]  # fmt: skip


def _check_closed(reply: object) -> str:
    head = getattr(reply, "head", b"").lower()
    return "" if b"connection: close" in head and head.count(b"http/1.1") == 1 else "the connection stays open"


def _list_bodies() -> list[Row]:
    good = post_json(ADD, {"inputs": TENSORS}).partition(b"\r\n\r\n")[2]
    chunked = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    packed = gzip.compress(good, mtime=0)

    def pack(packing: str, body: bytes, *allowed: int) -> Case:
        return Case(f"{packing[:12]}, {len(body)} bytes", make_request(ADD, body, {"Content-Encoding": packing}), allowed)

    return [
        Row(5, "chunks past the cap; 100,000 of one byte", "413 or 400", [
            Case("65 MiB in chunks of 1 MiB", chunked + (b"100000\r\n" + b" " * MiB + b"\r\n") * 65 + b"0\r\n\r\n", (413,), extra=True),
            Case("100,000 chunks of 1 byte", chunked + b"1\r\n \r\n" * 100_000 + b"0\r\n\r\n", (413, 400), extra=True),
            Case("a size of 2^64", chunked + b"FFFFFFFFFFFFFFFF\r\n", (400, 413)),
            Case("a negative size", chunked + b"-1\r\n"), Case("no size", chunked + b"zz\r\n"),
            Case("a note of 1 MB", chunked + b"1;" + b"a" * MiB + b"\r\n \r\n0\r\n\r\n", (400, 413, 431)),
        ]),
        Row(6, "a bomb of gzip or deflate; bogus gzip; an unknown coding", "413 / 400 / 415", [
            pack("gzip", gzip.compress(bytes(70 * MiB), 6, mtime=0), 413), pack("deflate", zlib.compress(bytes(70 * MiB), 6), 413),
            pack("gzip", good, 400), pack("gzip", b"", 400), pack("gzip", packed[:-9], 400), pack("gzip", packed + b"x", 400),
            pack("gzip", packed * 2, 400), pack("deflate", b"\x78\x9c", 400), pack("br", good, 415), pack("gzip, gzip", packed, 415),
            pack("x" * 300, good, 415),
        ]),
        Row(12, "a request id of 1 MB", "400", [
            Case("in the body", post_json(ADD, {"id": "x" * MiB, "inputs": TENSORS})),
            Case("as a header", make_request(ADD, good, {"X-Request-Id": "x" * 60_000}), (431,)),
        ]),
    ]  # fmt: skip


def _list_forms() -> list[Row]:
    def form(body: bytes, boundary: str = "b", kind: str = "multipart/form-data; boundary=") -> bytes:
        return make_request("/embed", body, {"Content-Type": kind + boundary})

    part = b'--b\r\nContent-Disposition: form-data; name="text"\r\n'
    return [
        Row(9, "a form without end: of headers, of parts", "400", [
            Case("10,000 headers of a part", form(part + b"X: a\r\n" * 10_000 + b"\r\na\r\n--b--\r\n")),
            Case("a header of 1 MB", form(part + b"X: " + b"a" * MiB + b"\r\n\r\na\r\n--b--\r\n")),
            Case("10,000 parts", form((part + b"\r\na\r\n") * 10_000 + b"--b--\r\n"), (400, 413)),
            Case("no end", form(part + b"\r\na\r\n")), Case("no boundary", form(part, "", "multipart/form-data")),
            Case("a boundary of 5 kB", form(part, "b" * 5000)), Case("empty", form(b"")),
            Case("no name", form(b"--b\r\n\r\na\r\n--b--\r\n")),
            Case("packed as base64", form(part + b"Content-Transfer-Encoding: base64\r\n\r\nYQ==\r\n--b--\r\n")),
        ]),
    ]  # fmt: skip


def _list_clients(quick: bool) -> list[Row]:
    def crowd(place: Place) -> Found:
        with open_idle(place.port, 1_000 if quick else _CONNECTIONS) as count:
            begun = time.perf_counter()
            told = as_json(talk(place.port, list_good()[0].request, patience=20))
            seconds = time.perf_counter() - begun
        right = isinstance(told, dict) and told.get("outputs", [{}])[0].get("data") == SUM
        return Found(f"200 beside {count:,}", "" if right else f"no answer beside {count:,} connections ({seconds:.1f} s)")

    return [
        Row(11, "10,000 connections that do nothing; pipelined requests", "bounded, others are served", [
            Case("idle", attempt=crowd), Case(f"{_PIPELINED} in one piece", attempt=_pipeline),
        ]),
    ]  # fmt: skip


@contextmanager
def open_idle(port: int, count: int) -> Iterator[int]:
    """So many connections that send nothing; how many of them were taken."""
    with ExitStack() as kept:
        lines = []
        for _ in range(count):
            line = kept.enter_context(socket.socket())
            line.setblocking(False)
            line.connect_ex(("127.0.0.1", port))
            lines.append(line)
            if len(lines) % 500 == 0:
                time.sleep(0.05)  # else the kernel drops what the queue has no room for, and asks again after a second
        time.sleep(1.0)
        yield sum(_is_open(line) for line in lines)


def _is_open(line: socket.socket) -> bool:
    try:
        line.getpeername()
    except OSError:
        return False
    return True


def _pipeline(place: Place) -> Found:
    one = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with connect(place.port) as line:
        line.sendall(one * (_PIPELINED - 1) + last)
        heard = b""
        while piece := line.recv(1 << 16):
            heard += piece
    count = heard.count(b"HTTP/1.1 200")
    return Found(f"{count} × 200", "" if count == _PIPELINED else f"{count} answers to {_PIPELINED} requests")


def drop_clients(port: int, request: bytes, count: int) -> None:
    """Send so many requests and go away without the answers."""
    for _ in range(count):
        with connect(port) as line:
            line.sendall(request)
            time.sleep(0.02)
