"""Routes that tell of the service itself: its metrics, and its OpenAPI file."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from trimodal.serving.http.doors import Door, make_route
from trimodal.serving.http.metrics import CONTENT_TYPE
from trimodal.serving.http.openapi import write_openapi


def list_telling_routes(door: Door) -> list[Route]:
    """`/metrics` and `/openapi.json`."""
    return [make_route(door, "/metrics", tell_metrics), make_route(door, "/openapi.json", tell_openapi)]


async def tell_metrics(door: Door, request: Request) -> ASGIApp:
    """GET /metrics."""
    return Response(door.metrics.write(), media_type=CONTENT_TYPE)


async def tell_openapi(door: Door, request: Request) -> ASGIApp:
    """GET /openapi.json."""
    return JSONResponse(write_openapi(door.service.list_models(), needs_key=bool(door.settings.keys)))
