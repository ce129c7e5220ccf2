"""`trimodal serve --engine ray`, where Ray is installed (`make ray`): a cluster with two replicas is asked, flooded, renewed and ended."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trimodal.errors import InputError
from trimodal.exporting.export import export
from trimodal.networks.tiny import write_miniature
from trimodal.serving.ray_engine.run import RAY

PATIENCE = 240.0
KEY = "0123456789abcdef0123"
QUEUE = 8
SOURCE = Path(__file__).parents[2] / "src"


class Server:
    """A process of `trimodal serve`: what it is asked, and what it says."""

    def __init__(self, folder: Path, log: Path, *options: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = int(found.getsockname()[1])
        self.log = log
        command = [sys.executable, "-m", "trimodal", "serve", f"clip={folder}", "--port", str(self.port), "--threads", "1", *options]
        surroundings = {**os.environ, "PYTHONPATH": str(SOURCE)}
        with log.open("w") as sink:
            self.process = subprocess.Popen(command, stdout=sink, stderr=sink, env=surroundings, process_group=0)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Until it has said this so often."""
        wait_until(lambda: self.log.read_text().count(text) >= times or self.process.poll() is not None)
        assert self.log.read_text().count(text) >= times, self.log.read_text()[-3000:]

    def ask(self, path: str, body: Any = None, key: str | None = KEY) -> tuple[int, dict[str, str], bytes]:
        """Status, headers with small letters, and body, over a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        try:
            connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def end(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.05)


def make_question() -> dict[str, str]:
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(sink, "PNG")
    return {"model": "clip", "image": base64.b64encode(sink.getvalue()).decode()}


def list_session(leader: int) -> list[int]:
    """The processes that come from `leader`, whose orphans come to it too."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == leader:
            pid = int(stat.parent.name)
            found += [pid, *list_session(pid)]
    return found


@contextmanager
def asking(server: Server, clients: int = 2) -> Iterator[list[int]]:
    """Clients that ask without a pause; the statuses that they get, 0 for a connection that broke or could not be opened."""
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                statuses.append(server.ask("/embed", make_question())[0])
            except OSError:
                statuses.append(0)
            except http.client.HTTPException:
                statuses.append(0)
            time.sleep(0.02)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        RAY.find_python()
    except InputError:
        pytest.skip("Ray is not installed (make ray)")
    place = tmp_path_factory.mktemp("ray")
    for seed in (0, 1):
        export(str(write_miniature("clip", place / f"model{seed}", seed)), "onnx", place / f"version{seed}")
    shutil.copytree(place / "version0", place / "broken")
    file = next((place / "broken").rglob("vision*.onnx"))
    content = bytearray(file.read_bytes())
    content[-40] ^= 0xFF
    file.write_bytes(content)
    (place / "keys").write_text(KEY)
    return place


@pytest.fixture(scope="module")
def rights(place: Path) -> list[bytes]:
    """What the local engine answers, of each version."""
    found = []
    for version in (0, 1):
        server = Server(place / f"version{version}", place / f"local{version}", "--workers", "1")
        server.wait_for(" serving ")
        found.append(server.ask("/embed", make_question())[2])
        server.end()
    return found


@pytest.fixture(scope="module")
def server(place: Path, rights: list[bytes]) -> Iterator[Server]:
    link = place / "served"
    link.symlink_to(place / "version0")
    server = Server(
        link, place / "log", "--engine", "ray", "--workers", "2", "--queue", str(QUEUE), "--api-key-file", str(place / "keys"),
    )  # fmt: skip
    try:
        server.wait_for(" serving ")
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def renew(server: Server, place: Path, version: str) -> None:
    """The link leads elsewhere, and the server is told."""
    link = place / "next"
    link.symlink_to(place / version)
    link.rename(place / "served")
    server.process.send_signal(signal.SIGHUP)


pytestmark = pytest.mark.slow


def test_ray_answers_as_the_local_engine_does(server: Server, rights: list[bytes]) -> None:
    assert rights[0] != rights[1]
    for _ in range(8):  # both replicas
        status, headers, body = server.ask("/embed", make_question())
        assert (status, headers["content-type"]) == (200, "application/json") and body == rights[0]
    assert json.loads(server.ask("/v1/models")[2])["data"][0]["id"] == "clip"


def test_ray_asks_for_the_key_and_refuses_in_our_words(server: Server) -> None:
    for key in (None, "another-key-altogether"):
        status, _, body = server.ask("/embed", make_question(), key=key)
        assert status == 401 and "error" in json.loads(body)
    assert server.ask("/v2/health/ready", key=None)[0] == 200
    assert server.ask("/nothing")[::2] == (404, b'{"error":"there is nothing at this path"}')
    status, _, body = server.ask("/embed", {"model": "clip", "image": "no base64"})
    assert status == 400 and "error" in json.loads(body)


def test_a_burst_on_ray_gets_answers_or_429_with_a_time_to_wait(server: Server) -> None:
    found: list[tuple[int, dict[str, str], bytes]] = []
    threads = [threading.Thread(target=lambda: found.append(server.ask("/embed", make_question()))) for _ in range(150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(threads) and {status for status, *_ in found} == {200, 429}
    for status, headers, body in found:
        if status == 429:
            assert 1 <= int(headers["retry-after"]) <= 60 and "no more fit" in json.loads(body)["error"]
    assert server.ask("/embed", make_question())[0] == 200


def test_a_version_that_does_not_check_out_changes_nothing_on_ray(server: Server, place: Path, rights: list[bytes]) -> None:
    with asking(server) as statuses:
        renew(server, place, "broken")
        server.wait_for("reload_refused")
    assert set(statuses) == {200} and server.ask("/embed", make_question())[2] == rights[0]
    assert "has changed since it was exported" in server.log.read_text()


def test_a_new_version_comes_to_ray_without_a_request_that_fails(server: Server, place: Path, rights: list[bytes]) -> None:
    with asking(server) as statuses:
        renew(server, place, "version1")
        server.wait_for("reloaded")
    assert set(statuses) == {200}
    assert {server.ask("/embed", make_question())[2] for _ in range(8)} == {rights[1]}


def test_a_replica_that_is_killed_is_replaced(server: Server, rights: list[bytes]) -> None:
    def list_replicas() -> set[int]:
        titles = {pid: Path(f"/proc/{pid}/cmdline") for pid in list_session(server.process.pid)}
        return {pid for pid, title in titles.items() if title.exists() and b"ServeReplica" in title.read_bytes()}

    before = list_replicas()
    assert len(before) == 2
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: len(list_replicas() - before) == 1)
    wait_until(lambda: server.ask("/v2/health/ready", key=None)[0] == 200)
    assert server.ask("/embed", make_question())[2] == rights[1]


def test_ray_ends_with_everything_answered_and_nothing_left(server: Server) -> None:
    """The last one: the cluster is gone afterwards."""
    processes = list_session(server.process.pid)
    with asking(server, clients=4) as statuses:
        wait_until(lambda: len(statuses) > 40)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: 503 in statuses)
        before = len(statuses)
        assert set(statuses[:before]) == {200, 503}  # nothing broke: what was under way has its answer
        assert server.process.wait(PATIENCE) == 0
    assert len(processes) > 2 and not any(Path(f"/proc/{pid}").exists() for pid in processes)
    said = server.log.read_text()
    assert " ended" in said and "Traceback" not in said and "raylet" not in said


@pytest.mark.parametrize("folder", ["broken", "missing"])
def test_what_cannot_be_served_is_said_at_the_start(place: Path, folder: str) -> None:
    codes, said = [], []
    for engine in ("ray", "local"):
        server = Server(place / folder, place / f"{folder}-{engine}", "--engine", engine, "--workers", "1")
        codes.append(server.process.wait(PATIENCE))
        said.append([line for line in server.log.read_text().splitlines() if line.startswith("error:")])
    assert codes[0] == codes[1] != 0 and said[0] == said[1] != []


def test_a_port_that_is_taken_is_said_at_once(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "trimodal", "serve", f"clip={place / 'version0'}", "--port", str(taken.getsockname()[1])]
        done = subprocess.run([*command, "--engine", "ray"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(SOURCE)})
    assert done.returncode == InputError.exit_code and "error:" in done.stderr


def test_one_replica_is_renewed_without_a_request_that_fails(place: Path, rights: list[bytes]) -> None:
    link = place / "alone"
    link.symlink_to(place / "version0")
    server = Server(link, place / "alone-log", "--engine", "ray", "--workers", "1", "--watch", "0.3")
    server.wait_for(" serving ")
    with asking(server) as statuses:
        (place / "alone-next").symlink_to(place / "version1")
        (place / "alone-next").rename(link)
        server.wait_for("reloaded")  # it has seen that by itself
    assert set(statuses) == {200} and server.ask("/embed", make_question())[2] == rights[1]
    assert server.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_ray_at_once(place: Path, number: signal.Signals) -> None:
    server = Server(place / "version0", place / f"second{number}", "--engine", "ray", "--workers", "1")
    server.wait_for(" serving ")
    processes = list_session(server.process.pid)
    server.process.send_signal(number)
    server.wait_for(" draining ")
    server.process.send_signal(number)
    assert server.process.wait(PATIENCE) == 128 + number
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))
