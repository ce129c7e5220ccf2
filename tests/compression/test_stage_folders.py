"""What each stage of a plan leaves, and how a run goes on from it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trimodal
from trimodal.errors import OutputError
from trimodal.networks.tiny import write_miniature, write_miniature_data

STEPS: list[dict[str, Any]] = [
    {"fold.exact": {"where": "*"}},
    {"distill": {"steps": 2, "batch": 8}},
    {"prune.magnitude": {"where": "*", "optional": True, "sparsity": 0.5}},
    {"distill": {"steps": 2, "batch": 8}},
    {"quantize.rtn": {"where": "*", "optional": True, "bits": 8}},
]


def digest_weights(folder: Path) -> str:
    return hashlib.sha256((folder / "trimodal.safetensors").read_bytes()).hexdigest()


def test_folds_masks_and_codes_go_through_folders(tmp_path: Path) -> None:
    model = str(write_miniature("resnet", tmp_path / "resnet"))
    data = str(write_miniature_data(tmp_path / "data", 24, ["image"]))
    stages = tmp_path / "stages"
    at_once = trimodal.compress(model, {"steps": STEPS}, data, tmp_path / "at-once")
    kept = trimodal.compress(model, {"steps": STEPS}, data, tmp_path / "kept", stages=stages)
    assert sorted(path.name for path in stages.iterdir()) == ["1-fold", "2-distill", "3-prune", "4-distill", "5-quantize"]
    assert digest_weights(kept.folder) == digest_weights(at_once.folder)
    for name in ("5-quantize", "4-distill", "3-prune"):
        shutil.rmtree(stages / name)
    again = trimodal.compress(model, {"steps": STEPS}, data, tmp_path / "again", stages=stages)
    assert digest_weights(again.folder) == digest_weights(at_once.folder)
    assert [type(record) for record in again.records] == [type(record) for record in at_once.records]
    assert again.verdict.left_out == at_once.verdict.left_out


def make_net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def test_a_module_in_memory_goes_through_folders(tmp_path: Path) -> None:
    rows = [{"input": torch.randn(8)} for _ in range(12)]
    recipe = {"steps": [{"prune.magnitude": {"where": "*", "sparsity": 0.5}}, {"distill": {"steps": 2}}, {"quantize.rtn": {"where": "*"}}]}
    folders = [trimodal.compress(make_net(), recipe, rows, tmp_path / str(n), stages=tmp_path / "stages").folder for n in range(2)]
    assert digest_weights(folders[0]) == digest_weights(folders[1])


def test_what_others_put_there_stays(tmp_path: Path) -> None:
    model = str(write_miniature("vit", tmp_path / "vit"))
    (tmp_path / "stages" / "1-quantize").mkdir(parents=True)
    (tmp_path / "stages" / "1-quantize" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"1-quantize is no stage's folder, and is left as it is"):
        trimodal.compress(model, {"steps": [{"quantize.rtn": {"where": "*"}}]}, None, tmp_path / "out", stages=tmp_path / "stages")
    assert (tmp_path / "stages" / "1-quantize" / "notes.txt").read_text() == "mine"
