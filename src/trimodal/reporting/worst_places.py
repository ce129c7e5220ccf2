"""The part of the page that tells where it hurt: towers by what they lost, and the places with the largest errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trimodal.core import Metric, PlaceRecord, Verdict
from trimodal.reporting import plots, wording

WORST_SHOWN = 8


@dataclass(frozen=True)
class TowerLoss:
    """What a tower's modality lost, in points or hundredths of a cosine, and in words; None where that was not measured."""

    tower: str
    lost: float | None
    words: str


def rank_towers_by_loss(verdict: Verdict, places: Sequence[PlaceRecord]) -> list[TowerLoss]:
    """The towers with records, the one first whose modality lost most as measured. Those without a metric of their own
    follow by their largest output error."""
    measured = {metric.modality: metric for metric in reversed(verdict.metrics) if metric.primary}
    worst: dict[str, float] = {}
    for record in places:
        error = plots.worst_error_of(record)
        value = error if error is not None else record.weight_error or 0.0
        worst[record.tower] = max(worst.get(record.tower, 0.0), value if math.isfinite(value) else math.inf)
    found = [_make_tower_loss(tower, measured.get(tower)) for tower in worst]
    return sorted(found, key=lambda one: (one.lost is None, -(one.lost or 0.0), -worst[one.tower]))


def _make_tower_loss(tower: str, metric: Metric | None) -> TowerLoss:
    if metric is None:
        return TowerLoss(tower, None, "no metric of its own")
    lost = metric.drop if metric.unit == "percent" else 100 * metric.drop
    words = f"{metric.name}: {wording.describe_change(metric)}"
    return TowerLoss(tower, lost if math.isfinite(lost) else math.inf, words)


@dataclass(frozen=True)
class WorstPlace:
    """One of the places with the largest error of its tower; `edit` is the number of the edit that it belongs to, from 0."""

    tower: str
    lost: str
    place: str
    method: str
    edit: int
    error: str
    modality: str


def find_worst_places(places: Sequence[PlaceRecord], losses: Sequence[TowerLoss]) -> list[WorstPlace]:
    """The places of each tower that moved most, tower by tower in the order of `losses`."""
    shown = max(2, WORST_SHOWN // max(1, len(losses)))
    return [row for loss in losses for row in _find_worst_of_tower(loss, [r for r in places if r.tower == loss.tower])[:shown]]


def _find_worst_of_tower(loss: TowerLoss, places: Sequence[PlaceRecord]) -> list[WorstPlace]:
    measured = [(record, modality, value) for record in places for modality, value in record.error.items()]
    if not measured:
        measured = [(r, "weights", r.weight_error) for r in places if r.weight_error is not None]
    highest: dict[tuple[int, str], tuple[PlaceRecord, str, float]] = {}
    for record, modality, value in sorted(measured, key=lambda entry: -entry[2]):
        highest.setdefault((record.edit, record.place), (record, modality, value))
    return [
        WorstPlace(loss.tower, loss.words, record.place, record.method, record.edit, plots.format_percent(value), modality)
        for record, modality, value in highest.values()
    ]


def count_unmeasured(places: Sequence[PlaceRecord]) -> list[tuple[str, int, str]]:
    """(why, how many, the first one) of the places whose output error is not known, if any is known at all."""
    if not any(record.error for record in places):
        return []
    reasons: dict[str, list[str]] = {}
    for record in places:
        if not record.error:
            reasons.setdefault(record.unmeasured or "not known", []).append(record.place)
    return [(why, len(names), names[0]) for why, names in reasons.items()]
