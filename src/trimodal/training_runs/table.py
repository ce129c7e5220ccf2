"""What `train` shows at the end."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from trimodal.training_runs.run import TrainResult


def make_training_table(result: TrainResult) -> Table:
    """The loss at the beginning and at the end, and what was measured on held-out samples, first and last."""
    table = Table()
    for heading in ("", "first", "last"):
        table.add_column(heading, justify="right" if heading else "left")
    losses = [line["loss"] for line in result.curves if line.get("loss") is not None]
    if losses:
        table.add_row("loss while training", f"{losses[0]:.4g}", f"{losses[-1]:.4g}")
    for name, value in result.metrics.items():
        first = _find_first(result.curves, f"eval_{name}")
        table.add_row(f"held out: {name.replace('_', ' ')}", "–" if first is None else f"{first:.4g}", f"{value:.4g}")
    return table


def _find_first(curves: list[dict[str, Any]], key: str) -> float | None:
    return next((line[key] for line in curves if line.get(key) is not None), None)


def describe_training(result: TrainResult) -> str:
    """How long it took, and where the model is."""
    early = ", stopped early" if result.stopped_early else ""
    return f"{result.steps:,} steps{early} in {result.seconds:,.0f} s; written: {result.folder}"
