"""Which samples were used for what, and whether anybody looked at their labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from trimodal.core import FitRecord, Metric, Plan, Verdict
from trimodal.methods import list_known_methods
from trimodal.methods.options import build_config
from trimodal.reporting.training_section import TrainingTold

NOT_USED = "not used"
_TAUGHT = {"reconstruct": NOT_USED, "retrieve": "not used: what stands in one line belongs together", "generate": "not used: the texts"}


@dataclass(frozen=True)
class DataUse:
    """One purpose: how many samples, whether labels were used, and which samples they were."""

    purpose: str
    samples: str
    labels: str
    which: str


def list_data_uses(plan: Plan, verdict: Verdict, fits: Sequence[FitRecord], trained: TrainingTold | None) -> list[DataUse]:
    """All uses, in the order in which they came."""
    return [*_list_training(trained), *_list_calibration(plan), *_list_fits(plan, fits), *_list_verification(verdict)]


def _list_training(trained: TrainingTold | None) -> Iterator[DataUse]:
    if trained is None:
        return
    data, task = trained.record["data"], trained.record["config"].get("task", "")
    which = f"sha256 {str(data.get('sha256', ''))[:12]} of all samples"
    yield DataUse("Training of the original", _format_count(data.get("train")), _TAUGHT.get(task, "used"), which)
    if data.get("held_out"):
        yield DataUse("Measured while training", _format_count(data["held_out"]), _TAUGHT.get(task, "used"), "held out of the same data")


def _list_calibration(plan: Plan) -> Iterator[DataUse]:
    found = plan.calibration
    if not found.samples:
        yield DataUse("Calibration", "none", NOT_USED, "no step was given any")
        return
    which = f"of {', '.join(found.modalities)}; sha256 {(found.sha256 or '')[:12]} of the whole part"
    yield DataUse("Calibration: statistics of inputs", _format_count(found.samples), NOT_USED, which)


def _list_fits(plan: Plan, fits: Sequence[FitRecord]) -> Iterator[DataUse]:
    known = {method.name: method for method in list_known_methods()}
    for number in dict.fromkeys(record.edit for record in fits):
        if not 0 <= number < len(plan.edits):
            continue
        edit = plan.edits[number]
        method = known.get(edit.method)
        labels = "used" if method is not None and method.labels(build_config(method.config, edit.config, edit.method)) else NOT_USED
        batch = edit.config.get("batch")
        steps = sum(record.edit == number for record in fits)
        drawn = f"{steps:,} steps{f' of up to {batch} samples' if batch else ''}"
        yield DataUse(f"Step {number + 1}, {edit.method}: training", drawn, labels, "the whole calibration part; held-out samples left out")


def _list_verification(verdict: Verdict) -> Iterator[DataUse]:
    if not verdict.metrics:
        yield DataUse("Verification", "none", NOT_USED, "no data was given")
    for metric in verdict.metrics:
        purpose = f"Verification: {metric.name}, {metric.modality}"
        yield DataUse(purpose, _format_count(metric.samples), _describe_labels(metric), "held out: no step saw them")


def _describe_labels(metric: Metric) -> str:
    """Whether a metric looks at labels."""
    if metric.unit == "cosine":
        return "not used: compared with the original's own outputs"
    return _TAUGHT["retrieve"] if "recall" in metric.name.lower() else "used"


def _format_count(count: Any) -> str:
    return f"{count:,}" if isinstance(count, int) else "not known"
