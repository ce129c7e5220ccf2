"""A real service in processes of its own: who they are, and how much memory they have."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.load import find_port, wait_until_ready


@dataclass(frozen=True)
class Running:
    """The process that was started, the ports, and what it wrote; gRPC's port is 0 where it is not served."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    grpc_port: int = 0

    def list_workers(self) -> list[int]:
        """The processes that answer now, the last ready ones first."""
        ready = [int(pid) for pid in re.findall(r"worker_ready .*?pid=(\d+)", self.log.read_text())]
        return [pid for pid in reversed(ready) if Path(f"/proc/{pid}").exists()]

    def count(self, event: str) -> int:
        """How often an event was written."""
        return len(re.findall(rf"Z {event} ", self.log.read_text()))

    def measure_memory(self) -> int:
        """Bytes of the supervisor, workers, zygote and decoders; what several share counts once (PSS)."""
        return sum(read_memory(pid) for pid in list_family(self.process.pid))


def list_family(pid: int) -> list[int]:
    """The process and all below it."""
    try:
        children = " ".join(task.joinpath("children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()).split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in list_family(int(child)))]


def read_memory(pid: int) -> int:
    """Bytes of one process, shared ones by how many share them; 0 where it has just ended."""
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


@contextmanager
def run_service(models: Mapping[str, Path], scratch: Path, *options: str, workers: int = 2) -> Iterator[Running]:
    """`trimodal serve` of the models, ready; ended afterwards."""
    port, grpc_port, log = find_port(), find_port(), scratch / f"log{time.monotonic_ns()}"
    named = [f"{name}={folder}" for name, folder in models.items()]
    command = [*make_command(*named), "--port", str(port), "--grpc-port", str(grpc_port), "--workers", str(workers), "--threads", "1",
        *options]
    with hold_service(command, port, log, grpc_port=grpc_port) as running:
        yield running


@contextmanager
def hold_service(command: list[str], port: int, log: Path, grpc_port: int = 0, sink: Path | None = None) -> Iterator[Running]:
    """What `command` serves, ready; ended afterwards. What it says goes to `log`, or to `sink` in its place."""
    with (sink or log).open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=make_surroundings(), process_group=0)
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}/v2/health/ready", log)
            yield Running(process, port, log, grpc_port)
        finally:
            end(process)


def make_command(*arguments: str) -> list[str]:
    """`trimodal serve …`"""
    return [sys.executable, "-m", "trimodal", "serve", *arguments]


def make_surroundings() -> dict[str, str]:
    """The environment, with the same source as here."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def end(process: subprocess.Popen[bytes]) -> None:
    """Drain it; kill it where that takes too long."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
