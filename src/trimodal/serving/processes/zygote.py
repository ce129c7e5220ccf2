"""The process that workers are forked from: it has imported what they need, has one thread and no session of any runtime.

The supervisor starts it as `python -m trimodal.serving.processes.zygote CONTROL SUPERVISOR`, and sends a line of JSON and the worker's
end of a channel for each worker that it wants. A worker is forked twice, so that its parent ends at once and the supervisor adopts it.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from trimodal.serving.processes import worker
from trimodal.serving.processes.channel import Message
from trimodal.serving.processes.events import EventLog
from trimodal.serving.processes.lineage import die_with, wait_for_adoption
from trimodal.serving.processes.settings import ServeSettings, read_settings
from trimodal.serving.processes.shares import Shares

_MOST_BYTES = 1 << 20


def main(arguments: Sequence[str]) -> None:
    """Import, then fork a worker for each line, until the supervisor is gone."""
    control, supervisor = socket.socket(fileno=int(arguments[0])), int(arguments[1])
    die_with(supervisor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    lines = _Lines(control)
    first, _ = lines.read()
    if first is None:
        return
    settings = read_settings(first["settings"])
    listening = [socket.socket(fileno=number) for number in first["listening"]]
    log = EventLog(settings.json_log)
    shares = Shares(settings.workers)
    begun = time.monotonic()
    _import_all(settings.preload, log)
    log.say("imported", pid=os.getpid(), seconds=round(time.monotonic() - begun, 2), threads=_count_threads())
    while True:
        order, passed = lines.read()
        if order is None:
            return
        if passed:
            _fork_worker(settings, order, passed[0], listening, control, shares)


def _import_all(modules: Sequence[str], log: EventLog) -> None:
    """Import them; one that is not installed is left to whoever needs it. What is there then is not looked through for garbage, so that
    forks share it."""
    gc.disable()
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            log.say("import_failed", module=module, message=str(error))
    gc.collect()
    gc.freeze()
    gc.enable()
    if _count_threads() > 1:
        log.say("threads_before_fork", message="an import has started threads, which workers will not have", threads=_count_threads())


def _fork_worker(
    settings: ServeSettings, order: Message, channel: int, listening: Sequence[socket.socket], control: socket.socket,
    shares: Shares,
) -> None:
    between = os.fork()
    if between:
        os.close(channel)
        os.waitpid(between, 0)
        return
    try:
        if os.fork():
            os._exit(0)
        _become_worker(settings, order, socket.socket(fileno=channel), listening, control, shares)
    except BaseException as error:
        EventLog(settings.json_log).say("fork_failed", message=f"{type(error).__name__}: {error}")
        os._exit(1)


def _become_worker(
    settings: ServeSettings, order: Message, channel: socket.socket, listening: Sequence[socket.socket], control: socket.socket,
    shares: Shares,
) -> None:
    """The rest of a worker's life; does not return."""
    control.close()
    wait_for_adoption(order["supervisor"])
    die_with(order["supervisor"])
    os.setpgid(0, 0)
    code = 1
    try:
        code = worker.run(settings.with_folders(tuple(order["folders"])), order["slot"], channel, listening, shares)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Lines:
    """Lines of JSON, each with the file descriptors that came with it."""

    def __init__(self, control: socket.socket) -> None:
        self._control, self._rest, self._passed = control, b"", list[int]()

    def read(self) -> tuple[Message | None, list[int]]:
        while b"\n" not in self._rest:
            data, passed, _, _ = socket.recv_fds(self._control, _MOST_BYTES, 1)
            self._passed += passed
            if not data:
                return None, []
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        order = json.loads(line)
        if "slot" not in order:
            return order, []
        return order, [self._passed.pop(0)]


def _count_threads() -> int:
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 1


if __name__ == "__main__":
    main(sys.argv[1:])
