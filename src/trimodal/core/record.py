"""What happened: one line per place, one per measurement, and the verdict over both.

`record.jsonl` holds `PlaceRecord` and `FitRecord` lines, each with its `kind`. `verdict.json` holds a `Verdict`.
Reports read these and never a model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Unit = Literal["percent", "cosine"]
PackName = Literal["plain", "entropy"]


@dataclass(frozen=True)
class PlaceRecord:
    """One place after its edit.

    `error` is the relative squared output error E‖Δy‖²/E‖Wx‖² of the observed site on the calibration tokens (the
    bias left out of the denominator), per modality; `weight_error` is ‖ΔW‖²/‖W‖², which needs no data.
    """

    edit: int
    method: str
    place: str
    tower: str
    block: int | None
    bytes_before: int
    bytes_after: int
    error: dict[str, float]
    weight_error: float | None
    tokens: dict[str, int]
    seconds: float
    notes: tuple[str, ...] = ()
    kind: str = "place"


@dataclass(frozen=True)
class FitRecord:
    """One step of a gradient method: its losses by name."""

    edit: int
    method: str
    step: int
    losses: dict[str, float]
    seconds: float
    kind: str = "fit"


@dataclass(frozen=True)
class Metric:
    """One task before and after. `drop` = before − after, with a paired 95 % interval from `drop_low` to
    `drop_high` over the same samples. Unit `percent` counts points; `cosine` compares an output with the
    original model's own, so `before` is 1."""

    name: str
    modality: str
    unit: Unit
    samples: int
    before: float
    after: float
    drop: float
    drop_low: float
    drop_high: float
    note: str = ""


@dataclass(frozen=True)
class Size:
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
class Stock:
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
class Check:
    """One thing that was checked before success was reported."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Verdict:
    """What the compressed model is, beside the original; `packing` where its weights are entropy-coded, `stock` where it
    is known who can load it."""

    size: Size
    towers: tuple[TowerSize, ...]
    metrics: tuple[Metric, ...]
    checks: tuple[Check, ...]
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    packing: Packing | None = None
    stock: Stock | None = None
    format: int = 1

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Verdict:
        """The inverse of `to_json`."""
        return Verdict(
            size=Size(**data["size"]),
            towers=tuple(TowerSize(**t) for t in data["towers"]),
            metrics=tuple(Metric(**m) for m in data["metrics"]),
            checks=tuple(Check(**c) for c in data["checks"]),
            seed=data["seed"],
            seconds=data["seconds"],
            versions=data["versions"],
            packing=Packing(**data["packing"]) if data.get("packing") else None,
            stock=Stock(**data["stock"]) if data.get("stock") else None,
            format=data["format"],
        )
