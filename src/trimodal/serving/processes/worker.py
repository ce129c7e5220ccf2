"""A worker, from the fork to its end: it opens the service, answers, tells that it lives, and ends when nothing is under way."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from email.utils import formatdate
from typing import Any

from uvicorn.config import Config

from trimodal.errors import TrimodalError
from trimodal.serving.processes.acceptor import Acceptor
from trimodal.serving.processes.channel import Channel
from trimodal.serving.processes.events import EventLog
from trimodal.serving.processes.gate import Gate, Phase
from trimodal.serving.processes.hosting import Application, Stoppable, load_factory
from trimodal.serving.processes.settings import ServeSettings
from trimodal.serving.processes.shares import Shares

_LOOK_SECONDS = 0.02
_FLUSH_SECONDS = 2.0
_SWITCH_SECONDS = 0.0005
"""After which the event loop lets go of Python for a batch that is done: with the usual 5 ms the model stands still for as long."""
_FAILED = 3


def run(settings: ServeSettings, slot: int, channel: socket.socket, listening: Sequence[socket.socket], shares: Shares) -> int:
    """Be a worker until the end; the exit code."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the supervisor, which decides
    _draw_other_numbers()
    sys.setswitchinterval(_SWITCH_SECONDS)
    log = EventLog(settings.json_log, worker=slot, pid=os.getpid())
    log.take_logging()
    return asyncio.run(_Worker(settings, slot, Channel(channel), listening, shares, log).run())


def _draw_other_numbers() -> None:
    """Make random numbers differ between workers: a fork copies the state of libraries' generators."""
    random.seed()
    for module in ("numpy.random", "torch"):
        loaded = sys.modules.get(module)
        if loaded is not None:
            loaded.seed()


class _Worker:
    def __init__(
        self, settings: ServeSettings, slot: int, channel: Channel, listening: Sequence[socket.socket], shares: Shares, log: EventLog
    ) -> None:
        self._settings, self._channel, self._listening, self._log = settings, channel, listening, log
        self._slot, self._shares = slot, shares
        self._ending = asyncio.Event()
        self._closing = asyncio.Event()
        self._gate: Gate | None = None
        self._acceptor: Acceptor | None = None
        self._group_ready = self._may_accept = False
        self._phase: Phase = "serving"
        self._seconds = settings.limits.drain_seconds

    async def run(self) -> int:
        await self._channel.open()
        self._channel.send({"hello": os.getpid()})
        begun = time.monotonic()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._leave)
        orders = asyncio.create_task(self._take_orders())
        application = await self._open()
        if application is None:
            return _FAILED
        self._gate = gate = Gate(application.app)
        gate.group_ready, gate.phase = self._group_ready, "serving"
        acceptor = Acceptor(self._listening, make_config(gate), self._settings.limits, self._log, self._shares, self._slot)
        grpc = await self._start_grpc(application)
        beating = asyncio.create_task(self._beat(application, gate, acceptor))
        self._acceptor = acceptor
        if self._may_accept:
            acceptor.start()
        self._channel.send({"ready": round(time.monotonic() - begun, 3)})
        await self._ending.wait()
        await self._finish(application, gate, acceptor, grpc)
        for task in (orders, beating):
            task.cancel()
        return 0

    async def _open(self) -> Application | None:
        """What is served, started; None where it cannot be, which has been told."""
        try:
            application = load_factory(self._settings.factory)(self._settings)
            await application.start()
            return application
        except TrimodalError as error:
            await self._tell_failure(str(error), error.exit_code)
        except Exception as error:
            self._log.say("start_failed", trace=traceback.format_exc())
            await self._tell_failure(f"{type(error).__name__}: {error}", 1)
        return None

    async def _tell_failure(self, message: str, code: int) -> None:
        self._channel.send({"failed": message, "code": code})
        await asyncio.sleep(0)  # the line is written when the loop comes round

    async def _start_grpc(self, application: Application) -> Stoppable | None:
        port = self._settings.grpc_port
        return None if port is None else await application.start_grpc(self._settings.host, port)

    async def _take_orders(self) -> None:
        """What the supervisor says, until it is gone."""
        async for order in self._channel.read():
            self._take_order(order)
        self._ending.set()
        self._closing.set()

    def _take_order(self, order: dict[str, Any]) -> None:
        if "group_ready" in order:
            self._group_ready, self._may_accept = order["group_ready"], order["accept"]
            if self._gate is not None:
                self._gate.group_ready = self._group_ready
            if self._acceptor is not None and self._may_accept and not self._ending.is_set():
                self._acceptor.start()
        elif "end" in order:
            self._phase, self._seconds = order["end"], order["seconds"]
            self._ending.set()
        elif "close" in order:
            self._closing.set()

    def _leave(self) -> None:
        """SIGTERM to this worker alone: another takes its place, what it has begun it ends."""
        self._channel.send({"leaving": True})

    async def _beat(self, application: Application, gate: Gate, acceptor: Acceptor) -> None:
        """Tell that this event loop turns, and what it has to do."""
        while True:
            acceptor.state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
            busy = round(application.busy_seconds, 3)
            self._channel.send({"beat": gate.under_way, "connections": acceptor.count, "ready": application.ready, "busy": busy})
            await asyncio.sleep(self._settings.beat_seconds)

    async def _finish(self, application: Application, gate: Gate, acceptor: Acceptor, grpc: Stoppable | None) -> None:
        """Retiring: accept no more, answer what comes over what is open. Draining: refuse, until the supervisor says that all are done."""
        until = time.monotonic() + self._seconds
        gate.phase = self._phase
        ending = asyncio.create_task(grpc.stop(self._seconds)) if grpc is not None else None
        if gate.phase == "retiring":
            acceptor.stop()

        def has_work() -> bool:
            return bool(gate.under_way or (ending and not ending.done()) or (gate.phase == "retiring" and acceptor.count))

        noticed = time.monotonic() + (self._settings.notice_seconds if gate.phase == "draining" else 0.0)
        while time.monotonic() < until and (has_work() or time.monotonic() < noticed):
            await asyncio.sleep(_LOOK_SECONDS)
        if gate.phase == "draining":
            self._channel.send({"idle": gate.under_way})
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), max(0.0, until - time.monotonic()) + _FLUSH_SECONDS)
        if gate.under_way:
            self._log.say("cut_off", requests=gate.under_way, seconds=self._seconds)
        await _close_connections(acceptor)
        await application.stop()


async def _close_connections(acceptor: Acceptor) -> None:
    """Refuse what still waits to be accepted, let answers flow out, then end every connection."""
    await asyncio.sleep(_LOOK_SECONDS)
    acceptor.stop()
    await asyncio.sleep(_LOOK_SECONDS)
    acceptor.close_idle()
    until = time.monotonic() + _FLUSH_SECONDS
    while acceptor.count and time.monotonic() < until:
        await asyncio.sleep(_LOOK_SECONDS)
    acceptor.abort_all()


def make_config(gate: Gate) -> Config:
    """What uvicorn is told of an application behind a gate."""
    return Config(gate, http="h11", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False, proxy_headers=False)
