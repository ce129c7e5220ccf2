"""What happened: one line per place, one per measurement, and the verdict over both.

`record.jsonl` holds `PlaceRecord` and `FitRecord` lines, each with its `kind`. `verdict.json` holds a `Verdict`.
Reports read these and never a model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from trimodal.core.showing import format_size, html_table
from trimodal.core.untouched import DERIVED, UntouchedTensors
from trimodal.core.validation import Measured, check_format, omit_keys, read_record

Unit = Literal["percent", "cosine", "score"]
Status = Literal["passed", "failed", "not run"]
Aspect = Literal["integrity", "quality"]
PackName = Literal["plain", "entropy"]
VERDICT_FORMAT = 2
LEFT_ALONE = "left alone: "  # how the note begins of a place that could not be worked on after all


@dataclass(frozen=True)
class PlaceRecord:
    """One place after its edit. `edit` is the number of the edit in the plan, from 0, and `block` that of the tower's block.

    `error` is the relative squared output error E‖Δy‖²/E‖Wx‖² of the observed site on the calibration tokens (the bias left out
    of the denominator), per modality; `weight_error` is ‖ΔW‖²/‖W‖², which needs no data. `experts` are the calibration tokens that came
    to each of fused experts, empty for other layers.
    """

    edit: int
    method: str
    place: str
    tower: str
    block: int | None
    bytes_before: int
    bytes_after: int
    error: dict[str, Measured]
    weight_error: float | None
    tokens: dict[str, int]
    seconds: float
    notes: tuple[str, ...] = ()
    kind: Literal["place"] = "place"
    unmeasured: str = ""
    experts: tuple[int, ...] = ()


@dataclass(frozen=True)
class FitRecord:
    """One step of a gradient method: its losses by name. `edit` is the number of the edit in the plan, from 0."""

    edit: int
    method: str
    step: int
    losses: dict[str, Measured]
    seconds: float
    kind: Literal["fit"] = "fit"


@dataclass(frozen=True)
class Metric:
    """One task before and after. `drop` = before − after, with a paired 95 % interval from `drop_low` to
    `drop_high` over the same samples; None where there are too few for one. `interval` says how it was found
    (`verification/intervals.py`). Unit `percent` counts points; `cosine` compares an output with the original model's own,
    so `before` is 1; `score` is a metric of the user's own, of which more is better. One `primary` metric of a modality is what a
    floor for all modalities looks at."""

    name: str
    modality: str
    unit: Unit
    samples: int
    before: Measured
    after: Measured
    drop: Measured
    drop_low: float | None
    drop_high: float | None
    note: str = ""
    interval: str = "bootstrap"
    primary: bool = True


@dataclass(frozen=True)
class DiskSize:
    """Bytes on disk of all files that are needed to run the model (weights, configuration, processors), and of
    the weight files alone."""

    before_bytes: int
    after_bytes: int
    weights_before_bytes: int
    weights_after_bytes: int


@dataclass(frozen=True)
class Packing:
    """Bytes of the weight file as plain tensors and entropy-coded, and seconds that decoding took."""

    plain_bytes: int
    entropy_bytes: int
    decode_seconds: float


@dataclass(frozen=True)
class StockLoad:
    """Whether stock Transformers loads the folder where trimodal is not installed, and why not; no reason where it does."""

    alone: bool
    reason: str = ""


@dataclass(frozen=True)
class TowerSize:
    """Parameters and stored bytes of one tower before and after."""

    tower: str
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class Latency:
    """Milliseconds that a forward pass took per sample: medians over `batches` of about `batch_size` samples, both models
    on the same batches, on the machine of the run."""

    before_ms: float
    after_ms: float
    batches: int
    batch_size: int


@dataclass(frozen=True)
class Machine:
    """Where a run took place. `instructions` are the vector instructions that the libraries use, `memory_bytes` what the
    machine has; None where the system does not tell."""

    processor: str
    instructions: str
    cores: int
    threads: int
    memory_bytes: int | None


@dataclass(frozen=True)
class Check:
    """One thing that was checked, or was not, before success was reported; `detail` says what was found, or why it was not
    run. `integrity`: the folder holds what was measured, whole, and reloads. `quality`: what was lost, against a floor."""

    name: str
    status: Status
    detail: str
    about: Aspect = "integrity"

    @staticmethod
    def from_outcome(name: str, whether: bool, detail: str, about: Aspect = "integrity") -> Check:
        """A check that was run, and what came of it."""
        return Check(name, "passed" if whether else "failed", detail, about)

    @property
    def passed(self) -> bool:
        """Whether it was run and found right."""
        return self.status == "passed"

    @property
    def failed(self) -> bool:
        """Whether it was run and found wrong."""
        return self.status == "failed"


@dataclass(frozen=True, repr=False)
class Verdict:
    """What the compressed model is, beside the original; `packing` where its weights are entropy-coded, `stock` where it
    is known who can load it. `untouched` is what the plan left as it was, `peak_memory_bytes` the most memory that the run held,
    `find_unread_files` what lay in the original's folder and was neither counted nor carried over; a verdict that an older version
    wrote has none of these, nor a `machine` or a `latency`."""

    size: DiskSize
    towers: tuple[TowerSize, ...]
    metrics: tuple[Metric, ...]
    checks: tuple[Check, ...]
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    packing: Packing | None = None
    stock: StockLoad | None = None
    untouched: UntouchedTensors | None = None
    latency: Latency | None = None
    machine: Machine | None = None
    peak_bytes: int | None = None
    left_out: tuple[str, ...] = ()
    format: int = VERDICT_FORMAT

    def __repr__(self) -> str:
        sizes = f"{format_size(self.size.before_bytes)} → {format_size(self.size.after_bytes)}"
        lost = "".join(f", {m.name} {_format_value(m, m.before)} → {_format_value(m, m.after)}" for m in self.metrics[:1])
        quality = "not judged" if self.quality == "not run" else self.quality
        return f"<Verdict: {sizes}{lost}; integrity {self.integrity}, quality {quality}>"

    def _repr_html_(self) -> str:
        measured = [
            (m.name, m.modality, f"{m.samples:,}", _format_value(m, m.before), _format_value(m, m.after), _format_interval(m))
            for m in self.metrics
        ]
        checks = [(check.name, check.status, check.detail) for check in self.checks]
        return html_table(repr(self)[1:-1], ("measured", "modality", "n", "before", "after", "drop, 95 %"), measured) + html_table(
            "Checks", ("check", "status", "found"), checks
        )

    @property
    def integrity(self) -> Status:
        """Whether the folder holds what was measured, whole, and reloads. `not run` where nothing was checked."""
        return _combine_statuses(check for check in self.checks if check.about == "integrity")

    @property
    def quality(self) -> Status:
        """Whether no more was lost than the floors allow. `not run`, that is not judged, where no floor was set."""
        return _combine_statuses(check for check in self.checks if check.about == "quality")

    @property
    def passed(self) -> bool:
        """Whether no check failed; what was not run did not fail."""
        return not any(check.failed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        untouched = self.untouched.to_json() if self.untouched else None
        return {**asdict(self), "untouched": untouched, "integrity": self.integrity, "quality": self.quality}

    @staticmethod
    def from_json(data: Any, where: str = "verdict.json") -> Verdict:
        """The inverse of `to_json`, also of what an older version wrote.

        Raises:
            IntegrityError: it is of a later format, a key is missing or unknown, or a value is not what it must be; `where`
                begins the message, which names the key.
        """
        check_format(data, VERDICT_FORMAT, where)
        return read_record(Verdict, _bring_up_to_date(data), where, advice="verify the artifact anew")


def read_record_line(data: Any, where: str) -> PlaceRecord | FitRecord | None:
    """A line of `record.jsonl`; None for one of a kind that this version does not know, which reports leave out.

    Raises:
        IntegrityError: a key is missing or unknown, or a value is not what it must be; `where` begins the message.
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind == "place":
        return read_record(PlaceRecord, data, f"{where} (a place line)", advice="take the line out")
    return read_record(FitRecord, data, f"{where} (a fit line)", advice="take the line out") if kind == "fit" else None


def _bring_up_to_date(data: Any) -> Any:
    """A verdict's plain data as this version writes it, without what follows from the rest."""
    if not isinstance(data, dict):
        return data
    checks = data.get("checks")
    renewed = [_renew_check(check) for check in checks] if isinstance(checks, list) else checks
    format_now = VERDICT_FORMAT if data.get("format") == 1 else data.get("format", VERDICT_FORMAT)
    untouched = omit_keys(data.get("untouched"), *DERIVED)
    return {**omit_keys(data, "integrity", "quality"), "checks": renewed, "untouched": untouched, "format": format_now}


def _renew_check(check: Any) -> Any:
    """A check as this version writes it; those of format 1 knew but passed and failed."""
    if not isinstance(check, dict) or type(check.get("passed")) is not bool:
        return check
    return {**omit_keys(check, "passed"), "status": "passed" if check["passed"] else "failed"}


def _format_value(metric: Metric, value: float) -> str:
    return f"{value:.1f} %" if metric.unit == "percent" else f"{value:.4f}"


def _format_interval(metric: Metric) -> str:
    """The drop's interval, where there are samples enough for one."""
    if metric.drop_low is None or metric.drop_high is None:
        return f"n = {metric.samples}: no interval"
    return f"[{metric.drop_low:.3g}, {metric.drop_high:.3g}]"


def _combine_statuses(checks: Iterable[Check]) -> Status:
    """One failure fails all, one that was run and passed passes them."""
    found = {check.status for check in checks}
    return "failed" if "failed" in found else "passed" if "passed" in found else "not run"
