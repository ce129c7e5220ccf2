"""What stands before the application in a worker: it counts what is under way, and answers for it while it starts or ends."""

from __future__ import annotations

import json
from typing import Literal

from trimodal.serving.processes.hosting import Asgi, Event, Receive, Scope, Send

READY_ROUTE = "/v2/health/ready"
_ALWAYS = ("/v2/health/", "/metrics")
_OPENAI = "/v1/"
_RETRY_SECONDS = 1
_DRAINING = "this server is being shut down; ask again, another one answers"
_STARTING = "not every worker is ready"

Phase = Literal["serving", "retiring", "draining"]


class Gate:
    """An ASGI application around another one.

    Attributes:
        phase: `retiring` answers what still comes and closes its connections, since other workers take the new ones; `draining` refuses it.
        group_ready: whether all workers are ready, as the supervisor says.
        under_way: requests that have no whole answer yet.
    """

    def __init__(self, app: Asgi) -> None:
        self._app = app
        self.phase: Phase = "serving"
        self.group_ready = False
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path == READY_ROUTE and (self.phase == "draining" or not self.group_ready):
            await _refuse(path, _STARTING if self.phase == "serving" else _DRAINING, send)
        elif self.phase == "draining" and not path.startswith(_ALWAYS):
            await _refuse(path, _DRAINING, send)
        else:
            await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_marked(event: Event) -> None:
            if event["type"] == "http.response.start" and self.phase != "serving":
                event = {**event, "headers": [*event.get("headers", ()), (b"connection", b"close")]}
            await send(event)

        self.under_way += 1
        try:
            await self._app(scope, receive, send_marked)
        finally:
            self.under_way -= 1


async def _refuse(path: str, message: str, send: Send) -> None:
    """503 in the words of the protocol that the path belongs to."""
    error = {"message": message, "type": "server_error", "param": None, "code": "unavailable"} if path.startswith(_OPENAI) else message
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
        (b"retry-after", str(_RETRY_SECONDS).encode()), (b"connection", b"close"),
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
