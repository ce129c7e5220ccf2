"""Structured removal by second order (ZipLM: Kurtic, Frantar, Alistarh 2023, arXiv 2302.04089): heads, neurons, channels.

Idea. A neuron is a column of the layer that consumes it, a head a few neighbouring columns. Remove the unit whose loss,
after all other columns have made up for it, is least; repeat. Then delete the rows that produced it: the weights are
physically smaller and every CPU is faster.

Problem. For the consumer W (m, n) with C = E[x xᵀ] and units S_1 … S_u of its columns: keep a given number of units
and minimise tr((W − Ŵ) C (W − Ŵ)ᵀ) with Ŵ zero on the others. The consumer's bias is one more column whose input is
always 1 and that is never removed, so mean inputs of what goes away end up in the bias.

A unit that no calibration token reached is not free for that: it counts as one of median input size that goes along with no
other (`maths/unseen.py`), so by the size of the weights that read it; with `score: fisher` by its group norm, on the scale of
the others.

Algorithm. H⁻¹ = (C + d·mean(diag C)·I)⁻¹ (n, n); while too many units remain:
    1. loss of unit S:  tr(W_S ([H⁻¹]_SS)⁻¹ W_Sᵀ)                                     (u,)
    2. S = union of the cheapest units, one, or for many units 1/64 of them at once
    3. W   −= W_S ([H⁻¹]_SS)⁻¹ [H⁻¹]_S,:                                               (m, n)
       H⁻¹ −= [H⁻¹]_:,S ([H⁻¹]_SS)⁻¹ [H⁻¹]_S,:                                         (n, n)

Units that several layers read, such as the channels of a residual stage, have no single consumer whose loss could be
taken: there, and everywhere with `score: magnitude`, the units with the least group norm go, as in DepGraph (Fang et al.
2023, arXiv 2301.12900), and nothing makes up for them:

    score of unit u = Σ over all weights that carry the label, producers, norms and consumers, of ‖their entries of u‖²

Fused experts have neurons of their own each, of which each keeps as many: see `prune/expert_neurons.py`.

`score: fisher` asks the loss instead of the layer's output, see `prune/fisher.py`.

With `scope: tower` or `global` (see `methods/scope.py`) all but one of a place's units are removed on trial first; each one's
score is the loss of step 1 when its turn comes, and never less than that of those before it, over the energy
tr(W C Wᵀ) of the layer's output. With `score: magnitude` it is LAMP of the group norms, with `fisher` the loss. Places
without a single consumer have no loss of step 1: there `score: hessian` removes `sparsity`.

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
from trimodal.maths.cholesky import damped_inverse, revive_dead_inputs
from trimodal.maths.error import quadratic_form
from trimodal.maths.ranking import lamp_scores
from trimodal.methods.method import Method, Weights
from trimodal.methods.options import option
from trimodal.methods.prune.expert_neurons import EXPERT_STEP, cut_expert_neurons
from trimodal.methods.prune.fisher import has_plain_consumers, rearrange_kept_units
from trimodal.methods.prune.unit_removal import compute_removal_losses, remove_units
from trimodal.methods.scope import Scope, certainty
from trimodal.statistics import GroupedMoment, MaskGradient, Moment, Statistic, StatisticKind

Score = Literal["hessian", "magnitude", "fisher"]


@dataclass(frozen=True)
class StructuredConfig:
    """Options of `prune.heads`, `prune.neurons` and `prune.channels`."""

    sparsity: float = option(0.5, "fraction of the units removed", low=0.0, high=1.0, search=(0.25, 0.5, 0.75))
    score: Score = option("hessian", "what a unit is worth: its consumer's output, its size, or the loss; where several "
                          "layers read it, size in place of output",
                          choices=("hessian", "magnitude", "fisher"), search=("hessian", "fisher"))  # fmt: skip
    damping: float = option(0.01, "added to diag C, as a share of its mean", low=1e-6, high=1.0)
    scope: Scope = option("layer", "what is ranked together: each layer by itself, a tower's, or all of the step",
                          choices=("layer", "tower", "global"), search=("layer", "tower", "global"))  # fmt: skip


def count_kept_units(units: int, sparsity: float) -> int:
    """How many of `units` stay; never fewer than one."""
    return max(1, units - round(units * sparsity))


def count_kept_in_place(place: Place, config: StructuredConfig) -> int:
    """How many units stay there; of fused experts a multiple of 8 (see `prune/expert_neurons.py`)."""
    units = _label_and_units(place)[1]
    least, step = count_kept_units(units, config.sparsity), EXPERT_STEP if place.observed_site.kind == "experts" else 1
    return min(units, -(-least // step) * step)


def refuse(place: Place, config: StructuredConfig) -> str | None:
    """Why a place is left alone."""
    for site in place.sites:
        if site.stored != "dense":
            return f"{site.name} is already {site.stored}; prune before that"
        if site.tied:
            return f"{site.name} shares its weight with {site.tied[0]}; prune before that"
    return _refuse_empty_cut(place, config)


def _refuse_empty_cut(place: Place, config: StructuredConfig) -> str | None:
    """Why no unit would go. Where places are ranked together one may go all the same, but never the last."""
    label, units = _label_and_units(place)
    what = label.rpartition(".")[2]
    if units == 1 and config.sparsity > 0:
        return f"it is one {what.removesuffix('s')} only, which has to stay"
    if config.scope == "layer" and config.sparsity > 0 and count_kept_in_place(place, config) == units:
        return f"{config.sparsity:g} of its {units} {what}, rounded, is none"
    return None


def uses_hessian(place: Place, config: StructuredConfig) -> bool:
    """Whether units are chosen by second order: asked for, and there is one consumer, which is no producer as well and reads
    one input."""
    alone = len(place.consumers) == 1 and place.observed_site not in place.producers
    return config.score == "hessian" and alone and not place.observed_site.is_grouped


def wants(place: Place, config: StructuredConfig) -> StatisticKind | None:
    """The second moment of the consumer's input, for second order, or the gradient of the units' masks."""
    if config.score == "fisher":
        return "mask" if has_plain_consumers(place) else None
    if place.observed_site.kind == "experts":
        return "grouped" if config.score == "hessian" else None
    return "moment" if uses_hessian(place, config) else None


def forecast(place: Place, config: StructuredConfig) -> Sequence[Site]:
    """All sites that carry the label, with fewer units."""
    label, kept = _label_and_units(place)[0], range(count_kept_in_place(place, config))
    return tuple(site.cut_units(label, kept) for site in place.sites)


def _label_and_units(place: Place) -> tuple[str, int]:
    if place.label is None or not place.consumers or place.observed_site.input_axis is None:
        raise TrimodalError(f"{place.name} has no axis to cut")
    return place.label, place.observed_site.input_axis.units_of(place.label)


def compute_group_norms(place: Place, weights: Weights) -> Tensor:
    """The squared norm of every unit over all weights that carry the label: (u,)."""
    label, units = _label_and_units(place)
    total = torch.zeros(units, dtype=torch.float64)
    for site in place.sites:
        weight = weights.get(f"{site.path}.weight")
        for axis, dim in ((site.output_axis, site.output_dim if site.kind != "norm" else 0), (site.input_axis, 1)):
            if weight is not None and axis is not None and label in axis.labels:
                along = weight.double().movedim(dim, 0).flatten(1) if weight.dim() > 1 else weight.double()[:, None]
                for unit in range(units):
                    total[unit] += along[axis.entry_indices([unit], label)].square().sum().cpu()
    return total


def fill_fisher_information(place: Place, weights: Weights, statistic: MaskGradient) -> Tensor:
    """F (u, u); on its diagonal, for units that no sample reached, the mean of the others in proportion to the group norm."""
    never = statistic.square.diagonal() == 0
    if not never.any() or never.all():
        return statistic.square
    norms, found = compute_group_norms(place, weights), statistic.square.clone()
    mean = norms[~never].mean()
    ratio = norms[never] / mean if mean > 0 else torch.ones_like(norms[never])
    found.diagonal()[never] = ratio * found.diagonal()[~never].mean()
    return found


def remove_smallest_units(place: Place, weights: Weights, config: StructuredConfig) -> Change:
    """Keep the units of the largest group norm; of equals the first."""
    label, units = _label_and_units(place)
    order = torch.sort(compute_group_norms(place, weights), descending=True, stable=True).indices
    kept = tuple(sorted(order[: count_kept_units(units, config.sparsity)].tolist()))
    reason = {"hessian": "no single consumer", "fisher": "nothing says what the loss makes of it"}.get(config.score)
    return Change(cut=Cut(label, kept), notes=(f"chosen by magnitude: {reason}",) if reason else ())


def scores(place: Place, weights: Weights, statistic: Statistic | None, config: StructuredConfig) -> Tensor | None:
    """What every unit's removal costs, (units,), relative to the layer, so that places can be compared; None where several layers
    read the units and second order was asked for."""
    if config.score == "magnitude":
        return lamp_scores(compute_group_norms(place, weights))
    if isinstance(statistic, MaskGradient):
        return fill_fisher_information(place, weights, statistic).diagonal() / 2
    if not uses_hessian(place, config) or not isinstance(statistic, Moment):
        return None
    problem = _make_problem(place, weights, statistic, config)
    energy = quadratic_form(problem.whole, statistic.second)
    losses = compute_removal_losses(problem.weight, problem.inverse, problem.units).clamp(min=0)
    rising = torch.cat((losses, losses.new_zeros(1))).cummax(0).values  # the last one never goes
    return rising / energy if energy > 0 else torch.zeros_like(rising)


@dataclass(frozen=True)
class _RemovalProblem:
    """What is to be solved at one consumer, in float64: W as it is `whole` (m, n) and, with the bias as a column,
    as `weight` (m, n+1), H⁻¹, and the columns of every unit (u, width)."""

    whole: Tensor
    weight: Tensor
    inverse: Tensor
    units: Tensor
    damping: float


def _make_problem(place: Place, weights: Weights, statistic: Moment, config: StructuredConfig) -> _RemovalProblem:
    site, (label, _) = place.observed_site, _label_and_units(place)
    bias = weights.get(f"{site.path}.bias")
    whole = weights[f"{site.path}.weight"].flatten(1).double()  # (m, n)
    flat, (c, _) = whole, revive_dead_inputs(statistic.second)
    if bias is not None:
        flat, c = _append_bias_column(flat, bias, c, statistic.mean)
    inverse, damping = damped_inverse(c, config.damping, statistic.tokens)
    return _RemovalProblem(whole, flat, inverse, torch.tensor(site.unit_columns(label), device=whole.device), damping)


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: StructuredConfig) -> Change:
    """Choose the units of the place's label that stay, and update their consumer.

    Raises:
        TrimodalError: it was not given the statistic that `wants` asks for.
    """
    if place.observed_site.kind == "experts":
        seen = statistic if isinstance(statistic, GroupedMoment) else None
        return cut_expert_neurons(place, weights, seen, count_kept_in_place(place, config), config.damping)
    if isinstance(statistic, MaskGradient) and place.label is not None and statistic.square.any():
        fisher = fill_fisher_information(place, weights, statistic)
        staying = rearrange_kept_units(fisher, count_kept_units(statistic.units, config.sparsity))
        return Change(cut=Cut(place.label, tuple(staying)))
    if not uses_hessian(place, config):
        return remove_smallest_units(place, weights, config)
    axis, site = place.observed_site.input_axis, place.observed_site
    if not isinstance(statistic, Moment) or axis is None or place.label is None:
        raise TrimodalError(f"structured pruning at {place.name} was given no second moment or has no axis")
    label, units = _label_and_units(place)
    weight = weights[f"{site.path}.weight"]
    problem = _make_problem(place, weights, statistic, config)
    kept, updated = remove_units(problem.weight, problem.inverse, problem.units, count_kept_units(units, config.sparsity))
    new_weight = updated[:, : problem.whole.shape[1]].view(weight.shape)[:, axis.kept_entry_indices(kept, label)].float()
    new_bias = None if weights.get(f"{site.path}.bias") is None else updated[:, -1].float()
    notes = (f"damping raised to {problem.damping:g}",) if problem.damping > config.damping else ()
    return Change(cut=Cut(label, tuple(kept), new_weight, new_bias), notes=notes)


def _append_bias_column(weight: Tensor, bias: Tensor, moment: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
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
    certainty=certainty,
    scores=scores,
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
    certainty=certainty,
    scores=scores,
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
    certainty=certainty,
    scores=scores,
    solve=solve,
)
