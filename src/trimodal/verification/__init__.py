"""Verify: the compressed model beside the original, per modality, with paired intervals and gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimodal.core import Check, DiskSize, Sample, TowerSize, Verdict
from trimodal.data import VERIFICATION
from trimodal.models.model import Model
from trimodal.verification.comparison import ComparisonResult, Progress, check_comparable, compare_models
from trimodal.verification.footprint import collect_versions, detect_machine, peak_memory_bytes
from trimodal.verification.gates import gate_metrics
from trimodal.verification.intervals import PairedInterval, compute_paired_interval
from trimodal.verification.own_metric import Evaluate, measure_own

__all__ = [
    "ComparisonResult",
    "Evaluate",
    "PairedInterval",
    "Progress",
    "check_comparable",
    "collect_versions",
    "compare_models",
    "gate_metrics",
    "compute_paired_interval",
    "peak_memory_bytes",
    "detect_machine",
    "make_verdict",
]


def make_verdict(
    original: Model,
    compressed: Model,
    samples: Sequence[Sample],
    *,
    size: DiskSize,
    towers: Sequence[TowerSize],
    checks: Sequence[Check] = (),
    floors: Mapping[str, float] | None = None,
    batch_size: int = VERIFICATION.samples,
    seed: int = 0,
    seconds: Mapping[str, float] | None = None,
    versions: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    evaluate: Evaluate | None = None,
) -> Verdict:
    """Compare the two models on `samples` and hold the outcome against `floors`.

    `size`, `towers`, `checks`, `seconds` and `versions` are passed on into the verdict as they are; the gates
    follow after `checks`. What `evaluate` says stands first. Without samples nothing else is measured, and without either whether the
    floors are held is not judged.
    """
    own = measure_own(evaluate, original.module, compressed.module, seed)
    found = ComparisonResult([], None)
    if samples:
        found = compare_models(original, compressed, samples, batch_size=batch_size, seed=seed, progress=progress)
    metrics = [*own, *found.metrics]
    judged = gate_metrics(metrics, floors or {}) if metrics else _list_unjudged_floors(floors or {})
    return Verdict(
        size=size,
        towers=tuple(towers),
        metrics=tuple(metrics),
        checks=(*checks, *judged),
        seed=seed,
        seconds=dict(seconds or {}),
        versions=dict(versions or {}),
        latency=found.latency,
        machine=detect_machine(),
    )


def _list_unjudged_floors(floors: Mapping[str, float]) -> list[Check]:
    """The floors that nothing was measured against."""
    return [
        Check(f"largest drop for {modality}: {floor:g}", "not run", "no held-out samples: no data was given", "quality")
        for modality, floor in floors.items()
    ]
