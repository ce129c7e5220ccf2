"""The parent: it keeps every worker's place filled, drains, and lets a new version take over. It imports no model, answers no request."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trimodal.errors import InputError, TrimodalError
from trimodal.serving.processes.crew import Crew, Version, Worker
from trimodal.serving.processes.events import EventLog
from trimodal.serving.processes.lineage import adopt_orphans, check_system, has_terminal
from trimodal.serving.processes.settings import ServeSettings
from trimodal.serving.processes.sockets import begin_listening, find_port, write_url
from trimodal.serving.processes.watching import read_marks, resolve_folders

FIRST_DELAY, MOST_DELAY = 0.1, 10.0
MOST_TRIES = 5
"""Before anything was ever ready."""
_EXIT_SECONDS = 5.0
_CLOSE_SECONDS = 5.0


class ServeError(TrimodalError):
    """The server could not be started, and not for what it was given."""


def find_delay(failures: int) -> float:
    """Seconds to wait before a worker is started again that has failed to start so many times in a row: 0, 0.1, 0.2, 0.4 … 10."""
    return 0.0 if failures == 0 else min(MOST_DELAY, FIRST_DELAY * 2.0 ** (failures - 1))


def supervise(settings: ServeSettings, listening: Sequence[socket.socket], log: EventLog) -> int:
    """Serve until told to end; the exit code. `listening` is closed then.

    Raises:
        InputError: a worker says that what it was given cannot be served.
        ServeError: workers end before any of them was ready.
    """
    check_system()
    adopt_orphans()
    return asyncio.run(Supervisor(settings, listening, log).run())


@dataclass(eq=False)
class Slot:
    """A place that is always filled. `successor` is a started worker that is to take it."""

    number: int
    worker: Worker | None = None
    successor: Worker | None = None
    handover: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """One run of the server."""

    def __init__(self, settings: ServeSettings, listening: Sequence[socket.socket], log: EventLog) -> None:
        self._settings, self._listening, self._log = settings, listening, log
        self._version = Version(1, resolve_folders(settings.folders))
        self._slots = [Slot(number) for number in range(settings.workers)]
        self._crew = Crew(settings, listening, log, self._notice, self._relieve)
        self._tasks: list[asyncio.Task[None]] = []
        self._rolling: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._roll_again = self._served = self._group_ready = False
        self._begun = time.monotonic()

    async def run(self) -> int:
        """Serve; the exit code."""
        loop = asyncio.get_running_loop()
        self._done: asyncio.Future[int] = loop.create_future()
        self._terminal = os.isatty(0)
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGTERM: lambda: self._stop(signal.SIGTERM), signal.SIGINT: lambda: self._stop(signal.SIGINT),
            signal.SIGHUP: self._hang_up, signal.SIGCHLD: self._crew.reap,
        }  # fmt: skip
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            self._crew.start_zygote()
            self._tasks = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
            self._tasks.append(asyncio.create_task(self._watch()))
            self._looking = asyncio.create_task(self._look())
            return await self._done
        finally:
            await self._clear_away()

    # Places

    async def _keep(self, slot: Slot) -> None:
        """Keep a place filled."""
        failures = 0
        while True:
            worker, slot.successor = slot.successor or await self._crew.start_worker(slot.number, self._version), None
            if not await worker.started:
                failures += 1
                self._give_up(worker, failures)
                await asyncio.sleep(find_delay(failures))
                continue
            failures, slot.worker = 0, worker
            self._notice()
            handed = asyncio.create_task(slot.handover.wait())
            await asyncio.wait((worker.ended, handed), return_when=asyncio.FIRST_COMPLETED)
            handed.cancel()
            if slot.handover.is_set():
                slot.handover.clear()
                self._retire(worker)

    def _give_up(self, worker: Worker, failures: int) -> None:
        """End the server where nothing has ever been served and there is no hope."""
        if self._served or self._done.done():
            return
        if worker.failure is not None:
            kind = InputError if worker.failure.code == InputError.exit_code else ServeError
            self._done.set_exception(kind(worker.failure.message))
        elif failures >= MOST_TRIES:
            self._done.set_exception(ServeError(f"workers end while they start, {failures} times in a row; the lines above tell how"))

    def _retire(self, worker: Worker) -> None:
        if not worker.ended.done():
            worker.phase = "retiring"
            worker.tell(end="retiring", seconds=self._settings.limits.drain_seconds)

    def _notice(self) -> None:
        """Tell workers whether all are ready, when that has changed."""
        ready = all(slot.worker is not None and not slot.worker.ended.done() and slot.worker.ready for slot in self._slots)
        if ready and not self._served and not self._listen():
            return
        changed, self._group_ready = ready != self._group_ready, ready
        for worker in self._crew.workers:
            if changed or worker.phase == "starting":
                worker.tell(group_ready=ready, accept=self._served)

    def _listen(self) -> bool:
        """Let connections come, now that all are ready; whether that was possible."""
        try:
            for one in self._listening:
                begin_listening(one)
        except InputError as error:
            if not self._done.done():
                self._done.set_exception(error)
            return False
        self._served = True
        settings, seconds = self._settings, round(time.monotonic() - self._begun, 2)
        url = write_url(settings.host, find_port(self._listening[0]))
        self._log.say(
            "serving", url=url, grpc_port=settings.grpc_port, workers=settings.workers, threads=settings.threads, seconds=seconds
        )
        return True

    async def _look(self) -> None:
        while True:
            self._crew.look()
            await asyncio.sleep(self._settings.beat_seconds)

    # A new version

    async def _watch(self) -> None:
        """Look whether the folders have changed, and have come to rest."""
        if not self._settings.watch_seconds:
            return
        known = seen = read_marks(self._settings.folders)
        while True:
            await asyncio.sleep(self._settings.watch_seconds)
            found = read_marks(self._settings.folders)
            if found != known and found == seen and self._served:
                known = found
                self._reload("a folder has changed")
            seen = found

    def _hang_up(self) -> None:
        """SIGHUP: a new version, or the terminal is gone that we were started in."""
        if self._terminal and not has_terminal():
            self._stop(signal.SIGHUP)
        else:
            self._reload("SIGHUP")

    def _reload(self, why: str) -> None:
        if self._crew.stopping or not self._served:
            return
        if self._rolling is not None and not self._rolling.done():
            self._roll_again = True
            return
        self._roll_again = False
        version = Version(self._version.number + 1, resolve_folders(self._settings.folders))
        self._log.say("reload", why=why, version=version.number)
        self._rolling = asyncio.create_task(self._roll(version))

    async def _roll(self, version: Version) -> None:
        """Replace worker by worker. The first proves the folders: until it is ready nothing else has changed."""
        for slot in self._slots:
            for failures in range(MOST_TRIES):
                await asyncio.sleep(find_delay(failures))
                if slot.worker is not None and slot.worker.version == version and not slot.worker.ended.done():
                    break  # it ended meanwhile, and was replaced by the new version
                candidate = await self._succeed(slot, version)
                if candidate is None:
                    break
                if self._version != version:
                    self._log.say("reload_refused", version=version.number, why=candidate, serving=self._version.number)
                    return
            self._version = version
        kept = [slot.number for slot in self._slots if slot.worker is None or slot.worker.version != version]
        self._log.say("reloaded" if not kept else "reload_incomplete", version=version.number, old_workers=kept or None)
        if self._roll_again:
            asyncio.get_running_loop().call_soon(self._reload, "it was asked for again")

    async def _succeed(self, slot: Slot, version: Version) -> str | None:
        """Start a worker that takes the place once it is ready; why it could not, else None."""
        candidate = await self._crew.start_worker(slot.number, version)
        if not await candidate.started:
            return candidate.failure.message if candidate.failure else "the new worker ended while it started"
        slot.successor = candidate
        slot.handover.set()
        while slot.worker is not candidate and not candidate.ended.done():
            await asyncio.sleep(0.01)
        return None

    def _relieve(self, worker: Worker) -> None:
        """A worker was told to end, by somebody else: another takes its place first."""
        slot = self._slots[worker.slot]
        if slot.worker is worker and not self._crew.stopping:
            self._log.say("worker_leaving", worker=worker.slot, pid=worker.pid)
            self._tasks.append(asyncio.create_task(self._relieve_now(slot)))

    async def _relieve_now(self, slot: Slot) -> None:
        why = await self._succeed(slot, self._version)
        if why is not None:
            self._log.say("worker_stays", worker=slot.number, why=why)

    # The end

    def _stop(self, number: int) -> None:
        """The first time drain, the second time end at once."""
        name = signal.Signals(number).name
        if self._crew.stopping:
            self._log.say("ending_at_once", signal=name)
            if not self._done.done():
                self._done.set_result(128 + number)
            return
        self._crew.stopping = True
        under_way = sum(worker.under_way for worker in self._crew.workers)
        self._log.say("draining", signal=name, under_way=under_way, seconds=self._settings.limits.drain_seconds)
        self._ending = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        """Refuse what comes, wait for what is under way, and end the workers."""
        for task in (*self._tasks, *([self._rolling] if self._rolling else [])):
            task.cancel()
        for worker in list(self._crew.workers):
            if worker.phase == "starting":
                worker.kill("all are ended")
            else:
                worker.phase = "draining"
                worker.tell(end="draining", seconds=self._settings.limits.drain_seconds)
        await self._wait(lambda: all(worker.idle for worker in self._crew.workers), self._settings.limits.drain_seconds + 1)
        for worker in self._crew.workers:
            worker.tell(close=True)
        await self._wait(lambda: not self._crew.workers, _CLOSE_SECONDS)
        self._log.say("ended", killed=len(self._crew.workers) or None)
        if not self._done.done():
            self._done.set_result(0)

    async def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not condition() and time.monotonic() < until:
            await asyncio.sleep(0.02)

    async def _clear_away(self) -> None:
        """Nothing of ours stays, however this ends."""
        for task in (*self._tasks, *([self._looking] if self._looking else [])):
            task.cancel()
        self._crew.kill_all()
        for one in self._listening:
            one.close()
        await self._wait(lambda: not self._crew.workers, _EXIT_SECONDS)
