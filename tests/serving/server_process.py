"""A server in a process of its own, as tests see it: its events, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import queue
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

PATIENCE = 40.0  # a busy machine


class Server:
    """A process that serves and writes its events as JSON, one per line, on standard error."""

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

    def wait_for(self, event: str, patience: float = PATIENCE, **fields: Any) -> dict[str, Any]:
        """The next event of this name with these fields."""
        until = time.monotonic() + patience
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
