"""A real server of the stub application in processes of its own, for tests: its events, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCE = HERE.parents[2] / "src"
PATIENCE = 40.0  # a busy machine
PROGRAM = """
import json
import sys
from trimodal.serving.limits import Limits
from trimodal.serving.processes.serve import serve
from trimodal.serving.processes.settings import ServeSettings
given = json.loads(sys.argv[1])
given["limits"] = Limits(**given.get("limits", {}))
given["preload"] = tuple(given["preload"])
sys.exit(serve(ServeSettings(tuple(given.pop("folders")), port=0, json_log=True, factory="stub_application:open_stub", **given)))
"""


class Server:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.seen: list[dict[str, Any]] = []
        self._new: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.port = 0

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._new.put(json.loads(line) if line.startswith("{") else {"event": "text", "text": line})
        self._new.put({"event": "closed"})

    def wait_for(self, event: str, **fields: Any) -> dict[str, Any]:
        """The next event of this name with these fields."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                found = self._new.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {event} {fields}; seen: {self.seen}") from None
            self.seen.append(found)
            if found["event"] == event and all(found.get(name) == value for name, value in fields.items()):
                return found
            assert found["event"] != "closed", f"ended before {event} {fields}; seen: {self.seen}"

    def ask(self, path: str = "/", method: str = "GET", body: bytes | None = None) -> tuple[int, str]:
        """Status and text, over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def find_workers(self) -> set[int]:
        """The workers that are the supervisor's children now."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        children = {int(pid) for pid in task.read_text().split()}
        return {pid for pid in children if "trimodal.serving.processes.zygote" in read_command(pid)} - self.find_zygotes()

    def find_zygotes(self) -> set[int]:
        return {event["pid"] for event in self.seen if event["event"] == "imported"}

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)


def read_command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.02)


@contextmanager
def running(folder: Path, *, version: str = "one", **settings: Any) -> Iterator[Server]:
    """A server of `folder`, ready; killed afterwards if it still runs."""
    (folder / "version.txt").write_text(version)
    given = json.dumps({"folders": [str(folder)], "workers": 2, "preload": ["trimodal.serving.processes.worker"], **settings})
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join((str(SOURCE), str(HERE)))}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, given], stderr=subprocess.PIPE, text=True, env=surroundings)
    server = Server(process)
    try:
        if version not in ("bad", "crash"):
            server.port = int(server.wait_for("serving")["url"].rpartition(":")[2])
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
