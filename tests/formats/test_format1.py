"""Artifacts of format 1, written by the code of those days: they load, and give the outputs that they gave then.

`format1/KIND` is an artifact of a miniature, one for each kind of edit and of storage; `format1/KIND.probe.safetensors` holds
inputs (`in.…`) and the outputs that the artifact had for them when it was written (`out.…`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import trimodal
from trimodal.core import Verdict
from trimodal.formats.stock_load_check import collect_outputs
from trimodal.networks.tiny import make_miniature
from trimodal.pipeline import read_plan

FOLDER = Path(__file__).with_name("format1")
KINDS = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())


def test_every_kind_of_edit_and_storage_is_here() -> None:
    assert {kind.partition("-")[0] for kind in KINDS} == {
        "treat", "cut", "factors", "merge", "drop", "share", "fold", "entropy",
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_loads_and_gives_the_same_outputs(kind: str) -> None:
    probe = load_file(FOLDER / f"{kind}.probe.safetensors")
    batch = {name.removeprefix("in."): tensor for name, tensor in probe.items() if name.startswith("in.")}
    factory = (lambda: make_miniature("lstm")) if not (FOLDER / kind / "config.json").exists() else None
    found = collect_outputs(trimodal.load(FOLDER / kind, factory=factory), batch)
    expected = {name.removeprefix("out."): tensor for name, tensor in probe.items() if name.startswith("out.")}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        # Processors add in other orders; where inputs are rounded too, that can move one by a whole step.
        allowed = 3e-2 if kind == "treat-inputs" else 1e-3
        assert float((found[name] - tensor).norm()) <= allowed * float(tensor.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_plan_and_verdict_can_be_read(kind: str) -> None:
    assert read_plan(FOLDER / kind).edits
    data = json.loads((FOLDER / kind / "verdict.json").read_text())
    assert data["format"] == 1 and Verdict.from_json(data).checks
