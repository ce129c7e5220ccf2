"""The output error of a place, from the weight before and after and what was seen of its input; or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from trimodal.core import Place, Site
from trimodal.maths.error import grouped_error, output_error, rows_error
from trimodal.statistics import GroupedMoment, Moment, RowUsage, Seen

COUNTED = (Moment, RowUsage, GroupedMoment)


def list_weight_paths(site: Site) -> tuple[str, ...]:
    """The paths at which the weight of `site` is used: its own, and for an embedding those that are tied to it."""
    return (site.path, *site.tied) if site.kind == "embedding" else (site.path,)


def worst_by_modality(errors: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The largest error per modality: a weight that is used twice is no better than where it does worse."""
    worst: dict[str, float] = {}
    for found in errors:
        for modality, error in found.items():
            worst[modality] = max(error, worst.get(modality, 0.0))
    return worst


def place_errors(before: Tensor, after: Tensor, bias_change: Tensor | None, seen: Mapping[str, Seen]) -> dict[str, float]:
    """The relative squared output error per modality of a weight (m, n); of an embedding that of the rows that were used."""
    return {
        modality: error
        for modality, part in seen.items()
        if (error := _measure_error(before, after, bias_change, part)) is not None
    }


def _measure_error(before: Tensor, after: Tensor, bias_change: Tensor | None, part: Seen) -> float | None:
    if isinstance(part, Moment):
        return output_error(before, after, part.second, part.mean, bias_change)
    if isinstance(part, RowUsage):
        return rows_error(before, after, part.counts)
    if isinstance(part, GroupedMoment):
        shares = part.shares.to(part.second.device)
        return grouped_error(before, after, part.second * shares.view(-1, 1, 1), part.mean * shares.view(-1, 1), bias_change)
    return None


NO_WEIGHTS = "no weight changes; what fewer tokens cost is measured at the model's outputs alone"


def explain_unmeasured(place: Place, data: bool) -> str:
    """Why nothing is known of what a place's change does to its output."""
    if not data:
        return "no data was given"
    site = place.observed_site
    if place.label is not None and site.groups > 1:
        return "the first layer that reads these units reads them in groups"
    if site.kind == "embedding":
        return "no calibration sample looked a row of it up"
    return "no calibration sample ran through it as a layer: nothing came there, or its weight is read without a call"
