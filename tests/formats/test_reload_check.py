"""The reload in a fresh process, and what it says when something differs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trimodal import pipeline
from trimodal.errors import OutputError
from trimodal.formats import open_model, run_reload_checks
from trimodal.formats import reload_check as fresh
from trimodal.networks.tiny import make_miniature_batch, write_miniature

pytestmark = pytest.mark.usefixtures("fresh_reload")


def test_a_model_that_differs_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    pipeline.compress(write_miniature("bert", tmp_path / "bert"), "int8", None, tmp_path / "out")
    model, batch = open_model(tmp_path / "out"), make_miniature_batch("bert", 2)
    digest = fresh.digest_decoded_weights(model)
    with torch.no_grad():
        model.module.get_submodule("pooler.dense").stored.codes[0, 0] ^= 255  # type: ignore[operator, union-attr, index]
    assert fresh.digest_decoded_weights(model) != digest
    passed = {check.name: check.passed for check in run_reload_checks(model, tmp_path / "out", batch, None)}
    assert passed == {
        "reloads in a fresh process": True, "decoded weights equal after reload": False, "outputs equal after reload": False,
    }  # fmt: skip


def test_a_process_that_fails_fails_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(write_miniature("bert", tmp_path / "bert"))
    false = shutil.which("false")
    assert false is not None
    monkeypatch.setattr(sys, "executable", false)
    (check,) = run_reload_checks(model, tmp_path, None, None)
    assert (check.name, check.passed, check.detail) == ("reloads in a fresh process", False, "no message")


def test_no_room_for_the_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(command: list[str], env: dict[str, str], **rest: Any) -> subprocess.CompletedProcess[str]:
        assert Path(env["TMPDIR"]).is_dir() and str(tmp_path) in env["TMPDIR"]
        return subprocess.CompletedProcess(command, 1, "", "Error: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", full)
    model = open_model(write_miniature("bert", tmp_path / "bert"))
    with pytest.raises(OutputError, match=r"the reload check has no room in .*; set TMPDIR to a place with more"):
        run_reload_checks(model, tmp_path, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]


def test_outputs_of_any_form() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
            return x, None, 2 * x

    x = torch.ones(2)
    assert fresh.collect_outputs(Pair(), {"x": x}).keys() == {"0", "2"}
    assert fresh.collect_outputs(nn.Identity(), {"input": x}).keys() == {"output"}


def test_difference() -> None:
    a = torch.tensor([1.0, float("nan"), float("inf")])
    assert fresh._max_difference(a, a.clone()) == 0.0
    assert fresh._max_difference(a, torch.tensor([1.5, float("nan"), float("inf")])) == 0.5
    assert fresh._max_difference(a, a[:2]) == float("inf")
    assert not fresh._compare_outputs("equal", {"a": a}, {"b": a}).passed


def test_rounding_is_no_difference_whatever_the_scale() -> None:
    """MKL adds in an order that depends on where in memory a matrix lies, by up to 4e-7 of the largest sum in one product."""
    scores = torch.tensor([[30.0, -0.01, 7.0]])
    assert fresh._compare_outputs("rounded", {"a": scores}, {"a": scores + 4e-7 * 30}).passed
    assert not fresh._compare_outputs("other", {"a": scores}, {"a": scores + 1e-3}).passed
    assert not fresh._compare_outputs("other", {"a": scores / 1e4}, {"a": scores / 1e4 + 2e-6}).passed
    assert not fresh._compare_outputs("lost", {"a": scores}, {"a": scores.clone().fill_(float("nan"))}).passed
    assert not fresh._compare_outputs("codes", {"a": torch.tensor([300_000])}, {"a": torch.tensor([300_001])}).passed
    assert fresh._compare_outputs("nothing", {"a": torch.zeros(0)}, {"a": torch.zeros(0)}).passed
