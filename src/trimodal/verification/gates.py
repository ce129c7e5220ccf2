"""Floors that a recipe states, held against what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimodal.core import Check, Metric

COSINE_POINT = 0.01


def gates(metrics: Sequence[Metric], floors: Mapping[str, float]) -> list[Check]:
    """One check for each metric of each modality in `floors`.

    `floors` maps a modality (or `all`) to the largest drop allowed: in points for percentages, in hundredths for
    cosines. A check passes where the measured drop is no larger; its detail says whether the whole 95 % interval
    is (shown) or only the measured value (not shown). A modality without a metric fails, since nothing is known.
    """
    return [check for modality, floor in floors.items() for check in _gate(metrics, modality, float(floor))]


def _gate(metrics: Sequence[Metric], modality: str, floor: float) -> list[Check]:
    concerned = [metric for metric in metrics if metric.modality == modality]
    if not concerned and modality == "all" and len({metric.modality for metric in metrics}) == 1:
        concerned = list(metrics)
    if not concerned:
        return [Check.held(f"largest drop for {modality}", False, f"nothing was measured for {modality}", "quality")]
    return [_held(metric, floor) for metric in concerned]


def _held(metric: Metric, floor: float) -> Check:
    allowed = floor if metric.unit == "percent" else floor * COSINE_POINT
    unit, digits = (" points", 2) if metric.unit == "percent" else ("", 5)
    interval = f"95 % interval {metric.drop_low:.{digits}f} to {metric.drop_high:.{digits}f}"
    if metric.drop > allowed:
        standing = "too large"
    elif metric.drop_high > allowed:
        standing = "measured but not shown at 95 %"
    else:
        standing = "shown at 95 %"
    return Check.held(
        name=f"{metric.name}: drop at most {allowed:g}{unit}",
        whether=metric.drop <= allowed,
        detail=f"drop {metric.drop:.{digits}f}{unit}, {interval}, n = {metric.samples:,}: {standing}",
        about="quality",
    )
