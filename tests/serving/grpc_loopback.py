"""The gRPC servicer on a real port of loopback."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from fake_service import FakeService

from trimodal.serving.grpc.server import make_grpc_server


class GrpcServed:
    """The servicer in a thread."""

    def __init__(
        self, service: FakeService, keys: tuple[str, ...] = (), count: Callable[[str], None] | None = None
    ) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(service, keys, count), self.loop).result(10)

    async def _start(self, service: FakeService, keys: tuple[str, ...], count: Callable[[str], None] | None) -> int:
        self.server = make_grpc_server(service, keys, count)
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return port

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.stop(None), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
