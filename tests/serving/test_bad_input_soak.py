"""Thousands of bad requests leave nothing behind: the process has as much memory as after the first of them, and answers rightly."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from test_bad_bodies import BAD, make_request

SERVER = """
import asyncio, sys, uvicorn
from fake_service import FakeService
from trimodal.serving.http.app import make_app
uvicorn.run(make_app(FakeService()), port=int(sys.argv[1]), log_level="error", lifespan="off")
"""
PORT = 18_377


def read_memory(pid: int) -> int:
    """Bytes of the process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def send_all(client: httpx.Client) -> None:
    bomb = gzip.compress(bytes(70 * 2**20), 6)
    for body in BAD.values():
        answer = client.post("/v2/models/adder/infer", content=body if isinstance(body, bytes) else json.dumps(body))
        assert answer.status_code == 400
    assert client.post("/v2/models/adder/infer", content=bomb, headers={"Content-Encoding": "gzip"}).status_code == 413
    for path in ("/v1/embeddings", "/v1/chat/completions", "/embed", "/nothing", "/v2/models/nobody/infer"):
        assert 400 <= client.post(path, content=b"{" * 1000, headers={"Content-Type": "application/json"}).status_code < 500


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_is_back_after_bad_requests() -> None:
    place = str(Path(__file__).parent)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([place, *sys.path]), "MALLOC_ARENA_MAX": "2"}
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(PORT)], env=env)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=60) as client:
            wait_for(client)
            for _ in range(5):
                send_all(client)
            before = read_memory(server.pid)
            for _ in range(20):
                send_all(client)
            good = client.post("/v2/models/adder/infer", content=json.dumps(make_request()))
            assert good.json()["outputs"][0]["data"] == [2, 4, 6]
            assert read_memory(server.pid) <= before * 1.05
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(10)


def wait_for(client: httpx.Client) -> None:
    for _ in range(600):
        try:
            client.get("/v2/health/live")
            return
        except httpx.ConnectError:
            time.sleep(0.1)
    raise TimeoutError("the server did not start")
