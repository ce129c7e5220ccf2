"""Hostile steps in the metadata of the weights: a clear error, nothing built, no code run, no memory taken."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded import codebook, cut, drop, fold, low_rank, merge, quantized, share, sparse, thin, treat
from safetensors.torch import load_file, save_file

from trimodal.edits import EDIT_KINDS, UnfitEditError, read_edit
from trimodal.edits.steps import STEPS, read_steps, write_steps
from trimodal.errors import IntegrityError


@pytest.fixture(scope="module")
def file_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Path]:
    """A file of some 40 KB whose metadata holds what is given, as JSON unless it is text."""
    folder = tmp_path_factory.mktemp("steps")

    def write(steps: Any) -> Path:
        file = folder / "trimodal.safetensors"
        text = steps if isinstance(steps, str) else json.dumps(steps)
        save_file({"a": torch.zeros(10_000)}, file, {"format": "pt", STEPS: text})
        return file

    return write


BAD_FORM: Mapping[str, Any] = {
    "not-json": "[{",
    "deep": "[" * 50_000,
    "no-list": {"treat": {}},
    "number": [7],
    "nothing": [{}],
    "other-verb": [{"run": {"path": "os.system"}}],
    "two-verbs": [{"cut": {}, "treat": {}}],
    "larger-than-the-file": [low_rank(100_000, [16, 32])],
    "merge-of-nan": [merge(share=float("nan"))],
}


@pytest.mark.parametrize("case", BAD_FORM)
def test_steps_of_no_known_form(case: str, file_with: Callable[[Any], Path]) -> None:
    with pytest.raises(IntegrityError, match=r"trimodal.safetensors"):
        read_steps(file_with(BAD_FORM[case]))


def test_fair_steps_are_read(file_with: Callable[[Any], Path]) -> None:
    steps = [
        quantized(),
        low_rank(4, [16, 32]),
        sparse(40, [16, 32]),
        treat("tucker", {"shape": [16, 32, 3], "dtype": "float32", "ranks": [4, 4]}),
        treat("cp", {"shape": [16, 32, 3, 3], "dtype": "float32", "rank": 4}),
        treat("integers", {"shape": [16, 32], "dtype": "float16", "exponent": 0, "rotation": 8}),
        cut("image.0.heads", [0, 2]),
        merge(),
        thin(),
        drop("image", [1]),
        share("a", "b"),
        fold("affine", "a", "b", "c"),
        treat("residual", {"shape": [16, 32], "dtype": "float32", "rank": 4}),
        codebook("tower"),
        codebook("borrowed", table="a"),
    ]
    found = read_steps(file_with(steps))
    assert [step.to_json() for step in found] == steps
    assert {type(step) for step in found} == set(EDIT_KINDS)
    assert write_steps(found) == json.dumps(steps, sort_keys=True)


def test_kinds_are_told_apart_by_their_verbs() -> None:
    assert len({kind.verb for kind in EDIT_KINDS}) == len(EDIT_KINDS)
    with pytest.raises(UnfitEditError, match="is none of cut, drop, fold, merge, share, thin, treat"):
        read_edit({"distill": {}}, 0)


def test_file_of_somebody_else(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(IntegrityError, match="does not say how it was compressed"):
        read_steps(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(IntegrityError, match="damaged or cut short"):
        read_steps(tmp_path / "model.safetensors")


def test_metadata_survives(file_with: Callable[[Any], Path]) -> None:
    assert load_file(file_with([]))["a"].shape == (10_000,) and read_steps(file_with([])) == []
