"""A small application that workers of the tests host: it says which process answers, and can be slow, hang, or refuse to start."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from trimodal.errors import InputError
from trimodal.serving.computing import WatchedThread
from trimodal.serving.processes.hosting import Event, Receive, Scope, Send, Stoppable
from trimodal.serving.processes.settings import ServeSettings


def open_stub(settings: ServeSettings) -> StubApplication:
    return StubApplication(settings)


class StubApplication:
    """Serves the text of `version.txt` in its first folder."""

    def __init__(self, settings: ServeSettings) -> None:
        self._folder = Path(settings.folders[0])
        self.ready = False
        self._version = ""
        self._computing = WatchedThread("compute")

    @property
    def busy_seconds(self) -> float:
        return self._computing.busy_seconds

    async def start(self) -> None:
        self._version = (self._folder / "version.txt").read_text().strip()
        if self._version == "bad":
            raise InputError("version.txt says bad")
        if self._version == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        self.ready = True

    async def stop(self) -> None:
        self.ready = False

    async def start_grpc(self, host: str, port: int) -> Stoppable | None:
        return None

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path.startswith("/sleep/"):
            (self._folder / ".begun").touch()
            await asyncio.sleep(float(path.rpartition("/")[2]))
        elif path.startswith("/block/"):
            time.sleep(float(path.rpartition("/")[2]))
        elif path.startswith("/compute/"):  # as a call into a runtime: the event loop turns meanwhile
            await asyncio.get_running_loop().run_in_executor(self._computing, time.sleep, float(path.rpartition("/")[2]))
        body = b""
        more = scope["method"] == "POST" and path != "/early"
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event.get("body", b"")
            more = event.get("more_body", False)
        await _answer(send, f"{os.getpid()} {self._version} {len(body)} {os.getppid()}", 413 if path == "/early" else 200)


async def _answer(send: Send, text: str, status: int) -> None:
    headers: list[Any] = [(b"content-length", str(len(text)).encode())]
    start: Event = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": text.encode(), "more_body": False})
