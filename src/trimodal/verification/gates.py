"""Floors that a recipe states, held against what was measured: the verdict about quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimodal.core import Check, Metric

POINT = 0.01


def gate_metrics(metrics: Sequence[Metric], floors: Mapping[str, float]) -> list[Check]:
    """One check for each metric that a floor bounds.

    `floors` maps a modality (or `all`) to the largest drop allowed: in points for percentages, in hundredths for
    cosines, in hundredths of what it was before for a score of the user's own. A modality's floor bounds all its metrics.
    `all` bounds the overall metric, and the primary one of every modality that has no floor of its own, so that no modality
    is lost behind a mean. A check passes where the measured drop is no larger; its detail says whether the whole 95 %
    interval is (shown) or only the measured value. A modality without a metric fails, since nothing is known.
    """
    found = [
        check for modality, floor in floors.items() if modality != "all" for check in _gate_modality(metrics, modality, floor)
    ]
    return [*_gate_overall(metrics, floors), *found]


def _gate_overall(metrics: Sequence[Metric], floors: Mapping[str, float]) -> list[Check]:
    """The checks of the floor for all modalities."""
    if "all" not in floors:
        return []
    concerned = [m for m in metrics if m.modality == "all" or (m.primary and m.modality not in floors)]
    return [_gate_metric(metric, float(floors["all"])) for metric in concerned] or [_unmeasured_check("all")]


def _gate_modality(metrics: Sequence[Metric], modality: str, floor: float) -> list[Check]:
    """The checks of a modality's own floor."""
    return [_gate_metric(m, float(floor)) for m in metrics if m.modality == modality] or [_unmeasured_check(modality)]


def _unmeasured_check(modality: str) -> Check:
    return Check.from_outcome(f"largest drop for {modality}", False, f"nothing was measured for {modality}", "quality")


def _gate_metric(metric: Metric, floor: float) -> Check:
    allowed = floor * {"percent": 1.0, "cosine": POINT, "score": POINT * abs(metric.before)}[metric.unit]
    unit, digits = (" points", 2) if metric.unit == "percent" else ("", 5)
    told = "no interval"
    if metric.drop_low is not None and metric.drop_high is not None:
        told = f"95 % interval {metric.drop_low:.{digits}f} to {metric.drop_high:.{digits}f}"
    whether = metric.drop <= allowed  # what is not a number is not
    return Check.from_outcome(
        name=f"{metric.name}: drop at most {allowed:g}{unit}",
        whether=whether,
        detail=f"drop {metric.drop:.{digits}f}{unit}, {told}, n = {metric.samples:,}: {_describe_margin(metric, allowed, whether)}",
        about="quality",
    )


def _describe_margin(metric: Metric, allowed: float, whether: bool) -> str:
    if not whether:
        return "too large"
    if metric.drop_high is None:
        return "measured, n too small to show"
    return "shown at 95 %" if metric.drop_high <= allowed else "measured but not shown at 95 %"
