"""Load that does not wait for answers: requests are sent at times that were drawn before, and latency counts from those times.

A client that sends the next request when the last was answered slows down with the server, and hides what it meant to measure. This one
is a few sockets and an event loop, so that it takes little of the two cores that the server has too.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

REFUSED = (429, 503)
BROKEN, NOT_OPENED, WRONG = 0, -1, -2


@dataclass(frozen=True)
class Target:
    """A server's port, a whole request as bytes, and whether the body of an answer is right."""

    port: int
    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    is_right: Callable[[bytes], bool] = lambda body: True

    @property
    def request(self) -> bytes:
        """The request with its head."""
        headers = (("Host", "localhost"), ("Content-Length", str(len(self.body))), *self.headers)
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
        return "\r\n".join(lines).encode() + self.body


@dataclass(frozen=True)
class Load:
    """What came of it: seconds from when a request was due to its answer, of those with status 200; the statuses; and of those
    that are not 200 when the request was due, when its answer came, and what it was. 0 counts connections that broke and answers that
    never came, -1 connections that could not be opened, -2 wrong answers."""

    rate: float
    seconds: float
    latencies: Sequence[float]
    statuses: Counter[int]
    others: Sequence[tuple[float, float, int]] = ()

    @property
    def answered_per_second(self) -> float:
        """Answers of status 200 in a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """The latency that `share` of the answers stay below, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("inf")

    @property
    def refused_share(self) -> float:
        """The share of requests that were turned away."""
        return sum(self.statuses[status] for status in REFUSED) / max(sum(self.statuses.values()), 1)


class _Connections:
    """Connections that are kept, a new one where none is free."""

    def __init__(self, target: Target) -> None:
        self._port, self._is_right = target.port, target.is_right
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> int:
        """Send one request; its status, or what `Load` says in its place."""
        try:
            reader, writer = self._take_free() or await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        except OSError:
            return NOT_OPENED
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            lowered = head.lower()
            if b"transfer-encoding: chunked" in lowered:
                body = b""
                while size := int((await reader.readline()).strip() or b"0", 16):
                    body += (await reader.readexactly(size + 2))[:-2]
                await reader.readline()
            else:
                begin = lowered.index(b"content-length:") + 15
                body = await reader.readexactly(int(lowered[begin : lowered.index(b"\r\n", begin)]))
        except (OSError, asyncio.IncompleteReadError, ValueError, asyncio.LimitOverrunError):
            writer.close()
            return BROKEN
        except asyncio.CancelledError:
            writer.close()
            raise
        if b"connection: close" in lowered:
            writer.close()
        else:
            self._free.append((reader, writer))
        status = int(head.split(b" ", 2)[1])
        return status if status != 200 or self._is_right(body) else WRONG

    def _take_free(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A kept connection that the server has not ended, as every client looks before it uses one again."""
        while self._free:
            reader, writer = self._free.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    def close(self) -> None:
        """Close what is kept."""
        for _, writer in self._free:
            writer.close()


async def send_openly(target: Target, rate: float, seconds: float, seed: int, warm_up: float = 2.0, patience: float = 10.0) -> Load:
    """Requests at `rate` a second (a Poisson process of `seed`) for `warm_up` + `seconds`; the first are not counted. What is not answered
    `patience` seconds after the end is given up."""
    chance, connections, request = random.Random(seed), _Connections(target), target.request
    others = list[tuple[float, float, int]]()
    latencies, statuses, under_way = list[float](), Counter[int](), set[asyncio.Task[None]]()
    begin = time.perf_counter()
    due = 0.0

    async def ask(at: float) -> None:
        status = await connections.ask(request)
        if at >= warm_up:
            statuses[status] += 1
            if status == 200:
                latencies.append(time.perf_counter() - begin - at)
            else:
                others.append((at, time.perf_counter() - begin, status))

    while (due := due + chance.expovariate(rate)) < warm_up + seconds:
        if (wait := begin + due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(ask(due))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    if under_way:
        _, late = await asyncio.wait(under_way, timeout=patience)
        for task in late:
            task.cancel()
            statuses[0] += 1
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*late, return_exceptions=True)
    connections.close()
    return Load(rate, seconds, latencies, statuses, others)


async def measure_capacity(target: Target, clients: int = 16, seconds: float = 6.0, warm_up: float = 2.0) -> float:
    """Answers in a second when `clients` ask again as soon as they are answered. One that is turned away waits for 20 ms."""
    connections, request, done, begin = _Connections(target), target.request, 0, time.perf_counter()

    async def ask() -> None:
        nonlocal done
        while (now := time.perf_counter() - begin) < warm_up + seconds:
            if await connections.ask(request) == 200:
                done += now >= warm_up
            else:
                await asyncio.sleep(0.02)

    await asyncio.gather(*(ask() for _ in range(clients)))
    connections.close()
    return done / seconds
