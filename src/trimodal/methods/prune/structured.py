"""Structured removal by second order (ZipLM: Kurtic, Frantar, Alistarh 2023, arXiv 2302.04089): heads, neurons, channels.

Idea. A neuron is a column of the layer that consumes it, a head a few neighbouring columns. Remove the unit whose loss,
after all other columns have made up for it, is least; repeat. Then delete the rows that produced it: the weights are
physically smaller and every CPU is faster.

Problem. For the consumer W (m, n) with C = E[x xᵀ] and units S_1 … S_u of its columns: keep a given number of units
and minimise tr((W − Ŵ) C (W − Ŵ)ᵀ) with Ŵ zero on the others. The consumer's bias is one more column whose input is
always 1 and that is never removed, so mean inputs of what goes away end up in the bias.

Units whose inputs never fire cost nothing and go first.

Algorithm. H⁻¹ = (C + d·mean(diag C)·I)⁻¹ (n, n); while too many units remain:
    1. loss of unit S:  tr(W_S ([H⁻¹]_SS)⁻¹ W_Sᵀ)                                     (u,)
    2. S = union of the cheapest units, one, or for many units 1/64 of them at once
    3. W   −= W_S ([H⁻¹]_SS)⁻¹ [H⁻¹]_S,:                                               (m, n)
       H⁻¹ −= [H⁻¹]_:,S ([H⁻¹]_SS)⁻¹ [H⁻¹]_S,:                                         (n, n)

Units that several layers read, such as the channels of a residual stage, have no single consumer whose loss could be
taken: there, and everywhere with `score: magnitude`, the units with the least group norm go, as in DepGraph (Fang et al.
2023, arXiv 2301.12900), and nothing makes up for them:

    score of unit u = Σ over all weights that carry the label, producers, norms and consumers, of ‖their entries of u‖²

Cost O(n² · units removed). Fails when calibration data misses what a head is for; per-modality records show it. Departs
from the paper: no latency table (sparsity is what the recipe says), bias as a column, several neurons at once.

By hand. W = [[1, 1]], C = [[2, 1], [1, 1]], two units, no damping, no bias: H⁻¹ = [[1, −1], [−1, 2]]. Losses 1/1 = 1 and
1/2; unit 1 goes. W −= 1·(1/2)·[−1, 2] = [1.5, 0]; error [−0.5, 1] C [−0.5, 1]ᵀ = 0.5 − 1 + 1 = 0.5, as predicted.
Leaving W_0 at 1 would cost 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trimodal.core import Change, Cut, Place, Site
from trimodal.errors import TrimodalError
from trimodal.maths.cholesky import damped_inverse, revive
from trimodal.methods.method import Method, Weights
from trimodal.methods.options import option
from trimodal.statistics import Moment, Statistic, StatisticKind

_ROUNDS = 64
Score = Literal["hessian", "magnitude"]


@dataclass(frozen=True)
class StructuredConfig:
    """Options of `prune.heads`, `prune.neurons` and `prune.channels`."""

    sparsity: float = option(0.5, "fraction of the units removed", low=0.0, high=1.0, search=(0.25, 0.5, 0.75))
    score: Score = option("hessian", "what a unit is worth; without a single consumer always by magnitude",
                          choices=("hessian", "magnitude"))  # fmt: skip
    damping: float = option(0.01, "added to diag C, as a share of its mean", low=1e-6, high=1.0)


def kept_units(units: int, sparsity: float) -> int:
    """How many of `units` stay; never fewer than one."""
    return max(1, units - round(units * sparsity))


def refuse(place: Place, config: StructuredConfig) -> str | None:
    """Why a place is left alone."""
    for site in place.sites:
        if site.stored != "dense":
            return f"{site.name} is already {site.stored}; prune before that"
        if site.tied:
            return f"{site.name} shares its weight with {site.tied[0]}; prune before that"
    return None


def by_hessian(place: Place, config: StructuredConfig) -> bool:
    """Whether units are chosen by second order: asked for, and there is one consumer, which is no producer as well."""
    return config.score == "hessian" and len(place.consumers) == 1 and place.observed not in place.producers


def wants(place: Place, config: StructuredConfig) -> StatisticKind | None:
    """The second moment of the consumer's input, for second order."""
    return "moment" if by_hessian(place, config) else None


def forecast(place: Place, config: StructuredConfig) -> Sequence[Site]:
    """All sites that carry the label, with fewer units."""
    label, units = _label_and_units(place)
    kept = range(kept_units(units, config.sparsity))
    return tuple(site.cut(label, kept) for site in place.sites)


def _label_and_units(place: Place) -> tuple[str, int]:
    if place.label is None or not place.consumers or place.observed.input_axis is None:
        raise TrimodalError(f"{place.name} has no axis to cut")
    return place.label, place.observed.input_axis.units_of(place.label)


def group_norms(place: Place, weights: Weights) -> Tensor:
    """The squared norm of every unit over all weights that carry the label: (u,)."""
    label, units = _label_and_units(place)
    total = torch.zeros(units, dtype=torch.float64)
    for site in place.sites:
        weight = weights.get(f"{site.path}.weight")
        for axis, dim in ((site.output_axis, site.output_dim if site.kind != "norm" else 0), (site.input_axis, 1)):
            if weight is not None and axis is not None and label in axis.labels:
                along = weight.double().movedim(dim, 0).flatten(1) if weight.dim() > 1 else weight.double()[:, None]
                for unit in range(units):
                    total[unit] += along[axis.entries([unit], label)].square().sum().cpu()
    return total


def remove_smallest(place: Place, weights: Weights, config: StructuredConfig) -> Change:
    """Keep the units of the largest group norm; of equals the first."""
    label, units = _label_and_units(place)
    order = torch.sort(group_norms(place, weights), descending=True, stable=True).indices
    kept = tuple(sorted(order[: kept_units(units, config.sparsity)].tolist()))
    several = config.score == "hessian"
    return Change(cut=Cut(label, kept), notes=("chosen by magnitude: no single consumer",) if several else ())


def remove(weight: Tensor, inverse: Tensor, units: Tensor, keep: int) -> tuple[list[int], Tensor]:
    """Steps 1 to 3: the units kept, ascending, and the updated weight (m, n), zero on the columns removed.

    `weight` (m, n) and `inverse` (n, n) are float64; `units` (u, width) holds the columns of every unit. Columns
    in no unit are never removed.
    """
    w, h = weight.clone(), inverse.clone()
    alive = torch.ones(len(units), dtype=torch.bool)
    at_once = max(1, len(units) // _ROUNDS)
    while int(alive.sum()) > keep:
        remaining = alive.nonzero().squeeze(1)
        losses = _losses(w, h, units[remaining])
        count = min(at_once, len(remaining) - keep)
        chosen = remaining[torch.sort(losses, stable=True).indices[:count]]
        columns = units[chosen].reshape(-1)
        solved = torch.linalg.solve(h[columns][:, columns], h[columns])  # (|S|, n)
        w -= w[:, columns] @ solved
        h -= h[:, columns] @ solved
        w[:, columns] = 0.0
        alive[chosen] = False
    return alive.nonzero().squeeze(1).tolist(), w


def _losses(w: Tensor, h: Tensor, units: Tensor) -> Tensor:
    """Step 1 for `units` (k, width): (k,)."""
    blocks = h[units[:, :, None], units[:, None, :]]  # (k, width, width)
    parts = w[:, units].permute(1, 2, 0)  # (k, width, m)
    losses: Tensor = (parts * torch.linalg.solve(blocks, parts)).sum((1, 2))
    return losses


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: StructuredConfig) -> Change:
    """Choose the units of the place's label that stay, and update their consumer."""
    if not by_hessian(place, config):
        return remove_smallest(place, weights, config)
    axis, site = place.observed.input_axis, place.observed
    if not isinstance(statistic, Moment) or axis is None or place.label is None:
        raise TrimodalError(f"structured pruning at {place.name} was given no second moment or has no axis")
    label, units = _label_and_units(place)
    weight = weights[f"{site.path}.weight"]
    bias = weights.get(f"{site.path}.bias")
    kernel = weight[0, 0].numel()
    whole = weight.flatten(1).double()  # (m, n)
    c, dead = revive(statistic.second)
    flat = whole.masked_fill(dead, 0.0)  # an input that never fires costs nothing: its units go first
    if bias is not None:
        flat, c = _with_bias(flat, bias, c, statistic.mean)
    inverse, damping = damped_inverse(c, config.damping, statistic.tokens)
    entries = torch.tensor([axis.entries([unit], label) for unit in range(units)])  # (u, width)
    columns = (entries[:, :, None] * kernel + torch.arange(kernel)).flatten(1)  # (u, width·kernel)
    kept, updated = remove(flat, inverse, columns, kept_units(units, config.sparsity))
    updated[:, : len(dead)][:, dead] = whole[:, dead]
    new_weight = updated[:, : weight[0].numel()].view(weight.shape)[:, axis.staying(kept, label)].float()
    new_bias = None if bias is None else updated[:, -1].float()
    notes = (f"damping raised to {damping:g}",) if damping > config.damping else ()
    return Change(cut=Cut(label, tuple(kept), new_weight, new_bias), notes=notes)


def _with_bias(weight: Tensor, bias: Tensor, moment: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (m, n+1) and moment (n+1, n+1) with the bias as a column whose input is always 1."""
    n = len(moment)
    wide = torch.ones(n + 1, n + 1, dtype=torch.float64, device=moment.device)
    wide[:n, :n] = moment
    wide[:n, n] = wide[n, :n] = mean.double()
    return torch.cat((weight, bias.double()[:, None]), dim=1), wide


_PAPER = "Kurtic, Frantar, Alistarh 2023, ZipLM, arXiv 2302.04089"

NEURONS = Method(
    name="prune.neurons",
    kind="prune",
    paper=_PAPER,
    idea="MLP neurons whose removal the others can best make up for go; weights get physically smaller.",
    config=StructuredConfig,
    on="axis",
    unit="neurons",
    refuse=refuse,
    wants=wants,
    forecast=forecast,
    solve=solve,
)

HEADS = Method(
    name="prune.heads",
    kind="prune",
    paper=_PAPER,
    idea="Attention heads whose removal the others can best make up for go; weights get physically smaller.",
    config=StructuredConfig,
    on="axis",
    unit="heads",
    refuse=refuse,
    wants=wants,
    forecast=forecast,
    solve=solve,
)

CHANNELS = Method(
    name="prune.channels",
    kind="prune",
    paper=f"{_PAPER}; magnitude: Fang et al. 2023, DepGraph, arXiv 2301.12900",
    idea="Convolution channels that can best be spared go, in every layer of the coupling; weights get physically smaller.",
    config=StructuredConfig,
    on="axis",
    unit="channels",
    refuse=refuse,
    wants=wants,
    forecast=forecast,
    solve=solve,
)
