"""Connections are parted among workers, and one that is alone or beside dead ones takes all."""

from __future__ import annotations

import asyncio
import os

from trimodal.serving.limits import Limits
from trimodal.serving.processes.acceptor import Acceptor
from trimodal.serving.processes.events import EventLog
from trimodal.serving.processes.gate import Gate
from trimodal.serving.processes.hosting import Receive, Scope, Send
from trimodal.serving.processes.shares import Shares
from trimodal.serving.processes.sockets import begin_listening, bind_socket, find_port
from trimodal.serving.processes.worker import make_config


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Nobody asks anything here."""


def open_connections(count: int, stale: int | None = None) -> list[int]:
    """How many of so many connections two workers get; with `stale` the other one has died with so many."""

    async def main() -> list[int]:
        listening, shares = bind_socket("127.0.0.1", 0), Shares(2)
        begin_listening(listening)
        doors = [listening.dup(), listening.dup()]  # an event loop knows one reader for each
        made = [Acceptor([doors[slot]], make_config(Gate(application)), Limits(), EventLog(), shares, slot) for slot in (0, 1)]
        for acceptor in made[: 2 if stale is None else 1]:
            acceptor.start()
        if stale is not None:
            shares.tell(1, stale)
        opened = [await asyncio.open_connection("127.0.0.1", find_port(listening)) for _ in range(count)]
        while sum(counts := [len(acceptor.state.connections) for acceptor in made]) < count:
            await asyncio.sleep(0.001)
        for acceptor in made:
            acceptor.stop()
            acceptor.abort_all()
        for _, writer in opened:
            writer.close()
        for one in (listening, *doors):
            one.close()
        return counts

    return asyncio.run(asyncio.wait_for(main(), 60))


def test_two_workers_share() -> None:
    one, other = open_connections(16)
    assert abs(one - other) <= 2  # a connection that is being opened counts twice for a moment


def test_a_worker_that_died_is_waited_for_but_shortly() -> None:
    assert open_connections(8, stale=0) == [8, 0]


def test_numbers_are_seen_by_forks() -> None:
    shares = Shares(3)
    child = os.fork()
    if not child:
        shares.tell(2, 5)
        os._exit(0)
    os.waitpid(child, 0)
    assert shares.has_fewer(0, 6) and not shares.has_fewer(0, 5) and not shares.has_fewer(2, 6)
    shares.tell(2, None)
    assert not shares.has_fewer(0, 6)
    shares.tell(7, 1)  # more workers than were meant: nobody waits for them
