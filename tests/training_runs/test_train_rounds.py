"""Runs with a teacher that are stopped, resumed, or in rounds: the same bytes, and what is there already is not made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from small_runs import distil
from transformers import AutoModelForImageClassification, ViTForImageClassification

import trimodal
from trimodal.errors import InputError
from trimodal.networks.tiny import make_miniature, write_miniature
from trimodal.training_runs.teaching import PROJECTIONS


class Stopped(Exception):
    """What ends a run in the middle."""


def stop_at(step: int) -> Callable[[str], None]:
    def tell(message: str) -> None:
        if message.startswith(f"step {step} "):
            raise Stopped

    return tell


def test_stopped_and_resumed_it_ends_with_the_same_bytes(pictures: Path, vit: Path, tmp_path: Path) -> None:
    narrow = {"student_of": "teacher", "width": 0.5}
    terms: dict[str, Any] = {"logits": 1, "labels": 0.5, "features": 1, "steps": 12, "evaluate_every": 2, "checkpoint_every": 2}
    whole = trimodal.train(distil(pictures, tmp_path / "whole", vit, narrow, **terms))
    with pytest.raises(Stopped):
        trimodal.train(distil(pictures, tmp_path / "stopped", vit, narrow, **terms), tell=stop_at(8))
    told: list[str] = []
    resumed = trimodal.train(distil(pictures, tmp_path / "stopped", vit, narrow, **terms), resume=True, tell=told.append)
    assert any("outputs are there already" in line for line in told) and not any(line.startswith("step 2 ") for line in told)
    for name in ("model.safetensors", "curves.jsonl"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name
    assert not list(tmp_path.glob("*.run")) and not list(tmp_path.glob("*.teacher"))
    names = load_file(resumed.folder / "model.safetensors")
    assert not [name for name in names if name.startswith(PROJECTIONS)]  # learned maps go with the training


def test_another_teacher_is_another_run(pictures: Path, vit: Path, tmp_path: Path) -> None:
    terms: dict[str, Any] = {"logits": 1, "steps": 12, "evaluate_every": 2, "checkpoint_every": 2, "model": {"from": str(vit)}}
    folder = write_miniature("vit", tmp_path / "teacher")
    with pytest.raises(Stopped):
        trimodal.train(distil(pictures, tmp_path / "out", folder, **terms), tell=stop_at(4))
    make_miniature("vit", 7).save_pretrained(folder)
    with pytest.raises(InputError, match=r"the run in .* is another: teacher_sha256 was"):
        trimodal.train(distil(pictures, tmp_path / "out", folder, **terms), resume=True)


def test_rounds_are_kept_and_go_on_where_they_were(pictures: Path, vit: Path, tmp_path: Path) -> None:
    assistants = [{"model": {"student_of": "teacher", "neurons": 0.5}, "steps": 3}]
    told: list[str] = []
    config = distil(pictures, tmp_path / "out", vit, logits=1, assistants=assistants)
    with pytest.raises(Stopped):  # in the second round
        trimodal.train(config, tell=lambda line: stop_at(4)(line) if "of 6:" in line else None)
    assistant = tmp_path / "out-assistant-1"
    before = (assistant / "model.safetensors").stat().st_mtime_ns
    found = trimodal.train(config, resume=True, tell=told.append)
    assert any("out-assistant-1 is there already" in line for line in told)
    assert (assistant / "model.safetensors").stat().st_mtime_ns == before
    assert AutoModelForImageClassification.from_pretrained(assistant).config.intermediate_size == 32
    assert ViTForImageClassification.from_pretrained(found.folder).config.num_hidden_layers == 1
    record = json.loads((found.folder / "training.json").read_text())
    assert record["config"]["distill"]["teacher"] == str(assistant)
    assert record["teacher"]["sha256"] != json.loads((assistant / "training.json").read_text())["teacher"]["sha256"]
