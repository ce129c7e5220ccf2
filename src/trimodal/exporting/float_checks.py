"""Every number that is no code read back from the file that was written: biases, norms, weights that stayed floats, positions.

A tensor is found by its name, which is the model's own. What was computed beforehand, or is stored once for several equal ones, is no
longer there under its name: the whole model's distance holds that.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from trimodal.core import Check
from trimodal.core.target_fit import name_briefly
from trimodal.exporting.written_graph.graph import WrittenGraph

_PREFIX = "model."
_NAMED = 5
_ROUNDING = 1e-6  # of a float32 that was divided and multiplied again


@dataclass
class FloatsRead:
    """The model's tensors that were read back by name, and of these the ones that are others than the model's."""

    found: set[str] = field(default_factory=set)
    wrong: set[str] = field(default_factory=set)


def read_floats_(read: FloatsRead, graph: WrittenGraph, module: nn.Module, names: Set[str]) -> None:
    """Add to `read` those tensors of `module` among `names` that `graph` has."""
    tensors = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))}
    for name in names & tensors.keys():
        difference = _measure_difference(graph, f"{_PREFIX}{name}", tensors[name].detach().cpu())
        if difference is not None:
            read.found.add(name)
            if not difference <= 0:
                read.wrong.add(name)


def check_floats(read: FloatsRead, names: Set[str]) -> list[Check]:
    """Whether each tensor that was read back, of those with `names`, is the model's own, number for number."""
    if not read.found:
        return []
    said = f"{len(read.found)} of {len(names)} tensors of floats read back"
    if read.wrong:
        said += f", {len(read.wrong)} are others than the model's: {name_briefly(sorted(read.wrong), _NAMED)}"
    return [Check.from_outcome("floats are those of the model", not read.wrong, said)]


def _measure_difference(graph: WrittenGraph, name: str, wanted: Tensor) -> float | None:
    """By how much the numbers under `name` are off `wanted`, of any shape, at most; those that are stored as whole numbers of steps may be
    off by half a step. None where nothing is called so; infinite where its shape is another."""
    allowed, found = 0.0, graph.read_tensor(name)
    codes, scale = graph.read_tensor(f"{name}.codes"), graph.read_tensor(f"{name}.scale")
    if found is None and codes is not None and scale is not None:
        found = codes.astype(np.float64) * scale
        allowed = float(np.abs(scale).max()) * (0.5 + _ROUNDING) + float(np.abs(found).max()) * _ROUNDING
    if found is None:
        return None
    numbers = torch.from_numpy(found.astype(np.float64))
    if numbers.shape != wanted.shape:
        return 0.0 if numbers.dim() == 2 and torch.equal(numbers.T, wanted.double()) else torch.inf
    return float((numbers - wanted.double()).abs().nan_to_num(nan=torch.inf).max().clamp(min=allowed)) - allowed if numbers.numel() else 0.0
