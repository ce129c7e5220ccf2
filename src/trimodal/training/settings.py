"""How a run of the Trainer goes: steps, batches, precision, when it is evaluated and saved. Checked when it is made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trimodal.errors import InputError
from trimodal.machine import detect_processor

Precision = Literal["fp32", "bf16", "fp16"]
Schedule = Literal["cosine", "linear", "constant"]
DEVICES = ("cpu", "cuda", "cuda:0", "mps")
_FAST_IN = {"bf16": ("amx_bf16", "avx512_bf16"), "fp16": ("amx_fp16", "avx512_fp16")}
_NAMES = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 for bf16", "amx_fp16": "AMX for fp16", "avx512_fp16": "AVX-512 for fp16"}


@dataclass(frozen=True)
class EngineSettings:
    """How to train with Transformers' Trainer.

    `steps` counts optimizer steps, each over `batch` samples of all processes together, which go through in `accumulate` parts per
    process. `learning_rate` is the highest, reached after the fraction `warmup` of the steps. `gradient_clip` bounds the gradient's
    2-norm, 0 leaves it alone. `evaluate_every` and `checkpoint_every` count steps, 0 for never. With `patience` the run ends after as
    many evaluations in which `metric` did not get better by `least`, and the best weights are kept. `trackers` are names that
    Transformers knows (`wandb`, `mlflow`); `tensorboard` writes files into the run's folder.
    `frozen_noise` trains in eval mode: no dropout, batch norms keep their statistics.
    """

    steps: int
    batch: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    precision: Precision = "fp32"
    gradient_checkpointing: bool = False
    frozen_noise: bool = False
    evaluate_every: int = 0
    checkpoint_every: int = 0
    patience: int = 0
    least: float = 0.0
    metric: str = "loss"
    seed: int = 0
    device: str = "cpu"
    trackers: tuple[str, ...] = ()
    name: str = "trimodal"
    fsdp: bool = False

    def part_size(self, processes: int) -> int:
        """Samples that one process has go through at once.

        Raises:
            InputError: the batch cannot be parted so.
        """
        parts = self.accumulate * processes
        if self.batch % parts:
            raise InputError(
                f"batch is {self.batch}, which {processes} processes with accumulate {self.accumulate} cannot part evenly; "
                f"expected a multiple of {parts}"
            )
        return self.batch // parts


def count_processes() -> int:
    """How many processes `torchrun` or `accelerate launch` has started; 1 where none of them has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this process is the one that writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0


def check_device(device: str) -> None:
    """Refuse a device that a process cannot be told to use by its name.

    Raises:
        InputError: saying what to do instead.
    """
    if device not in DEVICES:
        raise InputError(f"device is {device!r}, but must be one of {', '.join(DEVICES)}; choose another GPU by CUDA_VISIBLE_DEVICES")


def check_precision(settings: EngineSettings) -> str:
    """What the user should know of the precision before the start; empty if nothing.

    Raises:
        InputError: it cannot be trained so.
    """
    if settings.precision == "fp16" and settings.fsdp:
        raise InputError("precision is fp16, whose loss scaling does not know of parts of a model; use bf16 or fp32 with fsdp")
    if settings.device != "cpu" or settings.precision == "fp32":
        return ""
    _, known = detect_processor()
    if set(_FAST_IN[settings.precision]) & set(known):
        return ""
    named = " nor ".join(_NAMES[one] for one in _FAST_IN[settings.precision])
    return f"{settings.precision} will be slower than fp32 here: this processor has neither {named}; it saves memory only"


@dataclass(frozen=True)
class RunFolder:
    """What a run keeps while it is under way: checkpoints, `curves.jsonl`, TensorBoard's files."""

    path: Path

    @property
    def curves(self) -> Path:
        """One JSON line per step and per evaluation."""
        return self.path / "curves.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's files."""
        return self.path / "tensorboard"
