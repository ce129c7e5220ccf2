"""What a run tells while it goes: the curves as JSON lines, how far it is, and the trackers."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback
from transformers.integrations.integration_utils import TensorBoardCallback

from trimodal.errors import InputError
from trimodal.progress import Progress
from trimodal.training.settings import RunFolder
from trimodal.training.steps import OnStep, StepRecord, ignore_step

TRACKERS = ("tensorboard", "wandb", "mlflow")
_CURVES = ("loss", "grad_norm", "learning_rate")


class ProgressTeller(TrainerCallback):
    """Shows how many steps are done and the last loss, and tells each evaluation."""

    def __init__(self, progress: Progress, tell: Callable[[str], None], steps: int) -> None:
        self._progress, self._tell, self._steps = progress, tell, steps

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        """After each step."""
        if state.is_world_process_zero and logs and "loss" in logs:
            self._progress(f"train, loss {logs['loss']:.4g}", state.global_step, self._steps)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **rest: Any) -> None:
        """After each evaluation."""
        if state.is_world_process_zero and metrics:
            losses = [line["loss"] for line in state.log_history if "loss" in line]
            trained = f"loss {losses[-1]:.4g}; " if losses else ""
            self._tell(f"step {state.global_step:,} of {self._steps:,}: {trained}{describe_numbers(metrics)}")


class StepMeter(TrainerCallback):
    """Adds up the losses of a step's batches, and tells the step's record when its weights are made."""

    def __init__(self) -> None:
        self._on_step: OnStep = ignore_step
        self._totals: dict[str, float] = {}
        self._norm, self._rate, self._began = 0.0, 0.0, time.perf_counter()

    def tell_steps_to(self, on_step: OnStep) -> None:
        """Call `on_step` with each record from now on."""
        self._on_step = on_step

    def add_losses(self, parts: Mapping[str, Tensor], share: float) -> None:
        """Take in a batch's `loss` and parts, scalars, which are `share` of the step's."""
        for name, value in parts.items():
            self._totals[name] = self._totals.get(name, 0.0) + float(value.detach()) * share

    def note_gradient(self, norm: float) -> None:
        """Take in the step's gradient norm."""
        self._norm = norm

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **rest: Any) -> None:
        """Note the learning rate."""
        self._rate = float(optimizer.param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Tell the record, and begin the next."""
        totals, now = self._totals, time.perf_counter()
        loss = totals.pop("loss", 0.0)
        self._on_step(StepRecord(state.global_step, loss, self._rate, self._norm, now - self._began, totals))
        self._totals, self._began = {}, now


def describe_numbers(metrics: Mapping[str, float]) -> str:
    """An evaluation in words: `held out: loss 0.7, image accuracy 80`."""
    shown = ", ".join(f"{name.removeprefix('eval_').replace('_', ' ')} {value:.4g}" for name, value in metrics.items())
    return f"held out: {shown}"


def write_curve(file: Path, step: int, logs: Mapping[str, float]) -> None:
    """Add one line: the step, and numbers by name; what is not finite as null."""
    numbers = {name: value for name, value in logs.items() if name in _CURVES or name.startswith("eval_")}
    kept = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    if kept:
        with file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps({"step": step, **kept}) + "\n")


def read_curves(file: Path) -> list[dict[str, Any]]:
    """The lines of a `curves.jsonl`, without one that a kill has left unfinished."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def trim_curves(file: Path, step: int) -> None:
    """Leave out what came after `step`, which will come again."""
    if file.is_file():
        kept = [line for line in read_curves(file) if line["step"] <= step]
        file.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def make_trackers(names: Iterable[str], run: RunFolder) -> list[TrainerCallback]:
    """The trackers that Transformers does not make by name: TensorBoard's, which writes beside the curves."""
    if "tensorboard" not in names:
        return []
    tracker = TensorBoardCallback()
    tracker.logging_dir = str(run.tensorboard)
    return [tracker]


def check_trackers(names: Iterable[str]) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        InputError: saying how to install it.
    """
    for name in names:
        if find_spec(name) is None:
            raise InputError(f"track names {name}, which is not installed; run pip install {name}, or use track: none")
