"""From `trimodal serve --engine ray` to the program in Ray's environment, and to its end: nothing that Ray has started stays behind."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType

from trimodal.errors import InputError
from trimodal.runtimes.environment import Environment, make_command
from trimodal.serving.processes.lineage import adopt_orphans, check_system, die_with, has_terminal
from trimodal.serving.processes.serve import check_paths
from trimodal.serving.processes.settings import ServeSettings
from trimodal.serving.processes.sockets import bind_socket
from trimodal.serving.ray_engine.options import ENDING
from trimodal.serving.ray_engine.urgency import choose_niceness

RAY = Environment("ray", ("ray", "ray.serve", "torch", "starlette"))
_CLEAR_SECONDS = 5.0
_SECOND, _BY_SIGNAL = 2, 128


def run_on_ray(settings: ServeSettings) -> int:
    """Serve on Ray until told to end; the exit code.

    Raises:
        InputError: Ray is not installed, or something is asked for that it does not do; a folder, file, address or port cannot be used.
    """
    if settings.grpc_port is not None:
        raise InputError("--grpc-port is not served on Ray, which takes no other program's gRPC services; use --engine local")
    if settings.port == 0:
        raise InputError("--port 0 is not served on Ray; give a port")
    check_system()
    check_paths(settings)
    python = RAY.find_python()
    bind_socket(settings.host, settings.port).close()  # Ray would find out late, and try again and again
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="trimodal-ray-") as place:  # where replicas learn of the end
        return _run_driver(python, replace(settings, extra={**settings.extra, ENDING: place}))


def _run_driver(python: Path, settings: ServeSettings) -> int:
    own = os.getpid()
    command = make_command(python, "serving.ray_engine.driver:main", settings.to_json())
    # Ray's ports are open to every address of the machine, and whoever reaches them can run code: they ask for a token that none has.
    closed = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    usual = {"RAY_worker_niceness": str(choose_niceness())}
    surroundings = {**usual, **os.environ, **closed}
    driver = subprocess.Popen(command, process_group=0, preexec_fn=lambda: die_with(own), env=surroundings)
    ends, terminal = list[int](), os.isatty(0)

    def pass_on(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and terminal and not has_terminal():
            number = signal.SIGTERM
        if number != signal.SIGHUP:
            ends.append(number)
        driver.send_signal(number if len(ends) < _SECOND else signal.SIGKILL)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    try:
        code = driver.wait()
    finally:
        end_children()
    if len(ends) >= _SECOND and code < 0:
        return _BY_SIGNAL + ends[-1]
    return code if code >= 0 else _BY_SIGNAL - code


def end_children() -> None:
    """Kill what the driver has left: Ray's own processes outlive it where it was killed, and are children of this process then."""
    until = time.monotonic() + _CLEAR_SECONDS
    while (children := list_children()) and time.monotonic() < until:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def list_children() -> list[int]:
    """The processes whose parent is this one, also those that have ended and were not waited for."""
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
