"""What every route shares: the service, the reader of bodies, and how a request is carried through to its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from trimodal.serving.http.bodies import BodyReader
from trimodal.serving.http.errors import ClientGoneError, answer_fault, answer_refusal
from trimodal.serving.http.lingering import LingeringResponse, has_unread_body, waits_for_leave
from trimodal.serving.http.metrics import Metrics
from trimodal.serving.http.settings import Settings
from trimodal.serving.http.tracing import open_span
from trimodal.serving.limits import Limits
from trimodal.serving.refusals import RefusedError
from trimodal.serving.service import Service

Result = TypeVar("Result")

_LARGE = 256 * 1024

GONE = 499
"""The status in the metrics of a request whose client went away."""


@dataclass(frozen=True)
class Door:
    """What routes work with."""

    service: Service
    settings: Settings
    reader: BodyReader
    metrics: Metrics

    @property
    def limits(self) -> Limits:
        """How much a client may ask for."""
        return self.service.limits


Endpoint = Callable[[Door, Request], Awaitable[ASGIApp]]


def make_route(door: Door, path: str, endpoint: Endpoint, methods: Sequence[str] = ("GET",)) -> Route:
    """The route at `path`, whose refusals and faults become answers, and which is counted under its pattern."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), [GONE]

        async def send_noted(message: Any) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        with open_span(path, scope) as span:
            try:
                response = await _find_response(door, endpoint, Request(scope, receive))
                if response is not None:
                    await response(scope, receive, send_noted)
            finally:
                span.note(status[0], scope.get("trimodal.model", ""))
                door.metrics.note(path, scope.get("trimodal.model", ""), status[0], time.perf_counter() - started)

    return Route(path, _AsApp(handle), methods=list(methods))


class _AsApp:
    """An ASGI app as Starlette tells it from a function that takes a request: by not being a function."""

    def __init__(self, handle: ASGIApp) -> None:
        self.handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.handle(scope, receive, send)


async def _find_response(door: Door, endpoint: Endpoint, request: Request) -> ASGIApp | None:
    try:
        return await endpoint(door, request)
    except ClientGoneError:
        return None
    except RefusedError as refused:
        response = answer_refusal(refused, request.scope["path"])
    except Exception as error:
        response = answer_fault(error, request.scope["path"])
    return close_unread(response, request.scope)


def close_unread(response: Response, scope: Scope) -> ASGIApp:
    """`response`, with the end of the connection where the request's body has not been read; who is slow is not waited for."""
    if not has_unread_body(scope):
        return response
    response.headers["Connection"] = "close"
    return response if response.status_code == 408 or waits_for_leave(scope) else LingeringResponse(response)


async def work_for(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled where the client goes away. The body must have been read.

    Raises:
        ClientGoneError: the client went away.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(wait_until_gone(request.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        for future in (task, gone):
            future.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def wait_until_gone(receive: Receive) -> None:
    """Come back when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_apart(body: bytes, read: Callable[[bytes], Result]) -> Result:
    """What `read` makes of `body`; of a large one in a thread, so that others are answered meanwhile."""
    return await asyncio.to_thread(read, body) if len(body) > _LARGE else read(body)


def note_model(request: Request, name: str) -> None:
    """Let the request be counted for the served model `name`."""
    request.scope["trimodal.model"] = name
