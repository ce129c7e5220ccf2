"""Rows 64 and 66 where the operator has named a place: `trimodal serve --media-host`, and a server there that means harm."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from benchmarks.serving.bad_inputs.cases import Case, Found, Place, judge, post_json
from benchmarks.serving.bad_inputs.files import make_png
from benchmarks.serving.bad_inputs.sockets import talk
from benchmarks.serving.running import run_service

MiB = 1 << 20
_MOST_SECONDS = 13.0
"""Ten for a file, and what a busy machine needs besides."""
Answer = Callable[[BaseHTTPRequestHandler], None]


def list_redirected() -> list[Case]:
    """Where a named place sends on."""
    targets = (
        "http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:1/", "ftp://127.0.0.1/a", "file:///etc/passwd", "/again",
        "http://[::ffff:169.254.169.254]/", "https://127.0.0.1/",
    )  # fmt: skip
    answers = [_redirect(target) for target in targets]
    return [Case(f"a named place that redirects, {len(targets)} ways", attempt=_ask(answers, (400,)))]


def list_slow() -> list[Case]:
    """Bodies that are too long, too slow, or packed."""
    return [Case("a named place: without end, a byte a second, gzip", attempt=_ask([_send_for_ever, _drip, _pack], (400, 413, 415)))]


def _redirect(target: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def _send_for_ever(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "image/png")
    handler.end_headers()
    while True:
        handler.wfile.write(bytes(MiB))


def _drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "image/png")
    handler.end_headers()
    for byte in make_png()[:60]:
        handler.wfile.write(bytes([byte]))
        time.sleep(1.0)


def _pack(handler: BaseHTTPRequestHandler) -> None:
    body = gzip.compress(make_png())
    handler.send_response(200)
    for name, value in (("Content-Type", "image/png"), ("Content-Encoding", "gzip"), ("Content-Length", str(len(body)))):
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def _run_place(answers: list[Answer]) -> Iterator[int]:
    """A server whose path `/n` is answered by the n-th."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(OSError):
                answers[int(self.path.strip("/")) if self.path != "/again" else 0](self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


def _ask(answers: list[Answer], allowed: tuple[int, ...]) -> Callable[[Place], Found]:
    def attempt(place: Place) -> Found:
        said = set[str]()
        with _run_place([*answers, _send_image]) as port:
            named = ("--media-host", f"http://127.0.0.1:{port}")
            with run_service({"clip": place.models["clip"]}, place.scratch, *named, workers=1) as running:
                for number in range(len(answers) + 1):
                    request = post_json("/embed", {"model": "clip", "image": f"http://127.0.0.1:{port}/{number}"})
                    reply = talk(running.port, request)
                    found = judge(reply, allowed if number < len(answers) else (200,))  # the last is a good one
                    said.add(found.said)
                    if found.fault or reply.seconds > _MOST_SECONDS:
                        return Found(found.said, found.fault or f"after {reply.seconds:.1f} s")
        return Found("/".join(sorted(said - {"200"})))

    return attempt


def _send_image(handler: BaseHTTPRequestHandler) -> None:
    body = make_png()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
