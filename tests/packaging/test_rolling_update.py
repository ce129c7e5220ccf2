"""nginx, with the configuration that `--for compose` writes, before servers that go and come back: no request may fail by that."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from trimodal.packaging.bundle import Bundle
from trimodal.packaging.compose import write_nginx

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
PATIENCE = 30.0


class Backend(ThreadingHTTPServer):
    """Answers POST with its `name`, and with `status`."""

    daemon_threads = True

    def __init__(self, port: int, name: str) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.name, self.status, self.asked = name, 200, 0
        Thread(target=self.serve_forever, daemon=True).start()

    def end(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Backend

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.name)))
        self.end_headers()
        self.wfile.write(self.server.name.encode())

    def log_message(self, *words: object) -> None:
        """Nothing."""


def find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def nginx(folder: Path, ports: list[int]) -> Iterator[int]:
    port, file, errors = find_port(), folder / "nginx.conf", folder / "errors"
    servers = [f"127.0.0.1:{one}" for one in ports]
    user = "root" if folder.owner() == "root" else ""
    text = write_nginx(
        Bundle(folder, "see", "see:1"), servers, listen=f"127.0.0.1:{port}", user=user, folder=str(folder), errors=str(errors)
    )  # fmt: skip
    file.write_text(text)
    process = subprocess.Popen(["nginx", "-g", "daemon off;", "-e", errors, "-c", file], process_group=0)
    try:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield port
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(PATIENCE)


def ask(port: int) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("POST", "/embed", b"{}")
    answer = connection.getresponse()
    found = answer.status, answer.read().decode()
    connection.close()
    return found


@pytest.mark.parametrize("leaving", ["refuses", "is ending"])
def test_who_came_back_is_asked_at_once_when_the_other_leaves(tmp_path: Path, leaving: str) -> None:
    ports = [find_port(), find_port()]
    second = Backend(ports[1], "second")
    with nginx(tmp_path, ports) as port:
        # The first is away for so many requests that nginx leaves it out. Each is answered.
        assert {ask(port) for _ in range(12)} == {(200, "second")} and second.asked == 12
        first = Backend(ports[0], "first")
        if leaving == "refuses":
            second.end()
        second.status = 503  # what ours says when it is ending
        assert [ask(port) for _ in range(8)] == [(200, "first")] * 8
        first.end()
    second.end()


def test_who_is_full_is_believed(tmp_path: Path) -> None:
    ports = [find_port(), find_port()]
    servers = [Backend(port, "full") for port in ports]
    for server in servers:
        server.status = 429
    with nginx(tmp_path, ports) as port:
        assert [ask(port) for _ in range(4)] == [(429, "full")] * 4
    assert sum(server.asked for server in servers) == 4
    for server in servers:
        server.end()


def test_where_nobody_is_ready_clients_are_told_to_come_again_and_answered_as_soon_as_somebody_is(tmp_path: Path) -> None:
    ports = [find_port(), find_port()]
    ending = Backend(ports[1], "ending")
    ending.status = 503
    with nginx(tmp_path, ports) as port:
        for _ in range(8):
            status, text = ask(port)
            assert status == 503 and (text == "ending" or json.loads(text)["error"].startswith("no server is ready"))
        ending.end()
        connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("POST", "/embed", b"{}")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Retry-After"], answer.headers["Content-Type"]) == (503, "1", "application/json")
        assert json.loads(answer.read()) == {"error": "no server is ready; try again in 1 s"}
        first = Backend(ports[0], "first")
        assert {ask(port) for _ in range(8)} == {(200, "first")}
        connection.close()
        first.end()
