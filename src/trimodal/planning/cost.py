"""What a plan will cost: seconds, memory and disk, from its places' shapes and what this machine was measured to do.

The model of cost, with m × n the shape of a weight:

    rounding      passes · 4 m n bytes                 at the pace of a copy
    solving       a · 2 m n² + b · 2 n³ operations     at the pace of a product of matrices, `_USED` of it
    looking       3 forward passes and 2 n² operations per token, for every sample that statistics are taken from
    training      4 forward passes per sample and step
    verifying     2 forward passes per held-out sample, and what a packed layer adds: decoding it once per batch
    reloading     what reading took so far: another process reads the result

`passes`, `a` and `b` are per method (its `pace`), measured once on the built-in and the MiniLM encoder; a method that says
nothing of it counts as GPTQ does. Memory is the model, its copy where there is data, the compressed layers, and the larger of: a few
float32 copies of the largest weight; the other process while the result is reloaded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from trimodal.core import Edit, Layout, Plan, Site
from trimodal.core.estimate import Estimate
from trimodal.data import VERIFICATION
from trimodal.errors import InputError
from trimodal.machine import free_memory_bytes
from trimodal.methods import get_method
from trimodal.models.files import weight_files

_USED = 0.4  # of a product's pace, in layers with all that is around them
_PROCESS_BYTES = 450_000_000  # torch, Transformers and trimodal, imported
_LARGEST_COPIES = 4  # float32 copies of the largest weight while it is worked on
_DEFAULT_TOKENS = 64
_FORWARDS_TO_LOOK, _FORWARDS_TO_TRAIN = 3, 4
_VERIFY_BATCH = VERIFICATION.samples
_SAVED_BYTES_PER_SECOND = 200e6  # hashing, writing, reading back
_COMPANIONS_BYTES = 2_000_000
_PRODUCT = 512
_COPIED, _TRIES = 1 << 22, 6


@dataclass(frozen=True)
class MachineSpeed:
    """What the machine does in a second: operations of a float32 product, and bytes copied."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Workload:
    """How many samples are worked on: for `statistics`, for training (`calibration`), and `held_out`; `macs` of one sample's
    forward pass (multiply-accumulates), None where they could not be counted."""

    statistics: int = 0
    calibration: int = 0
    held_out: int = 0
    macs: int | None = None


@cache
def measure_speed() -> MachineSpeed:
    """The pace of this machine, by a product and a copy that take a few milliseconds."""
    a, whole = torch.ones(_PRODUCT, _PRODUCT), torch.ones(_COPIED)
    return MachineSpeed(2 * _PRODUCT**3 / _time_fastest(lambda: a @ a), 2 * 4 * _COPIED / _time_fastest(whole.clone))


def _time_fastest(work: Any) -> float:
    seconds = []
    for _ in range(_TRIES):  # whatever else runs on the machine only adds
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return max(min(seconds), 1e-9)


def estimate_cost(plan: Plan, layout: Layout, work: Workload, reading_seconds: float, pace: MachineSpeed) -> Estimate:
    """What carrying out `plan` on the model with `layout` will take.

    Args:
        plan: with every place by name.
        layout: of the model as it is, for the shapes.
        work: how much data.
        reading_seconds: what starting and reading the model has taken, which the process that reloads it will take again.
        pace: of the machine.
    """
    forward = 2 * (work.macs or plan.source.parameters * _DEFAULT_TOKENS) / (pace.flops * _USED)
    solving = sum(_estimate_solving_seconds(edit, layout, pace) for edit in plan.edits if edit.places)
    weights = sum(site.rows * site.columns for site in layout.sites if site.kind == "linear")
    tokens = (work.macs or 0) / max(1, weights) or _DEFAULT_TOKENS
    moments = sum(2 * tokens * site.columns**2 for site in _find_observed_sites(plan, layout)) / (pace.flops * _USED)
    looking = work.statistics * (_FORWARDS_TO_LOOK * forward + moments)
    training = sum(_count_training_samples(edit) for edit in plan.edits) * _FORWARDS_TO_TRAIN * forward
    decoding = plan.source.parameters * 4 * 10 / pace.bytes
    verifying = work.held_out * 2 * forward + -(-work.held_out // _VERIFY_BATCH) * decoding
    seconds = {
        "compress": solving + looking + training,
        "save": plan.expected_tensor_bytes / _SAVED_BYTES_PER_SECOND + 0.1,
        "reload": reading_seconds + plan.source.tensor_bytes / _SAVED_BYTES_PER_SECOND,
        "verify": verifying + 0.1,
    }
    more = _estimate_extra_memory(plan, layout, copied=bool(work.calibration))
    return Estimate(seconds, (_read_process_memory() or _PROCESS_BYTES + plan.source.tensor_bytes) + more, more,
                    plan.expected_tensor_bytes + _COMPANIONS_BYTES)  # fmt: skip


def _estimate_solving_seconds(edit: Edit, layout: Layout, pace: MachineSpeed) -> float:
    pace_of = get_method(edit.method).pace
    total = 0.0
    for site in _find_edited_sites([edit], layout):
        m, n = site.rows, site.columns
        operations = pace_of.products * 2 * m * n * n + pace_of.cubes * 2 * n**3 * site.groups
        total += pace_of.passes * 4 * m * n / pace.bytes + operations / (pace.flops * _USED)
    return total


def _find_edited_sites(edits: Iterable[Edit], layout: Layout) -> Iterator[Site]:
    """The sites that the edits' places name, as the model has them now; parts that an earlier edit will make count as the whole."""
    known = {site.path: site for site in layout.sites}
    for edit in edits:
        for path in {path for place in edit.places for path in place.paths}:
            site = known.get(path) or known.get(path.rpartition(".")[0])
            if site is not None:
                yield site


def _find_observed_sites(plan: Plan, layout: Layout) -> Iterator[Site]:
    """Sites whose inputs are looked at: layers of methods that do more than round."""
    edits = [edit for edit in plan.edits if get_method(edit.method).pace.looks]
    return (site for site in _find_edited_sites(edits, layout) if site.kind in ("linear", "conv", "experts"))


def _count_training_samples(edit: Edit) -> int:
    return int(edit.config.get("steps", 0)) * int(edit.config.get("batch", 0)) if get_method(edit.method).trains else 0


def _estimate_extra_memory(plan: Plan, layout: Layout, copied: bool) -> int:
    """Bytes beyond what is held now: a copy of the original, the compressed layers, and the larger of what working and
    what reloading takes."""
    largest = max((site.rows * site.columns for site in layout.sites), default=0)
    kept = (plan.source.tensor_bytes if copied else 0) + plan.expected_tensor_bytes
    return kept + max(_LARGEST_COPIES * 4 * largest, _PROCESS_BYTES + plan.expected_tensor_bytes)


def _read_process_memory() -> int | None:
    """Bytes of memory that this process holds, None where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def check_fits_memory(model: Any) -> None:
    """Refuse a model folder whose weights alone are larger than the memory that is free, before it is read.

    Raises:
        InputError: saying how much is needed and how much is there.
    """
    folder = Path(model) if isinstance(model, str | Path) else None
    if folder is not None and folder.is_dir():
        check_memory_for(sum((folder / file).stat().st_size for file in weight_files(folder)), f"reading {folder}")


def check_memory_for(needed_bytes: int, what: str) -> None:
    """Refuse what cannot fit into the memory that is free.

    Raises:
        InputError: saying how much is needed and how much is there.
    """
    free = free_memory_bytes()
    if free is not None and needed_bytes > free:
        raise InputError(
            f"{what} needs about {needed_bytes / 1e9:.1f} GB of memory, but only {free / 1e9:.1f} GB are free; close other "
            "programs, take a machine with more, or try it anyway with --ignore-limits"
        )
