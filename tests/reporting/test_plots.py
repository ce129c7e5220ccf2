"""Where marks go, on numbers small enough to check."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trimodal.core import FitRecord, Metric, PlaceRecord
from trimodal.reporting import plots


def metric(low: float, drop: float, high: float) -> Metric:
    return Metric("m", "all", "percent", 100, 90.0, 90.0 - drop, drop, low, high)


def test_whiskers_share_a_round_axis_that_holds_zero() -> None:
    (found,) = plots.make_whisker_plots([metric(1.0, 2.0, 4.0), metric(0.5, 1.0, 3.0)])
    assert [tick.label for tick in found.ticks] == ["0", "1", "2", "3", "4"]
    assert found.zero == 0
    assert (found.rows[0].low, found.rows[0].at, found.rows[0].high) == (25, 50, 100)


def test_no_drop_at_all_still_has_an_axis() -> None:
    (found,) = plots.make_whisker_plots([metric(0.0, 0.0, 0.0)])
    assert found.rows[0].at == found.zero == 0
    assert len(found.ticks) >= 2
    assert plots.make_whisker_plots([]) == ()


def record(block: int | None, error: float, edit: int = 0) -> PlaceRecord:
    return PlaceRecord(edit, "m", f"image.{block}", "image", block, 8, 4, {"image": error}, error, {}, 0.1)


def test_depth_is_logarithmic_and_in_block_order() -> None:
    found = plots.make_depth_plot([record(1, 1e-2), record(0, 1e-4), record(None, 1e-3)])
    assert found is not None and found.measured
    (panel,) = found.panels
    assert [tick.label for tick in panel.ticks] == ["other", "0", "1"]
    assert [dot.y for dot in panel.dots] == [0, 100, 50]
    assert panel.dots[2].x < panel.dots[1].x < panel.dots[0].x
    assert [tick.label for tick in found.ticks] == ["0.01 %", "0.1 %", "1 %"]


def test_depth_without_errors() -> None:
    assert plots.make_depth_plot([]) is None
    assert plots.make_depth_plot([record(0, 0.0)]) is None
    unmeasured = plots.make_depth_plot([replace(record(0, 0.1), error={})])
    assert unmeasured is not None and not unmeasured.measured


def test_losses_from_first_to_last() -> None:
    steps = [FitRecord(1, "distill", step, {"logits": 2.0 / step}, 0.1) for step in (1, 2, 4)]
    (found,) = plots.make_loss_plots(steps)
    (curve,) = found.curves
    assert (curve.first, curve.last) == (2.0, 0.5)
    assert curve.points == "0.00,0.00 33.33,50.00 100.00,75.00"
    assert plots.make_loss_plots(steps[:1]) == ()


def test_many_steps_are_averaged() -> None:
    steps = [FitRecord(1, "distill", step, {"logits": 1.0 + step % 2}, 0.1) for step in range(1, 4801)]
    (found,) = plots.make_loss_plots(steps)
    assert len(found.curves[0].points.split()) == plots.CURVE_POINTS
    assert found.curves[0].last == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.3, "30 %"), (0.012, "1.2 %"), (3.4e-4, "0.034 %"), (0.0, "0 %"), (5e-9, "5.0 × 10⁻⁷ %")]
)
def test_percent(value: float, shown: str) -> None:
    assert plots.format_percent(value) == shown
