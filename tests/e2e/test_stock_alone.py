"""A model that was only cut loads where trimodal is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from calling import PATIENCE_SECONDS, Workspace, call, environment
from safetensors.torch import load_file, save_file

import trimodal
from trimodal.formats.reload_check import collect_outputs
from trimodal.networks.tiny import make_miniature_batch

STRANGER = """
import sys
sys.modules["trimodal"] = None  # as if it were not installed
import torch, transformers
from safetensors.torch import load_file, save_file
model = transformers.AutoModel.from_pretrained(sys.argv[1]).eval()
assert type(model) is transformers.CLIPModel and model.config.vision_config.intermediate_size == 32
with torch.inference_mode():
    result = model(**load_file(sys.argv[2]))
save_file({k: v.clone().contiguous() for k, v in result.items() if isinstance(v, torch.Tensor)}, sys.argv[3])
"""


def test_a_stranger_loads_what_was_only_cut(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text('steps: [{prune.neurons: {where: "*", sparsity: 0.5}}]')
    pairs = workspace.data("image", "text")
    done = call("compress", workspace.model("clip"), "--recipe", "recipe.yaml", "--data", pairs, "-o", "out")
    assert done.code == 0, done.err
    assert "loads with stock Transformers alone: yes" in done.out
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert verdict["stock"] == {"alone": True, "reason": ""}
    checks = {check["name"]: check["detail"] for check in verdict["checks"]}
    assert checks["loads with stock Transformers alone"] == "largest absolute difference 0 over 4 outputs"
    batch = make_miniature_batch("clip", 3, seed=7)
    save_file(batch, tmp_path / "batch")
    arguments = [tmp_path / "out", tmp_path / "batch", tmp_path / "result"]
    stranger = subprocess.run(
        [sys.executable, "-c", STRANGER, *map(str, arguments)], env=environment(), capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert stranger.returncode == 0, stranger.stderr
    found, expected = load_file(tmp_path / "result"), collect_outputs(trimodal.load(tmp_path / "out"), batch)
    assert found and found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
