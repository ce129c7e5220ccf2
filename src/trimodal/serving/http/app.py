"""The app: all routes behind the guards."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from trimodal.serving.http.bodies import BodyReader
from trimodal.serving.http.doors import Door, close_unread
from trimodal.serving.http.errors import answer_fault, answer_refusal
from trimodal.serving.http.guards import Guards
from trimodal.serving.http.metrics import Metrics
from trimodal.serving.http.openai_routes import list_openai_routes
from trimodal.serving.http.settings import Settings
from trimodal.serving.http.task_routes import list_task_routes
from trimodal.serving.http.telling_routes import list_telling_routes
from trimodal.serving.http.v2_routes import list_v2_routes
from trimodal.serving.refusals import RefusedError
from trimodal.serving.service import Service

_REASONS = {404: "there is nothing at this path", 405: "this path does not take that method"}


def make_app(
    service: Service, settings: Settings = Settings(), further: Sequence[BaseRoute] = (), metrics: Metrics | None = None
) -> ASGIApp:
    """The ASGI app that offers `service`. It neither starts nor stops the service.

    Args:
        further: routes behind ours, as the playground's at `/`.
        metrics: where requests are counted, if other protocols count there too.
    """
    door = Door(service, settings, BodyReader(service.limits, settings.bodies_bytes, settings.chunks), metrics or Metrics(service))
    app = Guards(_make_inner(door, further), service.limits, settings, door.metrics)
    if not settings.origins:
        return app
    return CORSMiddleware(app, allow_origins=settings.origins, allow_methods=["GET", "POST"], allow_headers=["*"])


def _make_inner(door: Door, further: Sequence[BaseRoute]) -> ASGIApp:
    ours = [*list_v2_routes(door), *list_openai_routes(door), *list_task_routes(door), *list_telling_routes(door)]

    async def answer_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        refused = RefusedError(error.status_code, _REASONS.get(error.status_code, error.detail))
        door.metrics.note("", "", error.status_code, 0.0)
        return _Answer(close_unread(answer_refusal(refused, request.scope["path"], error.headers), request.scope))

    handlers = {HTTPException: answer_http, RefusedError: _answer_refused, Exception: _answer_fault}
    app = Starlette(routes=[*ours, *further], exception_handlers=handlers)
    app.router.redirect_slashes = False
    return app


async def _answer_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return answer_refusal(error, request.scope["path"])


async def _answer_fault(request: Request, error: Exception) -> Response:
    return answer_fault(error, request.scope["path"])


class _Answer(Response):
    """Any ASGI app where Starlette expects a response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
