"""Floors: passed and shown, passed but not shown, failed, and nothing measured."""

from __future__ import annotations

import pytest

from trimodal.core import Metric
from trimodal.core.record import Unit
from trimodal.verification import gate_metrics


def metric(
    drop: float, high: float | None, modality: str = "all", unit: Unit = "percent", primary: bool = True
) -> Metric:
    low = None if high is None else -0.1
    return Metric("answer accuracy", modality, unit, 1500, 96.0, 96.0 - drop, drop, low, high, primary=primary)


@pytest.mark.parametrize(
    ("drop", "high", "passed", "said"),
    [
        (0.3, 0.9, True, ": shown at 95 %"),
        (0.3, 1.2, True, "measured but not shown"),
        (1.1, 1.9, False, "too large"),
        (0.3, None, True, "no interval, n = 1,500: measured, n too small to show"),
        (1.3, None, False, "too large"),
        (float("nan"), 0.5, False, "too large"),
    ],
)
def test_points(drop: float, high: float | None, passed: bool, said: str) -> None:
    (check,) = gate_metrics([metric(drop, high)], {"all": 1.0})
    assert check.passed is passed
    assert said in check.detail and "n = 1,500" in check.detail
    assert check.name == "answer accuracy: drop at most 1 points"


def test_a_point_of_cosine_is_a_hundredth() -> None:
    found = [metric(0.015, 0.016, "image", "cosine"), metric(0.3, 0.4)]
    (check,) = gate_metrics(found, {"image": 1.0})
    assert not check.passed and "0.01500" in check.detail
    assert gate_metrics(found, {"image": 2.0})[0].passed


def test_nothing_measured_fails_and_one_modality_speaks_for_all() -> None:
    assert [c.passed for c in gate_metrics([], {"all": 1.0})] == [False]
    assert [c.passed for c in gate_metrics([metric(0.1, 0.2)], {"audio": 1.0})] == [False]
    assert [c.passed for c in gate_metrics([metric(0.1, 0.2, "text")], {"all": 1.0})] == [True]
    assert gate_metrics([metric(9, 9)], {}) == []


def test_the_floor_for_all_lets_no_modality_hide_behind_the_mean() -> None:
    found = [metric(0.2, 0.5), metric(0.1, 0.2, "image"), metric(30, 33, "audio"), metric(9, 9, "text", primary=False)]
    assert [c.passed for c in gate_metrics(found, {"all": 1.0})] == [True, True, False]
    assert [c.passed for c in gate_metrics(found, {"all": 1.0, "audio": 40.0})] == [True, True, True]
    assert [c.passed for c in gate_metrics(found, {"text": 1.0})] == [False]
