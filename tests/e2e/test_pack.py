"""Entropy-coded weights from the command line: compress in a process of its own, verify, and back to plain."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from calling import Workspace, call, process

from trimodal import pipeline

RECIPE = """
seed: 3
steps:
  - quantize.entropy: {where: "*", bits: 3}
"""


def test_compress_verify_and_unpack(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, data = workspace.model("resnet"), workspace.data("image")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    done = process("compress", source, "-r", recipe, "-d", data, "-o", tmp_path / "coded", "--pack", "entropy", "--json")
    assert (done.code, done.err) == (0, ""), done.err
    verdict = json.loads(done.out)
    assert all(check["status"] == "passed" for check in verdict["checks"])  # among them the reload in a fresh process
    packing, file = verdict["packing"], tmp_path / "coded" / "model.trimodal"
    assert packing["entropy_bytes"] == file.stat().st_size == verdict["size"]["weights_after_bytes"]

    again = call("verify", tmp_path / "coded", "-a", source, "-d", data)
    assert again.code == 0, again.err
    assert "entropy-coded" in again.out and "decoded in" in again.out

    back = call("pack", tmp_path / "coded", "-o", tmp_path / "plain", "--pack", "plain")
    assert (back.code, back.err) == (0, "") and "written: " in back.out
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    same = call("compress", source, "-r", recipe, "-d", data, "-o", tmp_path / "direct")
    assert same.code == 0, same.err
    for name in ("trimodal.safetensors", "config.json", "trimodal.json"):
        one, other = (hashlib.sha256((tmp_path / f / name).read_bytes()).hexdigest() for f in ("plain", "direct"))
        assert one == other, name
    plans = [json.loads((tmp_path / f / "plan.json").read_text()) for f in ("plain", "direct")]
    assert [plan.pop("pack") for plan in plans] == ["entropy", "plain"] and plans[0] == plans[1]  # as it was planned then
    assert (tmp_path / "plain" / "trimodal.safetensors").stat().st_size == packing["plain_bytes"]
