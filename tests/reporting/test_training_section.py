"""What the page tells of the original's training, and which data were used for what."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from trimodal.core import FitRecord, PlaceRecord, Plan, Verdict
from trimodal.reporting.data_uses import list_data_uses
from trimodal.reporting.page import render_page
from trimodal.reporting.training_section import TrainingTold, make_training_section, read_training

RECORD = {
    "config": {"task": "classify", "batch": 32, "precision": "bf16"}, "seed": 3, "steps": 800, "seconds": 36.2, "stopped_early": True,
    "data": {"sha256": "ab" * 32, "train": 1600, "held_out": 400},
}  # fmt: skip
CURVES = [
    {"step": 0, "eval_loss": 2.0, "eval_image_accuracy": 25.0},
    *({"step": step, "loss": 2.0 / step, "learning_rate": 1e-3} for step in range(1, 801)),
    {"step": 800, "eval_loss": 0.5, "eval_image_accuracy": 90.0},
]


@pytest.fixture
def told() -> TrainingTold:
    return TrainingTold(RECORD, CURVES)


def test_losses_share_an_axis_and_a_metric_has_its_own(told: TrainingTold) -> None:
    section = make_training_section(told)
    assert section.line == "800 steps of 32 samples for the task classify, in bf16, seed 3, 36 s, stopped early."
    loss, accuracy = section.plots
    assert [(curve.name, curve.last) for curve in loss.curves] == [("while training", pytest.approx(2 / 800, rel=1e-2)), ("held out", 0.5)]
    assert [tick.label for tick in loss.x_ticks] == ["0", "400", "800"]
    assert loss.logarithmic and loss.steps == 800
    assert (accuracy.name, [tick.label for tick in accuracy.y_ticks]) == ("Image accuracy", ["20", "40", "60", "80", "100"])
    assert accuracy.curves[0].points.split()[0] == "0.00,93.75"  # 25 of 20 to 100, from the top


def test_files_of_others_are_left_alone(tmp_path: Path, told: TrainingTold) -> None:
    assert read_training(tmp_path) is None
    (tmp_path / "training.json").write_text('{"loss": 3}')
    assert read_training(tmp_path) is None
    (tmp_path / "training.json").write_text(json.dumps(RECORD))
    (tmp_path / "curves.jsonl").write_text("".join(json.dumps(line) + "\n" for line in CURVES))
    assert read_training(tmp_path) == told


def test_who_saw_which_samples(told: TrainingTold, plan: Plan, verdict: Verdict, fits: list[FitRecord]) -> None:
    rows = {row.purpose: row for row in list_data_uses(plan, verdict, fits, told)}
    assert (rows["Training of the original"].samples, rows["Training of the original"].labels) == ("1,600", "used")
    assert rows["Calibration: statistics of inputs"].labels == "not used"
    step = next(row for name, row in rows.items() if name.endswith("distill: training"))
    assert (step.samples.startswith("300 steps"), step.labels) == (True, "not used")
    assert any(name.startswith("Verification: ") and row.which == "held out: no step saw them" for name, row in rows.items())
    bare = list_data_uses(replace(plan, calibration=replace(plan.calibration, samples=0)), replace(verdict, metrics=()), [], None)
    assert [(row.purpose, row.samples) for row in bare] == [("Calibration", "none"), ("Verification", "none")]


def test_the_page_shows_it(
    told: TrainingTold, plan: Plan, verdict: Verdict, places: list[PlaceRecord], fits: list[FitRecord]
) -> None:
    page = render_page(plan, verdict, places, fits, name="out", trained=told)
    assert "How the original was trained" in page and 'aria-label="Image accuracy over 800 steps: held out from 25 to 90"' in page
    assert "How the original was trained" not in render_page(plan, verdict, places, fits, name="out")
