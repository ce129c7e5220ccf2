"""Every `curl` line of docs/serving.md gets an answer."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from fake_service import PAIR, SIGHT, SPEECH, FakeService
from loopback import Served

from trimodal.serving.http.app import make_app

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
LINES = re.findall(r"^\$ (curl .*)$", PAGE, re.MULTILINE)
CARDS = [replace(SIGHT, name="demo-out"), replace(PAIR, name="clip"), replace(SPEECH, name="whisper")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_lines(tmp_path: Path) -> None:
    for name in ("IMAGE.png", "OTHER.png", "SOUND.wav"):
        (tmp_path / name).write_bytes(b"abc")
    served = Served(make_app(FakeService(cards=CARDS)))
    try:
        for line in LINES:
            words = shlex.split(line.replace("localhost:8080", f"127.0.0.1:{served.port}"))
            done = subprocess.run([*words, "--silent", "--write-out", "%{http_code}"], cwd=tmp_path, capture_output=True, timeout=60)
            assert done.stdout.endswith(b"200"), (line, done.stdout)
    finally:
        served.close()
    assert len(LINES) >= 8
