"""The playground's files at `/` and `/playground/…`. Its page may load nothing from elsewhere, and no other page may show it in a frame."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from trimodal.serving.playground import FILES, read_playground

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
}  # fmt: skip


def list_playground_routes() -> list[BaseRoute]:
    """A route per file; the page itself at `/`."""
    return [_make_route("/" if name == "page.html" else f"/playground/{name}", name) for name in FILES]


def _make_route(path: str, name: str) -> Route:
    content = read_playground(name)

    async def endpoint(request: Request) -> Response:
        return Response(content, media_type=FILES[name], headers=_HEADERS)

    return Route(path, endpoint, methods=["GET"])
