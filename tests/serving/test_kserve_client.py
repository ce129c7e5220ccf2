"""KServe's client, unchanged. It pins packages that others of ours do not go with, so it lives in an environment of its own, which
`make kserve` makes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from fake_service import FakeService
from grpc_loopback import GrpcServed
from loopback import Served

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("TRIMODAL_KSERVE_PYTHON", ROOT / ".venv-kserve" / "bin" / "python"))
SUM = [[11, 13, 15], [17, 19, 21]]


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.is_file(), reason="KServe's client is not installed: make kserve")
def test_kserve_client(served: Served) -> None:
    grpc_served = GrpcServed(FakeService())
    calls = Path(__file__).with_name("kserve_calls.py")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [PYTHON, calls, served.url, f"127.0.0.1:{grpc_served.port}"], capture_output=True, text=True, timeout=300, env=clean
        )
    finally:
        grpc_served.close()
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    ready = {"live": True, "ready": True, "model": True, "sum True": SUM, "sum False": SUM}
    assert told == {"rest": {**ready, "sum out": SUM, "halves": [[1.0, 3.0]]}, "grpc": ready}
