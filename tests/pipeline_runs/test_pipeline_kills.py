"""A pipeline whose process is killed at every arrow, and in the middle of training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_pipelines import STAGES, digest_weights, make_pipeline

import trimodal
from trimodal.networks.tiny import write_miniature_data

PATIENCE_SECONDS = 300


def kill_when(command: list[str], come: Callable[[], bool]) -> None:
    """Run `command`, and kill it as soon as `come`."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not come() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_at_every_arrow_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    pictures = write_miniature_data(tmp_path / "pictures", 40, ["image"])
    steps = {"steps": 40, "checkpoint_every": 4}
    whole = trimodal.run_pipeline(make_pipeline(pictures, tmp_path / "whole", **steps))
    file, out = tmp_path / "pipeline.json", tmp_path / "killed"
    file.write_text(json.dumps(make_pipeline(pictures, out, **steps)))
    command = [sys.executable, "-m", "trimodal", "run", str(file), "--resume"]
    working = tmp_path / "killed.run"

    kill_when(command, lambda: any((working / "0-train.run").glob("checkpoint-8/complete")))
    assert not (working / "0-train").exists()
    for name in STAGES:
        kill_when(command, (working / name).exists)
        assert (working / name).is_dir() and not out.exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert digest_weights(out) == digest_weights(whole.folder)
    trained = [folder.with_name(f"{folder.name}.run") / "0-train" for folder in (whole.folder, out)]
    for name in ("model.safetensors", "curves.jsonl"):
        assert len({(folder / name).read_bytes() for folder in trained}) == 1
