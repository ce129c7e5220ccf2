"""Where marks go: positions in percent of a plot's area, ticks with their words. The template draws them.

Positions are percentages so that the page stays sharp and readable at every width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trimodal.core import FitRecord, Metric, PlaceRecord
from trimodal.reporting import wording

CURVE_POINTS = 240


@dataclass(frozen=True)
class AxisTick:
    """A labelled position `at` in percent of the axis."""

    at: float
    label: str


@dataclass(frozen=True)
class MetricWhisker:
    """One metric's drop `at` with its interval from `low` to `high`, in percent of a shared axis; `open` where there are too few
    samples for an interval, and then it is a point."""

    metric: Metric
    low: float
    at: float
    high: float
    open: bool = False


@dataclass(frozen=True)
class WhiskerPlot:
    """All metrics of one unit on a shared axis; `zero` is where no drop lies."""

    unit: str
    rows: tuple[MetricWhisker, ...]
    zero: float
    ticks: tuple[AxisTick, ...]


@dataclass(frozen=True)
class PlaceDot:
    """One place: position `x` and `y` in percent from left and top, the number of its edit, and words for hovering."""

    x: float
    y: float
    edit: int
    title: str
    exact: bool


@dataclass(frozen=True)
class TowerPanel:
    """One tower's places along its depth."""

    tower: str
    dots: tuple[PlaceDot, ...]
    ticks: tuple[AxisTick, ...]


@dataclass(frozen=True)
class DepthPlot:
    """Relative error along depth, a panel per tower on one logarithmic axis."""

    panels: tuple[TowerPanel, ...]
    ticks: tuple[AxisTick, ...]
    measured: bool
    edits: tuple[int, ...]


@dataclass(frozen=True)
class LossCurve:
    """One loss by name: points `x,y` for an SVG polyline of 100 × 100 units, first and last value."""

    name: str
    points: str
    first: float
    last: float


@dataclass(frozen=True)
class LossPlot:
    """Curves on one axis, such as all losses of one fitted edit: `name` and `note` stand above it."""

    name: str
    note: str
    steps: int
    curves: tuple[LossCurve, ...]
    x_ticks: tuple[AxisTick, ...]
    y_ticks: tuple[AxisTick, ...]
    logarithmic: bool = field(default=False)


# Drops with intervals


def make_whisker_plots(metrics: Sequence[Metric]) -> tuple[WhiskerPlot, ...]:
    """A shared axis per unit; metrics keep their order, those that are not finite have no whisker."""
    units = dict.fromkeys(metric.unit for metric in metrics)
    return tuple(_make_whisker_plot(unit, [m for m in metrics if m.unit == unit]) for unit in units)


def _make_whisker_plot(unit: str, metrics: Sequence[Metric]) -> WhiskerPlot:
    ends = [end for m in metrics for end in (m.drop_low, m.drop, m.drop_high) if end is not None and math.isfinite(end)]
    low, high, step = _round_range(min([0.0, *ends]), max([0.0, *ends]))

    def at(value: float) -> float:
        return round(100 * (value - low) / (high - low), 3) if math.isfinite(value) else 0.0

    places = max(0, -math.floor(math.log10(step) + 1e-9))
    marks = [low + i * step for i in range(round((high - low) / step) + 1)]
    ticks = tuple(AxisTick(at(mark), wording.format_signed(mark, places, plus=False)) for mark in marks)
    return WhiskerPlot(
        unit=unit,
        rows=tuple(_make_whisker(metric, at) for metric in metrics),
        zero=at(0.0),
        ticks=ticks,
    )


def _make_whisker(metric: Metric, at: Callable[[float], float]) -> MetricWhisker:
    middle = at(metric.drop)
    if metric.drop_low is None or metric.drop_high is None:
        return MetricWhisker(metric, middle, middle, middle, open=True)
    return MetricWhisker(metric, at(metric.drop_low), middle, at(metric.drop_high))


def _round_range(low: float, high: float) -> tuple[float, float, float]:
    """A range around `low` to `high` that starts, steps and ends at round numbers, in three to six steps."""
    span = high - low or max(abs(high), 1e-6)
    power = 10.0 ** math.floor(math.log10(span))
    step = next(power * factor for factor in (0.2, 0.5, 1.0, 2.0, 5.0) if span / (power * factor) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return first * step, max(last, first + 1) * step, step


# Error along depth


def make_depth_plot(records: Sequence[PlaceRecord], order: Sequence[str] = ()) -> DepthPlot | None:
    """Every place's error, the worst modality's where there are several; None where nothing has an error. Towers stand as
    in `order`, those that it leaves out behind.

    Where no place was measured on data, the change of the weights stands in for it.
    """
    measured = any(worst_error_of(record) is not None for record in records)
    values = [(r, worst_error_of(r) if measured else r.weight_error) for r in records]
    shown = [(r, value) for r, value in values if value is not None and math.isfinite(value)]
    positive = [value for _, value in shown if value > 0]
    if not positive:
        return None
    bottom, top = math.floor(math.log10(min(positive)) + 1e-9), math.ceil(math.log10(max(positive)) - 1e-9)
    bottom, top = max(bottom, top - 8), max(top, bottom + 1)

    def height(value: float) -> float:
        logarithm = math.log10(value) if value > 0 else bottom
        return round(100 * (top - min(max(logarithm, bottom), top)) / (top - bottom), 2)

    here = {record.tower for record, _ in shown}
    towers = dict.fromkeys([*(t for t in order if t in here), *(record.tower for record, _ in shown)])
    panels = tuple(_make_panel(tower, [(r, v, height(v)) for r, v in shown if r.tower == tower]) for tower in towers)
    stride = max(1, math.ceil((top - bottom) / 5))
    ticks = tuple(AxisTick(height(10.0**power), _format_power(power)) for power in range(bottom, top + 1, stride))
    return DepthPlot(panels, ticks, measured, tuple(sorted({record.edit for record, _ in shown})))


def worst_error_of(record: PlaceRecord) -> float | None:
    """The largest error over modalities; None where the place was not measured on data."""
    return max(record.error.values(), default=None)


def _format_power(power: int) -> str:
    if power >= -2:
        return f"{10.0 ** (power + 2):g} %"
    return f"{10.0 ** (power + 2):.{-power - 2}f} %" if power >= -4 else f"10{_to_superscript(power + 2)} %"


def _to_superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _make_panel(tower: str, rows: Sequence[tuple[PlaceRecord, float, float]]) -> TowerPanel:
    """Blocks side by side in running order; within a block, places side by side in the order of the record."""
    blocks = [record.block for record, _, _ in rows]
    columns = sorted({block for block in blocks if block is not None})
    outside = [-1] if None in blocks else []
    order = {block: index for index, block in enumerate([*outside, *columns])}
    width = 100 / len(order)
    seen: dict[int, int] = {}
    totals = {key: sum((-1 if b is None else b) == key for b in blocks) for key in order}
    dots = []
    for record, value, height in rows:
        key = -1 if record.block is None else record.block
        index = seen.get(key, 0)
        seen[key] = index + 1
        x = width * (order[key] + 0.14 + 0.72 * (index + 0.5) / totals[key])
        title = f"{record.place}, {record.method}: {format_percent(value)}"
        dots.append(PlaceDot(round(x, 2), height, record.edit, title, exact=value == 0))
    stride = max(1, math.ceil(len(order) / 8))
    ticks = tuple(
        AxisTick(round(width * (index + 0.5), 2), "other" if block == -1 else str(block))
        for block, index in order.items()
        if block == -1 or (index - len(outside)) % stride == 0
    )
    return TowerPanel(tower, tuple(dots), ticks)


def format_percent(value: float) -> str:
    """A relative error in percent with two significant digits: `1.2 %`, `0.034 %`, `0 %`."""
    if not math.isfinite(value):
        return "not a number"
    shown = value * 100
    if shown == 0:
        return "0 %"
    if shown < 1e-4:
        power = math.floor(math.log10(shown))
        return f"{shown / 10.0**power:.1f} {wording.TIMES} 10{_to_superscript(power)} %"
    places = max(0, 1 - math.floor(math.log10(abs(shown))))
    return f"{shown:,.{places}f} %"


# Losses along steps


def make_loss_plots(records: Sequence[FitRecord]) -> tuple[LossPlot, ...]:
    """One plot per fitted edit with at least two steps."""
    edits = dict.fromkeys(record.edit for record in records)
    plots = (_make_loss_plot([r for r in records if r.edit == edit]) for edit in edits)
    return tuple(plot for plot in plots if plot is not None)


def _make_loss_plot(records: Sequence[FitRecord]) -> LossPlot | None:
    names = dict.fromkeys(name for record in records for name in record.losses)
    series = {name: _smooth_series(records, name) for name in names}
    series = {name: points for name, points in series.items() if len(points) > 1}
    return plot_series(series, records[0].method, f"step {records[0].edit + 1}") if series else None


def plot_series(series: Mapping[str, Sequence[tuple[int, float]]], name: str, note: str = "", zero: bool = True) -> LossPlot:
    """Curves of (step, value) by name, of at least one point each, on one axis; from 0 on where `zero`. Values that span a factor of more
    than 50 get a logarithmic one."""
    values = [value for points in series.values() for _, value in points]
    steps = [step for points in series.values() for step, _ in points]
    first, last = min(steps), max(steps)
    logarithmic = min(values) > 0 and max(values) / min(values) > 50
    scaled = [math.log10(value) for value in values] if logarithmic else [*values, *([0.0] if zero else [])]
    low, high, step = _round_range(min(scaled), max(scaled))

    def point(at: int, value: float) -> str:
        y = math.log10(value) if logarithmic else value
        return f"{100 * (at - first) / max(1, last - first):.2f},{100 * (high - y) / (high - low):.2f}"

    curves = tuple(
        LossCurve(name, " ".join(point(*p) for p in points), points[0][1], points[-1][1]) for name, points in series.items()
    )
    marks = [low + i * step for i in range(round((high - low) / step) + 1)]
    y_ticks = tuple(AxisTick(100 * (high - m) / (high - low), f"{10**m if logarithmic else m:.3g}") for m in marks)
    x_ticks = tuple(AxisTick(p, f"{first + (last - first) * p / 100:,.0f}") for p in (0.0, 50.0, 100.0))
    return LossPlot(name, note, last, curves, x_ticks, y_ticks, logarithmic)


def _smooth_series(records: Sequence[FitRecord], name: str) -> list[tuple[int, float]]:
    return smooth_curve([(r.step, r.losses[name]) for r in records if name in r.losses and math.isfinite(r.losses[name])])


def smooth_curve(raw: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """(step, value), averaged over neighbouring steps so that there are at most `CURVE_POINTS`."""
    run = max(1, math.ceil(len(raw) / CURVE_POINTS))
    chunks = [raw[start : start + run] for start in range(0, len(raw), run)]
    ends = [chunk[0][0] if index == 0 else chunk[-1][0] for index, chunk in enumerate(chunks)]
    return [(end, sum(value for _, value in chunk) / len(chunk)) for end, chunk in zip(ends, chunks, strict=True)]
