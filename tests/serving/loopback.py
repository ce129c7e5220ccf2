"""An app on a real port of loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

import uvicorn


class Served:
    """An app that is served in a thread until `close`; `service`, where it has one, begins and ends in the same loop."""

    def __init__(self, app: Any, http: str = "httptools", service: Any = None) -> None:
        self.service = service
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.server = uvicorn.Server(
            uvicorn.Config(app, log_level="error", http=http, lifespan="off", ws="none", timeout_graceful_shutdown=1)
        )
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self._wait(10)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        if self.service is not None:
            await self.service.start()
        await self.server.serve(sockets=[self.socket])
        if self.service is not None:
            await self.service.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)

    def _wait(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.01)):
            if self.server.started:
                return
            time.sleep(0.01)
        raise TimeoutError("the server did not start")
