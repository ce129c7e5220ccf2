"""Artifacts of formats 1 and 2, written by the code of those days: they load, and give the outputs that they gave then.

`format1/KIND` is an artifact of a miniature, one for each kind of edit and of storage; `format1/KIND.probe.safetensors` holds
inputs (`in.…`) and the outputs that the artifact had for them when it was written (`out.…`). `format2` is the same.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import trimodal
from trimodal.core import Verdict
from trimodal.formats.stock_load_check import collect_outputs
from trimodal.manifest import read_manifest
from trimodal.networks.tiny import make_miniature
from trimodal.pipeline import read_plan

HERE = Path(__file__).parent
KINDS = sorted(f"{path.parent.name}/{path.name}" for path in HERE.glob("format[12]/*") if path.is_dir())


def test_every_kind_of_edit_and_storage_is_here() -> None:
    kinds = {"treat", "cut", "factors", "drop", "share", "fold", "entropy"}
    assert {kind.removeprefix("format1/").partition("-")[0] for kind in KINDS if kind.startswith("format1")} == {*kinds, "merge"}
    assert {kind.removeprefix("format2/").partition("-")[0] for kind in KINDS if kind.startswith("format2")} == kinds


@pytest.mark.parametrize("kind", KINDS)
def test_loads_and_gives_the_same_outputs(kind: str) -> None:
    probe = load_file(HERE / f"{kind}.probe.safetensors")
    batch = {name.removeprefix("in."): tensor for name, tensor in probe.items() if name.startswith("in.")}
    factory = (lambda: make_miniature("lstm")) if not (HERE / kind / "config.json").exists() else None
    found = collect_outputs(trimodal.load(HERE / kind, factory=factory), batch)
    expected = {name.removeprefix("out."): tensor for name, tensor in probe.items() if name.startswith("out.")}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        # Processors add in other orders; where inputs are rounded too, that can move one by a whole step.
        allowed = 3e-2 if kind.endswith("treat-inputs") else 1e-3
        assert float((found[name] - tensor).norm()) <= allowed * float(tensor.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_plan_and_verdict_can_be_read(kind: str) -> None:
    assert read_plan(HERE / kind).edits
    data = json.loads((HERE / kind / "verdict.json").read_text())
    assert data["format"] in (1, 2) and Verdict.from_json(data).checks


@pytest.mark.parametrize("kind", KINDS)
def test_manifest_lists_nothing_stored_and_its_layout_is_read(kind: str) -> None:
    manifest = read_manifest(HERE / kind)
    assert manifest.format == int(kind[len("format")]) and manifest.stored == ()
    raw = json.loads((HERE / kind / "trimodal.json").read_text())
    assert len(manifest.layout.sites) == len(raw["sites"])
    assert [attribute.path for attribute in manifest.layout.size_attributes] == [entry["path"] for entry in raw["counters"]]
    assert len(manifest.layout.uncuttable) == len(raw.get("fixed", ()))
    assert [parameter.path for parameter in manifest.layout.free_parameters] == [entry["path"] for entry in raw.get("bare", ())]


def test_packing_an_older_one_keeps_its_format(tmp_path: Path) -> None:
    trimodal.pack(HERE / "format2" / "treat", tmp_path / "out")
    assert read_manifest(tmp_path / "out").format == 2 and trimodal.load(tmp_path / "out")
