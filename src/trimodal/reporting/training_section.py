"""How the original was trained, where `train` told of it: the curves of losses and of what was measured while it ran."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimodal.models.files import TRAINING
from trimodal.reporting import wording
from trimodal.reporting.plots import LossPlot, plot_series, smooth_curve

_HELD_OUT = "eval_"
_LOSSES = {"loss": "while training", "eval_loss": "held out"}


@dataclass(frozen=True)
class TrainingTold:
    """What `training.json` and `curves.jsonl` hold."""

    record: Mapping[str, Any]
    curves: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class TrainingSection:
    """A line on the whole, and the plots."""

    line: str
    plots: tuple[LossPlot, ...]


def read_training(folder: Path) -> TrainingTold | None:
    """What was told of the training; None where there is none, or files of those names are another program's."""
    record, curves = (folder / name for name in TRAINING)
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        lines = [json.loads(line) for line in curves.read_text(encoding="utf-8").splitlines()] if curves.is_file() else []
    except (OSError, ValueError):
        return None
    known = isinstance(found, dict) and isinstance(found.get("config"), dict) and isinstance(found.get("data"), dict)
    ours = known and all(isinstance(line, dict) and isinstance(line.get("step"), int) for line in lines)
    return TrainingTold(found, lines) if ours else None


def make_training_section(told: TrainingTold) -> TrainingSection:
    """The section on `told`."""
    return TrainingSection(_describe_training(told.record), tuple(_make_plots(told.curves)))


def _describe_training(record: Mapping[str, Any]) -> str:
    config = record["config"]
    parts = [
        f"{record.get('steps', 0):,} steps of {config.get('batch', '?')} samples for the task {config.get('task', '?')}",
        f"in {config.get('precision', 'fp32')}",
        f"seed {record.get('seed', '?')}",
        wording.format_seconds(record["seconds"]) if isinstance(record.get("seconds"), int | float) else "",
        "stopped early" if record.get("stopped_early") else "",
    ]
    return f"{', '.join(part for part in parts if part)}."


def _make_plots(curves: Sequence[Mapping[str, Any]]) -> Iterator[LossPlot]:
    """Losses on one axis; every other number that was measured on held-out samples on its own."""
    losses = {words: _read_series(curves, key) for key, words in _LOSSES.items()}
    losses = {words: points for words, points in losses.items() if len(points) > 1}
    if losses:
        yield plot_series(losses, "Loss")
    names = dict.fromkeys(key for line in curves for key in line if key.startswith(_HELD_OUT) and key != "eval_loss")
    for key in names:
        points = _read_series(curves, key)
        if len(points) > 1:
            name = key.removeprefix(_HELD_OUT).replace("_", " ")
            yield plot_series({"held out": points}, name[:1].upper() + name[1:], zero=False)


def _read_series(curves: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    raw = [(line["step"], float(line[key])) for line in curves if isinstance(line.get(key), int | float)]
    return smooth_curve([point for point in raw if math.isfinite(point[1])])
