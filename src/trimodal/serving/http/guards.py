"""What is refused before a route is looked for: by headers, host, path and key, without reading the body."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from trimodal.serving.http.doors import close_unread
from trimodal.serving.http.errors import answer_refusal
from trimodal.serving.http.metrics import Metrics
from trimodal.serving.http.settings import Settings
from trimodal.serving.keys import Keys
from trimodal.serving.limits import Limits
from trimodal.serving.refusals import RefusedError, refuse_bad

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?\Z")
_SINGLE = ("content-length", "host", "authorization", "content-encoding", "inference-header-content-length", "transfer-encoding")


class Guards:
    """The app `inner`, behind all that can be said from a request's first lines."""

    def __init__(self, inner: ASGIApp, limits: Limits, settings: Settings, metrics: Metrics) -> None:
        self.inner, self.limits, self.settings, self.metrics = inner, limits, settings, metrics
        self.keys = Keys(settings.keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through, or refuse."""
        if scope["type"] != "http":
            await self._pass_other(scope, receive, send)
            return
        try:
            self._check(scope)
        except RefusedError as refused:
            self.metrics.note("", "", int(refused.status), 0.0)
            await close_unread(answer_refusal(refused, scope["path"]), scope)(scope, receive, send)
            return
        await self.inner(scope, receive, send)

    async def _pass_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self._check_size(scope["headers"])
        check_framing(headers)
        check_path(scope)
        host = check_host(headers, scope, self.settings.hosts)
        self._check_origin(headers, host)
        self._check_key(headers, scope["path"])

    def _check_size(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        if len(headers) > 100 or sum(len(name) + len(value) + 4 for name, value in headers) > self.limits.header_bytes:
            raise RefusedError(431, f"more than 100 headers, or more than {self.limits.header_bytes:,} bytes of them")

    def _check_origin(self, headers: Headers, host: str) -> None:
        """A web page of another host must not use the browser of someone who may ask."""
        origin = headers.get("origin")
        if origin is not None and origin not in self.settings.origins and origin.partition("://")[2] != host:
            raise RefusedError(403, "web pages of other hosts may not ask here")

    def _check_key(self, headers: Headers, path: str) -> None:
        if not self._is_open(path):
            self.keys.check(headers.get("authorization", ""))

    def _is_open(self, path: str) -> bool:
        settings = self.settings
        if settings.open_health and path in ("/v2/health/live", "/v2/health/ready"):
            return True
        if settings.open_metrics and path == "/metrics":
            return True
        return any(path == known or (known.endswith("/") and known != "/" and path.startswith(known)) for known in settings.open_paths)


def check_framing(headers: Headers) -> None:
    """Refuse what two programs in a row may read as two different requests.

    Raises:
        RefusedError: 400, a header twice, a length that is none, or two ways of saying it.
    """
    for name in _SINGLE:
        if len(headers.getlist(name)) > 1:
            raise refuse_bad(f"the header {name} is there more than once", name)
    length = headers.get("content-length")
    if length is not None:
        if "transfer-encoding" in headers:
            raise refuse_bad("Content-Length and Transfer-Encoding are both there", "Content-Length")
        if not (length.isascii() and length.isdigit() and len(length) <= 18):
            raise refuse_bad("Content-Length is no number of bytes", "Content-Length")


def check_path(scope: Scope) -> None:
    """Refuse targets that are no paths.

    Raises:
        RefusedError: 400 without a slash at the front; 404 with NUL.
    """
    raw = scope.get("raw_path") or scope["path"].encode()
    if not raw.startswith(b"/") or not scope["path"].startswith("/"):
        raise refuse_bad("the request's target must be a path that begins with /")
    if "\0" in scope["path"]:
        raise RefusedError(404, "there is nothing at this path")


def check_host(headers: Headers, scope: Scope, hosts: Sequence[str]) -> str:
    """The `Host` header, as sent.

    Raises:
        RefusedError: 400, it is missing, malformed, or none of `hosts`.
    """
    host = headers.get("host")
    if host is None:
        if scope.get("http_version") == "1.0":
            return ""
        raise refuse_bad("the header Host is missing", "Host")
    found = _HOST.match(host)
    if found is None or int(found[2] or 0) > 65535:
        raise refuse_bad("the header Host is malformed", "Host")
    if hosts and found[1].lower() not in hosts:
        raise refuse_bad("this service is not called by that Host", "Host")
    return host
