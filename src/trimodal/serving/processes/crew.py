"""The workers that live: how the supervisor gets one, hears of it, and learns of its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client.multiprocess import mark_process_dead

from trimodal.serving.processes.channel import Channel, Message
from trimodal.serving.processes.events import EventLog
from trimodal.serving.processes.forking import ZygoteError, ask_for_worker, start_zygote
from trimodal.serving.processes.lineage import describe_end, is_there, kill_group, reap_children
from trimodal.serving.processes.settings import ServeSettings

_ZYGOTE_SECONDS = 1.0
_LATE_TICKS = 4
_MOST_UNCLAIMED = 1000


@dataclass(frozen=True)
class Version:
    """What is served, as folders whose links are resolved: a link that is turned elsewhere leaves them as they are."""

    number: int
    folders: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """Why a worker could not start, in its own words, and the exit code that they deserve."""

    message: str
    code: int


@dataclass(eq=False)
class Worker:
    """A worker as the supervisor sees it: the `slot`, from 0, that it fills, its process's `pid`, the requests `under_way`; `begun` and
    `heard` are seconds of the monotonic clock, when it was forked and last told that it lives.

    `busy` is for how many seconds one call into a runtime had run when it last said so.

    `started` becomes whether it could start, `ended` is done when it is no more."""

    slot: int
    version: Version
    channel: Channel | None
    heard: float
    begun: float
    started: asyncio.Future[bool]
    ended: asyncio.Future[None]
    phase: Literal["starting", "serving", "retiring", "draining"] = "starting"
    pid: int | None = None
    under_way: int = 0
    busy: float = 0.0
    ready: bool = False
    idle: bool = False
    failure: Failure | None = None
    killed_for: str | None = None

    def tell(self, **message: object) -> None:
        """Say something to it."""
        if self.channel is not None:
            self.channel.send(message)

    def kill(self, why: str) -> None:
        """Kill it and what it has started."""
        self.killed_for = self.killed_for or why
        if self.pid is not None:
            kill_group(self.pid)
        elif self.channel is not None:
            self.channel.close()


@dataclass(eq=False)
class Crew:
    """All workers, and the zygote that they come from. `on_change` is called when the state of one may have changed, `on_leaving` when
    one asks to be relieved.
    """

    settings: ServeSettings
    listening: Sequence[socket.socket]
    log: EventLog
    on_change: Callable[[], None]
    on_leaving: Callable[[Worker], None]
    workers: list[Worker] = field(default_factory=list)
    stopping: bool = False
    _zygote: subprocess.Popen[bytes] | None = None
    _control: socket.socket | None = None
    _zygote_begun: float = 0.0
    _unclaimed: dict[int, int] = field(default_factory=dict)
    _listening_tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _looked: float = 0.0

    def start_zygote(self) -> None:
        """Start the process that workers are forked from."""
        self._zygote_begun = self._now()
        self._zygote, self._control = start_zygote(self.settings, self.listening)

    async def start_worker(self, slot: int, version: Version) -> Worker:
        """Ask for a worker; whether it comes, `started` tells."""
        loop, now = asyncio.get_running_loop(), self._now()
        try:
            if self._control is None:
                raise ZygoteError("the process that workers are forked from is being started again")
            channel: Channel | None = Channel(ask_for_worker(self._control, slot, version.folders))
        except ZygoteError as error:
            self.log.say("fork_failed", worker=slot, message=str(error))
            channel = None
        worker = Worker(slot, version, channel, now, now, loop.create_future(), loop.create_future())
        self.workers.append(worker)
        if channel is None:
            self._end(worker, None)
            return worker
        await channel.open()
        task = asyncio.create_task(self._hear(worker, channel))
        self._listening_tasks.add(task)
        task.add_done_callback(self._listening_tasks.discard)
        return worker

    def reap(self) -> None:
        """Learn who has ended, as SIGCHLD tells."""
        for pid, code in reap_children():
            if self._zygote is not None and pid == self._zygote.pid:
                self._zygote.returncode = code
                self._lose_zygote(code)
                continue
            worker = next((one for one in self.workers if one.pid == pid), None)
            if worker is None:
                self._unclaimed[pid] = code  # of a worker that has not introduced itself yet, or of something that a worker left behind
                while len(self._unclaimed) > _MOST_UNCLAIMED:
                    del self._unclaimed[next(iter(self._unclaimed))]
            else:
                self._end(worker, code)

    def look(self) -> None:
        """Kill workers that say nothing, or hang in a runtime.

        Called often; where it was not, this process itself was held up, and they get time to be heard."""
        now, tick = self._now(), self.settings.beat_seconds
        held_up, self._looked = self._looked and now - self._looked > _LATE_TICKS * tick, now
        for worker in list(self.workers):
            if held_up:
                worker.heard = now
            elif worker.phase == "starting" and now - worker.begun > self.settings.start_seconds:
                worker.kill(f"it was not ready after {self.settings.start_seconds:g} seconds")
            elif worker.phase != "starting" and now - worker.heard > self.settings.hang_seconds:
                worker.kill(f"it said nothing for {self.settings.hang_seconds:g} seconds")
            elif worker.phase != "starting" and 0 < self.settings.limits.compute_seconds < worker.busy:
                worker.kill(f"one call into a runtime ran for {worker.busy:.1f} seconds; --compute-seconds says how long it may")

    def kill_all(self) -> None:
        """Kill every process; nobody is waited for."""
        self.stopping = True
        for worker in self.workers:
            worker.kill("all are ended")
        if self._zygote is not None:
            with suppress(ProcessLookupError):
                os.kill(self._zygote.pid, signal.SIGKILL)
        if self._control is not None:
            self._control.close()

    async def _hear(self, worker: Worker, channel: Channel) -> None:
        async for message in channel.read():
            worker.heard = self._now()
            self._take(worker, message)
        if worker.pid is None:
            self._end(worker, None)
        elif worker.pid in self._unclaimed:
            self._end(worker, self._unclaimed.pop(worker.pid))
        elif worker in self.workers:
            kill_group(worker.pid)  # it has closed its end, so it has ended or is about to; SIGCHLD tells how
            if not is_there(worker.pid):
                self._end(worker, None)

    def _take(self, worker: Worker, message: Message) -> None:
        if "hello" in message:
            worker.pid = message["hello"]
        elif "beat" in message:
            worker.under_way, worker.ready, worker.busy = message["beat"], message["ready"], message["busy"]
        elif "ready" in message:
            worker.phase = "serving" if worker.phase == "starting" else worker.phase
            self.log.say("worker_ready", worker=worker.slot, pid=worker.pid, version=worker.version.number, seconds=message["ready"])
            if not worker.started.done():
                worker.started.set_result(True)
        elif "failed" in message:
            worker.failure = Failure(message["failed"], message["code"])
        elif "idle" in message:
            worker.idle = True
        elif "leaving" in message:
            self.on_leaving(worker)
        self.on_change()

    def _end(self, worker: Worker, code: int | None) -> None:
        """It is no more: say so, and clear away what it left."""
        if worker.ended.done():
            return
        self.workers.remove(worker)
        if worker.pid is not None:
            kill_group(worker.pid)  # what it had started lives on in its group
            if self.settings.metrics:
                mark_process_dead(worker.pid, self.settings.metrics)
        if worker.channel is not None:
            worker.channel.close()
        self._say_end(worker, code)
        worker.ended.set_result(None)
        if not worker.started.done():
            worker.started.set_result(False)
        self.on_change()

    def _say_end(self, worker: Worker, code: int | None) -> None:
        how = describe_end(code) if code is not None else "before it was a process of its own"
        why = worker.killed_for or (worker.failure.message if worker.failure else None)
        lost = worker.under_way if code else 0
        expected = self.stopping or worker.phase in ("retiring", "draining")
        event = "worker_ended" if expected else "worker_lost" if worker.phase == "serving" else "worker_failed"
        self.log.say(event, worker=worker.slot, pid=worker.pid, how=how, why=why, under_way=lost or None)

    def _lose_zygote(self, code: int) -> None:
        """Start another: the workers that it forked are not its children, and live on."""
        if self._control is not None:
            self._control.close()
        self._zygote = self._control = None
        if self.stopping:
            return
        self.log.say("zygote_lost", how=describe_end(code))
        delay = _ZYGOTE_SECONDS if self._now() - self._zygote_begun < _ZYGOTE_SECONDS else 0.0
        asyncio.get_running_loop().call_later(delay, self._restart_zygote)

    def _restart_zygote(self) -> None:
        if not self.stopping and self._zygote is None:
            self.start_zygote()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
