"""Files at addresses: from places that are allowed, at addresses that may be reached, within bytes and seconds, and from nowhere else."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from trimodal.errors import InputError
from trimodal.serving.limits import Limits
from trimodal.serving.media.addresses import check_url, may_connect, read_places
from trimodal.serving.media.fetching import Fetcher
from trimodal.serving.openai.media import read_uri
from trimodal.serving.refusals import RefusedError
from trimodal.serving.requests import RemoteFile

FILE = b"a file" * 100


class Shelf(BaseHTTPRequestHandler):
    """Files, and all that may come in place of one."""

    protocol_version = "HTTP/1.1"
    moved: ClassVar[dict[str, str]] = {}

    def do_GET(self) -> None:
        if self.path in self.moved:
            self.send_response(302)
            self.send_header("Location", self.moved[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            with_end = time.monotonic() + 10
            while time.monotonic() < with_end:
                try:
                    self.wfile.write(b"x" * 4096)
                except OSError:
                    return
        elif self.path == "/slow":
            time.sleep(1.5)
        else:
            self.send_response(404 if self.path == "/missing" else 200)
            self.send_header("Content-Length", str(10**12 if self.path == "/huge" else len(FILE)))
            if self.path == "/packed":
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(FILE)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def shelf() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shelf)
    server.daemon_threads = True
    port = server.server_address[1]
    Shelf.moved = {
        "/near": "/file", "/round": "/round", "/inside": "http://169.254.169.254/latest/meta-data",
        "/door": f"http://127.0.0.1:{port + 1}/", "/scheme": "file:///etc/passwd", "/name": f"http://localhost:{port}/file",
    }  # fmt: skip
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield port
    server.shutdown()
    server.server_close()


def make_limits(port: int) -> Limits:
    places = (f"http://127.0.0.1:{port}", f"http://localhost:{port}")
    return replace(Limits(), media_hosts=places, fetch_bytes=100_000, fetch_seconds=1.0)


def fetch(port: int, path: str) -> bytes:
    return asyncio.run(Fetcher(make_limits(port)).fetch(RemoteFile(f"http://127.0.0.1:{port}{path}", "image")))


@pytest.mark.parametrize("path", ["/file", "/near"])
def test_a_file_of_an_allowed_place_comes(shelf: int, path: str) -> None:
    assert fetch(shelf, path) == FILE


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/round", 400, "on and on"), ("/inside", 400, "not from here"), ("/door", 400, "not from here"), ("/scheme", 400, "not from here"),
        ("/name", 400, "could not be fetched"), ("/missing", 400, "could not be fetched"), ("/packed", 400, "could not be fetched"),
        ("/huge", 413, "100,000 bytes"), ("/endless", 413, "100,000 bytes"), ("/slow", 400, "1 s"),
    ],
)  # fmt: skip
def test_all_else_is_refused_and_tells_nothing(shelf: int, path: str, status: int, said: str) -> None:
    with pytest.raises(RefusedError, match=said) as refused:
        fetch(shelf, path)
    assert refused.value.status == status and "127" not in str(refused.value) and "169" not in str(refused.value)


def test_a_port_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RefusedError, match="could not be fetched"):
        fetch(port, "/file")


def test_a_name_is_looked_up_once_and_that_very_address_is_reached(shelf: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def look(self: Any, host: str, port: int, **_: Any) -> Any:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1" if len(asked) > 1 else "8.8.8.8", port))]

    async def connect(self: Any, host: str, *rest: Any) -> Any:
        assert host == "8.8.8.8"
        raise OSError

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", look)
    monkeypatch.setattr("httpcore2.AnyIOBackend.connect_tcp", connect)
    limits = replace(Limits(), media_hosts=("images.example.org",))
    with pytest.raises(RefusedError, match="could not be fetched"):
        asyncio.run(Fetcher(limits).fetch(RemoteFile("https://images.example.org/a.png", "image")))
    assert asked == ["images.example.org"]


INSIDE = [
    "10.0.0.1", "127.0.0.1", "169.254.169.254", "192.168.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1", "::1", "fe80::1%eth0", "fd00::1",
    "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b:1::a00:1", "64:ff9b::10.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_no_name_leads_inside(address: str) -> None:
    assert not may_connect("images.example.org", [address])
    assert not may_connect("images.example.org", ["8.8.8.8", address])


def test_public_addresses_and_numbers_that_were_allowed_are_reached() -> None:
    assert may_connect("images.example.org", ["8.8.8.8", "2606:4700::1111"])
    assert (
        may_connect("10.0.0.1", ["10.0.0.1"])
        and not may_connect("10.0.0.1", ["10.0.0.2"])
        and not may_connect("a.example", [])
    )


PLACES = read_places(("images.example.org", "http://10.0.0.7:9000"))


@pytest.mark.parametrize(
    "url", ["https://images.example.org/a.png?b=c", "https://IMAGES.example.org:443/", "http://10.0.0.7:9000/a"]
)
def test_allowed_addresses(url: str) -> None:
    check_url(url, PLACES, "image")


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.org/", "https://images.example.org:8443/", "https://images.example.org.evil.org/", "https://10.0.0.7:9000/",
        "https://user:word@images.example.org/", "https://images.example.org\\@evil.org/", "https://evil.org/#images.example.org",
        "file:///etc/passwd", "ftp://images.example.org/", "gopher://images.example.org/", "/etc/passwd", "https://images.example.org:x/",
        "https://images.example.org/ a", "https://images.example.org/\n", "https://167772167:9000/", "http://0x0a000007:9000/",
        "http://[::ffff:10.0.0.7]:9000/", "https://images.example.org./", "https://images.example.org/" + "a" * 2100, "https://bücher.example/",
    ],
    ids=range(20),
)  # fmt: skip
def test_other_addresses(url: str) -> None:
    with pytest.raises(RefusedError) as refused:
        check_url(url, PLACES, "image")
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "host", ["", "a b", "https://a.org/path", "user@a.org", "ftp://a.org", "127.1", "0x7f.0.0.1", "a.org:0x", "*.a.org"]
)
def test_places_that_are_none(host: str) -> None:
    with pytest.raises(InputError, match="--media-host"):
        read_places((host,))


def test_addresses_are_off_unless_a_place_is_allowed() -> None:
    with pytest.raises(RefusedError, match="not fetched"):
        read_uri("https://images.example.org/a.png", "image", "input[0]", Limits())
    allowed = replace(Limits(), media_hosts=("images.example.org",))
    assert read_uri("https://images.example.org/a.png", "image", "input[0]", allowed) == RemoteFile(
        "https://images.example.org/a.png", "input[0]"
    )
