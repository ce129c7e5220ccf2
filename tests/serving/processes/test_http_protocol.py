"""What is no request, or never becomes one, over real sockets of this machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from trimodal.serving.limits import Limits
from trimodal.serving.processes.acceptor import Acceptor
from trimodal.serving.processes.events import EventLog
from trimodal.serving.processes.gate import Gate
from trimodal.serving.processes.hosting import Event, Receive, Scope, Send
from trimodal.serving.processes.http_protocol import MOST_HEADERS
from trimodal.serving.processes.sockets import begin_listening, bind_socket, find_port
from trimodal.serving.processes.worker import make_config

LIMITS = Limits(header_seconds=0.3, header_bytes=4096, connections=4, body_seconds=0.5)
GOOD = b"GET /good HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body; `/early` before it has read one, `/large` with what no buffer holds; `/head`
    keeps the body back for as long as somebody waits for it."""
    body = b""
    more = scope["path"] != "/early"
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body += event.get("body", b"")
        more = event.get("more_body", False)
    text = b"x" * (32 << 20) if scope["path"] == "/large" else str(len(body)).encode()
    headers = [(b"content-length", str(len(text)).encode())]
    start: Event = {"type": "http.response.start", "status": 413 if scope["path"] == "/early" else 200, "headers": headers}
    await send(start)
    while scope["path"] == "/head" and (await receive())["type"] != "http.disconnect":
        pass
    await send({"type": "http.response.body", "body": text, "more_body": False})


@asynccontextmanager
async def serving(limits: Limits = LIMITS) -> AsyncIterator[tuple[int, Acceptor, Gate]]:
    listening = bind_socket("127.0.0.1", 0)
    begin_listening(listening)
    gate = Gate(application)
    gate.group_ready = True
    acceptor = Acceptor([listening], make_config(gate), limits, EventLog())
    acceptor.start()
    try:
        yield find_port(listening), acceptor, gate
    finally:
        acceptor.stop()
        acceptor.abort_all()
        listening.close()


async def exchange(port: int, *parts: bytes) -> bytes:
    """Send the parts, then read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    found = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return found


async def ask_good(port: int) -> bytes:
    return await exchange(port, GOOD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))


def run(test: Callable[[int, Acceptor, Gate], Awaitable[None]], limits: Limits = LIMITS) -> None:
    async def main() -> None:
        async with serving(limits) as (port, acceptor, gate):
            await test(port, acceptor, gate)
            assert b"200 OK" in await ask_good(port)

    asyncio.run(main())


REFUSED = {
    "a header above the limit": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 5000 + b"\r\n\r\n", 431),
    "a megabyte of header": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1_000_000, 431),
    "too many headers": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * (MOST_HEADERS + 1) + b"\r\n", 431),
    "a negative length": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
    "length and chunks": (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a coding that is not known": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: rot13\r\n\r\n", 501),
    "a target without a slash": (b"GET @elsewhere HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "a host that is none": (b"GET / HTTP/1.1\r\nHost: a/b@c\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "no request at all": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    "a chunk whose size is none": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "half a head and silence": (b"GET / HTTP/1.1\r\nHost: a\r\nX-Half: ", 408),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_is_refused_and_the_connection_closed(name: str) -> None:
    sent, status = REFUSED[name]

    async def test(port: int, acceptor: Acceptor, gate: Gate) -> None:
        found = await exchange(port, sent)
        assert found.startswith(f"HTTP/1.1 {status} ".encode()) and b'{"error": "' in found and b"connection: close" in found.lower()

    run(test)


def test_silence_is_closed() -> None:
    async def test(port: int, acceptor: Acceptor, gate: Gate) -> None:
        assert await exchange(port) == b""

    run(test)


def test_a_dripped_head_is_closed() -> None:
    async def test(port: int, acceptor: Acceptor, gate: Gate) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        dripping = asyncio.create_task(_drip(writer))
        assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 408")
        dripping.cancel()

    run(test)


async def _drip(writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
    while True:
        writer.write(b"x")
        await asyncio.sleep(0.02)


def test_the_second_request_of_a_connection_has_its_own_deadline() -> None:
    async def test(port: int, acceptor: Acceptor, gate: Gate) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GOOD)
        assert await reader.readuntil(b"\r\n\r\n0")
        writer.write(GOOD[:20])
        assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 408")

    run(test)


def test_pipelined_requests_are_answered_in_order() -> None:
    async def test(port: int, acceptor: Acceptor, gate: Gate) -> None:
        post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
        last = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc"
        found = await exchange(port, post % (1, b"a") + post % (2, b"ab") + last)
        assert [part.rpartition(b"\r\n\r\n")[2] for part in found.split(b"HTTP/1.1")[1:]] == [b"1", b"2", b"3"]

    run(test)


def test_a_head_and_a_body_come_together_and_a_head_alone_does_not_wait() -> None:
    async def test(port: int, acceptor: Acceptor, gate: Gate) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GOOD)
        assert (await asyncio.wait_for(reader.read(1000), 20)).endswith(b"\r\n\r\n0")
        writer.write(GOOD.replace(b"/good", b"/head"))
        assert (await asyncio.wait_for(reader.read(1000), 20)).endswith(b"\r\n\r\n")
        writer.close()

    run(test)


def test_an_answer_reaches_a_client_that_is_still_sending() -> None:
    async def test(port: int, acceptor: Acceptor, gate: Gate) -> None:
        head = b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"
        found = await exchange(port, head, b"x" * 3_000_000)
        assert found.startswith(b"HTTP/1.1 413")

    run(test)


def test_an_answer_that_nobody_reads_is_given_up() -> None:
    async def test(port: int, acceptor: Acceptor, gate: Gate) -> None:
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(GOOD.replace(b"/good", b"/large"))
        while not acceptor.count:
            await asyncio.sleep(0.01)
        for _ in range(1000):
            if not acceptor.count:
                break
            await asyncio.sleep(0.01)
        assert acceptor.count == 0
        client.close()

    run(test)


def test_connections_that_do_nothing_make_room_for_those_that_ask() -> None:
    async def test(port: int, acceptor: Acceptor, gate: Gate) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
        for _ in range(3):
            assert b"200 OK" in await ask_good(port)
        assert acceptor.count <= 4
        for _, writer in idle:
            writer.close()

    run(test, Limits(header_seconds=30.0, connections=4))


def test_where_all_connections_are_busy_a_new_one_waits_for_its_turn() -> None:
    async def test(port: int, acceptor: Acceptor, gate: Gate) -> None:
        busy = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for _, writer in busy:
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12")
        while gate.under_way < 4:
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(ask_good(port))
        await asyncio.sleep(0.1)
        assert acceptor.count == 4 and not waiting.done()
        busy[0][1].write(b"345")
        assert await busy[0][0].readuntil(b"\r\n\r\n5")
        busy[0][1].close()
        assert b"200 OK" in await asyncio.wait_for(waiting, 20)
        for _, writer in busy[1:]:
            writer.close()

    run(test, Limits(header_seconds=30.0, connections=4))


@pytest.mark.parametrize(("phase", "status"), [("retiring", 200), ("draining", 503)])
def test_a_worker_that_ends_closes_connections_with_their_next_answer(phase: str, status: int) -> None:
    async def test(port: int, acceptor: Acceptor, gate: Gate) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GOOD)
        assert await reader.readuntil(b"\r\n\r\n0")
        gate.phase = phase  # type: ignore[assignment]
        writer.write(GOOD)
        found = await asyncio.wait_for(reader.read(), 20)
        assert found.startswith(f"HTTP/1.1 {status}".encode()) and b"connection: close" in found
        gate.phase = "serving"

    run(test)


def test_not_ready_before_all_workers_are() -> None:
    async def test(port: int, acceptor: Acceptor, gate: Gate) -> None:
        gate.group_ready = False
        ready = GOOD.replace(b"/good", b"/v2/health/ready").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert (await exchange(port, ready)).startswith(b"HTTP/1.1 503")

    run(test)
