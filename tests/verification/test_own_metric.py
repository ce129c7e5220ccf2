"""A metric of one's own: numbers, scores per sample, several by name; and what is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trimodal.errors import InputError, ModelError
from trimodal.verification import gate_metrics
from trimodal.verification.intervals import tango_interval
from trimodal.verification.own_metric import measure_own

BEFORE, AFTER = nn.Linear(2, 1), nn.Linear(2, 2)


def scored(before: Any, after: Any) -> Any:
    return lambda module: before if module is BEFORE else after


def measure(before: Any, after: Any) -> Any:
    return measure_own(scored(before, after), BEFORE, AFTER, seed=0)


def test_one_number_has_no_interval() -> None:
    (found,) = measure(0.9, torch.tensor(0.8))
    assert (found.name, found.unit, found.modality, found.samples, found.drop_low) == ("score", "score", "all", 1, None)
    assert (found.before, found.after, found.drop) == pytest.approx((0.9, 0.8, 0.1), abs=1e-7)


def test_scores_of_samples_have_a_paired_interval() -> None:
    (right,) = measure([1] * 90 + [0] * 10, torch.tensor([1.0] * 80 + [0.0] * 20))
    assert (right.interval, right.samples, right.before, right.after) == ("score", 100, 0.9, 0.8)
    assert right.drop_low is not None and right.drop_high is not None
    assert (right.drop, right.drop_low, right.drop_high) == pytest.approx((0.1, *tango_interval(10, 0, 100)))
    (graded,) = measure([0.5 * i for i in range(20)], [0.5 * i - 0.1 * (i % 2) for i in range(20)])
    assert graded.interval == "bootstrap" and graded.drop == pytest.approx(0.05)
    (equal,) = measure([1.0] * 20, [1.0] * 20)
    assert (equal.interval, equal.drop_low) == ("too few", None)


def test_several_by_name_and_the_functions_name() -> None:
    assert [m.name for m in measure({"f1": 1, "bleu": 2.5}, {"f1": 1, "bleu": 2.0})] == ["f1", "bleu"]

    def accuracy(module: nn.Module) -> float:
        assert not module.training and not torch.is_grad_enabled()
        return 1.0

    assert measure_own(accuracy, BEFORE, AFTER, seed=0)[0].name == "accuracy"
    assert measure_own(None, BEFORE, AFTER, seed=0) == []


def test_a_floor_is_in_hundredths_of_what_it_was() -> None:
    found = measure(40.0, 39.7)
    held, broken = (gate_metrics(found, {"all": floor})[0] for floor in (1.0, 0.5))
    assert held.status == "passed" and held.name == "score: drop at most 0.4" and broken.status == "failed"


@pytest.mark.parametrize(("before", "after", "found"), [
    ("good", "bad", "evaluate gives a str for score; expected a number"), ([[1.0]], [[1.0]], r"of the shape \(1, 1\)"),
    ({"a": 1}, {"b": 1}, "expected as many"), ([], [], r"shape \(0,\)"),
    ([1, 2], [1], r"evaluate gives score \(2\) for the original and score \(1\)"),
    (None, None, "evaluate gives None for score"),
])  # fmt: skip
def test_what_is_no_score_is_told(before: Any, after: Any, found: str) -> None:
    with pytest.raises(InputError, match=found):
        measure(before, after)


def test_a_function_that_fails_is_told() -> None:
    with pytest.raises(ModelError, match=r"evaluate on Linear failed \(ZeroDivisionError"):
        measure_own(lambda module: 1 / 0, BEFORE, AFTER, seed=0)
    with pytest.raises(InputError, match="evaluate is a float; expected a function"):
        measure_own(0.5, BEFORE, AFTER, seed=0)  # type: ignore[arg-type]
