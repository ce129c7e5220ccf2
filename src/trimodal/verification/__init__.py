"""Verify: the compressed model beside the original, per modality, with paired intervals and gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimodal.core import Check, Sample, Size, TowerSize, Verdict
from trimodal.models.model import Model
from trimodal.verification.comparison import Compared, Progress, check_comparable, compare
from trimodal.verification.footprint import peak_bytes, this_machine
from trimodal.verification.gates import gates
from trimodal.verification.intervals import Interval, paired_interval

__all__ = [
    "Compared",
    "Interval",
    "Progress",
    "check_comparable",
    "compare",
    "gates",
    "paired_interval",
    "peak_bytes",
    "this_machine",
    "verify",
]


def verify(
    original: Model,
    compressed: Model,
    samples: Sequence[Sample],
    *,
    size: Size,
    towers: Sequence[TowerSize],
    checks: Sequence[Check] = (),
    floors: Mapping[str, float] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    seconds: Mapping[str, float] | None = None,
    versions: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Compare the two models on `samples` and hold the outcome against `floors`.

    `size`, `towers`, `checks`, `seconds` and `versions` are passed on into the verdict as they are; the gates
    follow after `checks`. Without samples nothing is measured, and whether the floors are held is not judged.
    """
    found = Compared([], None)
    if samples:
        found = compare(original, compressed, samples, batch_size=batch_size, seed=seed, progress=progress)
    judged = gates(found.metrics, floors or {}) if samples else _not_judged(floors or {})
    return Verdict(
        size=size,
        towers=tuple(towers),
        metrics=tuple(found.metrics),
        checks=(*checks, *judged),
        seed=seed,
        seconds=dict(seconds or {}),
        versions=dict(versions or {}),
        latency=found.latency,
        machine=this_machine(),
    )


def _not_judged(floors: Mapping[str, float]) -> list[Check]:
    """The floors that nothing was measured against."""
    return [
        Check(f"largest drop for {modality}: {floor:g}", "not run", "no held-out samples: no data was given", "quality")
        for modality, floor in floors.items()
    ]
