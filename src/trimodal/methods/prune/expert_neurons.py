"""Neurons of fused experts: every expert keeps as many, each its own.

The experts of a block stand in one weight, so all keep equally many neurons. Which they are is for each to say: neuron 5 of one has
nothing to do with neuron 5 of another. So each expert is solved alone, as `prune/structured.py` solves an MLP, from the second moment
of what came to it, and its neurons move together: expert e of u neurons that keeps (0, 3) has its third neuron in the second place.
How many stay is rounded up to a multiple of 8: the kernel that multiplies all experts at once (`grouped_mm`) wants rows of whole 16 bytes.
An expert that no token reached, and every expert where there is no data, keeps the neurons of the largest norm over both weights.

By hand. Two experts of two neurons with rows (1, 0) of up, down (3, 1) and (1, 3): without data the first keeps neuron 0, the second
neuron 1; up becomes 1 row and down 1 column for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimodal.core import Change, Cut, Place, Site
from trimodal.maths.cholesky import damped_inverse, revive_dead_inputs
from trimodal.maths.error import quadratic_form
from trimodal.methods.method import Weights
from trimodal.methods.prune.unit_removal import remove_units
from trimodal.statistics import GroupedMoment

EXPERT_STEP = 8


@dataclass(frozen=True)
class _Solved:
    """One expert: the neurons that it keeps, its weight down without the others (out, kept), and with data ‖ΔW x‖² and ‖W x‖²
    summed over its tokens."""

    kept: list[int]
    narrow: Tensor
    lost: float = 0.0
    whole: float = 0.0


def cut_expert_neurons(place: Place, weights: Weights, seen: GroupedMoment | None, keep: int, damping: float) -> Change:
    """Cut all experts of a place to `keep` neurons. `seen` is of what the layer down reads."""
    down, label = place.observed_site, place.label or ""
    matrices = weights[f"{down.path}.weight"].view(down.groups, -1, down.shape[1])  # (experts, out, neurons)
    ups = {f"{site.path}.weight": _split_rows(weights[f"{site.path}.weight"], site) for site in place.producers}
    solved = [
        _keep_largest(matrix, [up[expert] for up in ups.values()], keep) if seen is None or not seen.counts[expert]
        else _solve_expert(matrix, seen.second[expert], int(seen.counts[expert]), keep, damping)
        for expert, matrix in enumerate(matrices)
    ]  # fmt: skip
    kept = [expert.kept for expert in solved]
    tensors = {name: _keep_neurons(up, kept).flatten(0, 3) for name, up in ups.items()}
    for bare in place.free_parameters:
        split = weights[bare.path].view(down.groups, bare.repeats, down.shape[1], bare.width)
        tensors[bare.path] = _keep_neurons(split, kept).flatten(1)
    whole = sum(expert.whole for expert in solved)
    error = f", output error {sum(expert.lost for expert in solved) / whole:.3g}" if whole > 0 else ""
    note = f"every expert keeps {keep} of {down.shape[1]} neurons, its own{error}"
    narrow = torch.cat([expert.narrow for expert in solved]).float()
    return Change(cut=Cut(label, tuple(range(keep)), narrow, None, tensors), error={}, notes=(note,))


def _split_rows(weight: Tensor, site: Site) -> Tensor:
    """The rows of a weight up as (experts, runs, neurons, rows of a neuron in a run, in)."""
    axis = site.output_axis
    assert axis is not None  # it writes to the neurons
    return weight.view(site.groups, axis.repeats // site.groups, axis.units, axis.width, weight.shape[1])


def _keep_neurons(split: Tensor, kept: Sequence[Sequence[int]]) -> Tensor:
    """Of every expert the neurons `kept`, along the third dimension."""
    return torch.stack([part[:, list(own)] for part, own in zip(split, kept, strict=True)])


def _keep_largest(matrix: Tensor, ups: Sequence[Tensor], keep: int) -> _Solved:
    """The neurons of the largest norm over the weight down (out, neurons) and those up (runs, neurons, rows, in); of equals the first."""
    norms = matrix.double().square().sum(0) + sum(up.double().square().sum((0, 2, 3)) for up in ups)
    kept = sorted(torch.sort(norms, descending=True, stable=True).indices[:keep].tolist())
    return _Solved(kept, matrix[:, kept])


def _solve_expert(matrix: Tensor, moment: Tensor, tokens: int, keep: int, damping: float) -> _Solved:
    """By second order, for W (out, neurons) and C (neurons, neurons) of its own tokens."""
    whole, (alive, _) = matrix.double(), revive_dead_inputs(moment)
    inverse, _ = damped_inverse(alive, damping, tokens)
    units = torch.arange(whole.shape[1], device=whole.device)[:, None]
    kept, updated = remove_units(whole, inverse, units, keep)
    lost, before = quadratic_form(whole - updated, moment), quadratic_form(whole, moment)
    return _Solved(kept, updated[:, kept], tokens * lost, tokens * before)
