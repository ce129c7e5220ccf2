"""Entropy-coded weights from the command line, every verb a process of its own: compress, verify, and back to plain."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from calling import Workspace, process

RECIPE = """
seed: 3
steps:
  - quantize.entropy: {where: "*", bits: 3}
"""


def test_compress_verify_and_unpack(workspace: Workspace, tmp_path: Path) -> None:
    source, data = workspace.model("resnet"), workspace.data("image")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    done = process("compress", source, "-r", recipe, "-d", data, "-o", tmp_path / "coded", "--pack", "entropy", "--json")
    assert (done.code, done.err) == (0, ""), done.err
    verdict = json.loads(done.out)
    assert all(check["status"] == "passed" for check in verdict["checks"])  # among them the reload in a fresh process
    packing, file = verdict["packing"], tmp_path / "coded" / "model.trimodal"
    assert packing["entropy_bytes"] == file.stat().st_size == verdict["size"]["weights_after_bytes"]

    again = process("verify", tmp_path / "coded", "-a", source, "-d", data)
    assert again.code == 0, again.err
    assert "entropy-coded" in again.out and "decoded in" in again.out

    back = process("pack", tmp_path / "coded", "-o", tmp_path / "plain", "--pack", "plain")
    assert (back.code, back.err) == (0, "") and "written: " in back.out
    same = process("compress", source, "-r", recipe, "-d", data, "-o", tmp_path / "direct")
    assert same.code == 0, same.err
    for name in ("trimodal.safetensors", "config.json", "trimodal.json", "plan.json"):
        one, other = (hashlib.sha256((tmp_path / f / name).read_bytes()).hexdigest() for f in ("plain", "direct"))
        assert one == other, name
    assert (tmp_path / "plain" / "trimodal.safetensors").stat().st_size == packing["plain_bytes"]
