"""GPTQ (Frantar, Ashkboos, Hoefler, Alistarh 2023, arXiv 2210.17323): round column by column, let the rest make up.

Idea. After a column is rounded, the columns not yet rounded can still change, and the inputs that they see are
correlated with the one just damaged: move them to where the layer's output error is least.

Problem. For W (m, n) and C = E[x xᵀ] (n, n), minimise tr((W − Ŵ) C (W − Ŵ)ᵀ) with every ŵ on its grid, whatever the
grid: evenly spaced, a table, or learned levels, also those that a tower shares (`tower_codebook.py`).

Algorithm.
    1. grid from the unchanged W, per group of columns ("static groups")             s, z (m, n/group)
       with `target` a > 0, W is first moved towards what the original model's inputs x call for, given that the layer
       now sees x̂:  W* = W + a·W (E[x x̂ᵀ] − E[x̂ x̂ᵀ]) (E[x̂ x̂ᵀ] + λI)⁻¹                  W* (m, n)
    2. permute columns so that diag(C) descends ("activation order")                 W (m, n), C (n, n)
    3. U = upper Cholesky factor of (C + d·mean(diag C)·I)⁻¹                         U (n, n)
    4. for column i:  q_i = nearest(w_i);  e = w_i − ŵ_i                             e (m,)
                      W[:, i+1:] −= e ⊗ U[i, i+1:] / U_ii
       (inside blocks of 128 columns at once; the columns behind a block are updated once per block)
    5. undo the permutation, pack

Cost O(m·n²) and n² numbers of memory. With fewer tokens than columns C is singular: damping d starts at 0.1 then, and
grows until the factorisation succeeds. Columns whose input no token reached are rounded to the nearest
(`maths/unseen.py`). The expected error relative to
rounding is Σ U_ii⁻² / tr C, which the tests check. Fails where calibration tokens are unlike those met later.

Departs from the reference: ranges come from the unchanged weight (the reference, with groups smaller than its block,
uses weights that are stale inside the block), float64 factorisation, automatic damping, weights that are exactly zero
stay zero, and those of a pruned site keep its mask. The target in step 1 is the exact least-squares form of what GPTAQ
(Li et al. 2025, arXiv 2504.02692) does inside the recursion; with x̂ = x it is W, to the bit. It does harm with few tokens
(up to a quarter more error with half as many as columns), and gains nothing where the noise on x̂ is in proportion to x.
Convolutions are unfolded into patches; in a convolution with groups, and in fused experts, each group of rows has the second moment
of the input that it reads; embeddings are refused, since their input is an index and has no second moment.

By hand. W = [[0.7, 0.4]], C = [[2, 1], [1, 2]], no damping, grid of step 0.5 (codes … 0, 0.5, 1 …), order as given:
    C⁻¹ = [[2, −1], [−1, 2]]/3, U = [[√(2/3), −1/√6], [0, 1/√2]]
    column 0: 0.7 → 0.5, e = 0.2; U_01 / U_00 = −1/2; w_1 = 0.4 − 0.2·(−1/2) = 0.5
    column 1: 0.5 → 0.5
    Ŵ = [[0.5, 0.5]] with error tr = 2·0.04 − 2·0.02 + 2·0.01 = 0.06. Plain rounding also gives [0.5, 0.5] here; with
    W = [[0.7, 0.2]] it gives [0.5, 0] at error 0.24 while GPTQ moves 0.2 to 0.3 and gives [0.5, 0.5] at 0.14.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from trimodal.core import Change, Place
from trimodal.errors import TrimodalError
from trimodal.layers.stored import Levels
from trimodal.maths.cholesky import damped_inverse, inverse_root, revive_dead_inputs
from trimodal.methods.method import Method, Weights
from trimodal.methods.options import option
from trimodal.methods.quantize import gridded
from trimodal.methods.quantize.gridded import RepairOptions, RoundingOptions, SharedCodebookOptions
from trimodal.methods.quantize.tower_codebook import TABLES
from trimodal.statistics import GroupedMoment, Moment, Statistic, StatisticKind

_BLOCK = 128


@dataclass(frozen=True)
class GptqConfig(SharedCodebookOptions, RepairOptions):
    """Options of `quantize.gptq`."""

    bits: int = option(4, "bits per weight", low=2, high=8, choices=(16,), unit="bits", search=(2, 3, 4, 6, 8))
    damping: float = option(0.01, "added to diag C, as a share of its mean", low=1e-6, high=1.0, search=(0.01, 0.1))
    activation_order: bool = option(True, "round the columns with the largest inputs first", search=(True,))
    target: float = option(
        0.0, "how far to move the weight towards what the original model's inputs call for: 0 not at all, 1 all the "
        "way; costs a second model in memory", low=0.0, high=1.0, search=(0.0, 0.5),
    )  # fmt: skip


def refuse(place: Place, config: RoundingOptions, masks: bool = False, grouped: bool = False) -> str | None:
    """Why a place is left alone. `masks`: the method keeps the mask of a pruned weight; `grouped`: it takes weights whose rows read
    several inputs."""
    site = place.observed_site
    if site.kind == "embedding":
        return "an embedding's input is an index, which has no second moment; quantize.rtn works on it"
    if site.is_grouped and not grouped:
        return "its rows read several inputs, and have no single second moment; quantize.rtn and quantize.gptq work on it"
    if isinstance(config, GptqConfig) and config.target and site.is_grouped:
        return "its rows read several inputs, which are not paired with the original model's; set target to 0"
    return gridded.refuse(place, config, masks)


def wants(place: Place, config: GptqConfig) -> StatisticKind | None:
    """The second moment of the site's input, or of each of several; with `target` also against the original model's."""
    if place.observed_site.is_grouped:
        return "grouped"
    return "paired" if config.target else "moment"


def round_with_feedback(
    weight: Tensor, root: Tensor, levels: Levels, order: Tensor, exact: Tensor | None = None, kept: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Step 4, in any order of columns: codes, and the weight as it stood when each column was reached, both (m, n).

    `weight` (m, n) and `levels` have their own order of columns; U = `root` (n, n) is that of the columns taken in
    `order` (n,). Weights that are zero stay zero; those in the mask `exact` (m, n) are kept elsewhere without error.
    Those outside the mask `kept` (m, n) are exactly zero, also where the levels have no zero.
    """
    # Transposed, so that a column of W is contiguous; and each as a view of its own, since making one costs as much
    # as the arithmetic on it.
    w = weight[:, order].T.clone(memory_format=torch.contiguous_format)
    zero = w == 0
    some_zero = zero.any(dim=1).tolist()
    free = None if exact is None else exact[:, order].T
    gone = None if kept is None else ~kept[:, order].T
    codes, errors, unit = torch.empty_like(w), torch.empty_like(w), root / root.diagonal()[:, None]
    columns, codes_of, errors_of, unit_of = w.unbind(), codes.unbind(), errors.unbind(), unit.unbind()
    nearest, numbers = levels.make_rounder(), order.tolist()
    for start in range(0, len(w), _BLOCK):
        stop = min(start + _BLOCK, len(w))
        for i in range(start, stop):
            column = columns[i]
            if some_zero[i]:
                column = column.masked_fill(zero[i], 0.0)
            if free is not None:
                column = column.masked_fill(free[i], 0.0)
            code, value = nearest(column, numbers[i])
            if gone is not None:
                value = value.masked_fill(gone[i], 0.0)
            codes_of[i].copy_(code)
            error = torch.sub(columns[i], value, out=errors_of[i])
            if free is not None:
                error.masked_fill_(free[i], 0.0)
            w[i + 1 : stop].addr_(unit_of[i][i + 1 : stop], error, alpha=-1)
        w[stop:].addmm_(unit[start:stop, stop:].T, errors[start:stop], alpha=-1)
    back = torch.argsort(order)
    return levels.as_codes(codes[back].T.contiguous()), w[back].T


def make_feedback_chooser(
    moment: Moment, damping: float, activation_order: bool = True, kept: Tensor | None = None
) -> tuple[gridded.Chooser, float]:
    """Steps 2 to 4 as a way to choose codes, and the damping that was needed.

    `kept` (m, n) is the mask of a pruned weight.
    """
    c, _ = revive_dead_inputs(moment.second)
    order = torch.arange(len(c), device=c.device)
    if activation_order:
        order = torch.sort(c.diagonal(), descending=True, stable=True).indices
    root, used = inverse_root(c[order[:, None], order], damping, moment.tokens)
    root = root.float()

    def choose(weight: Tensor, levels: Levels, exact: Tensor | None) -> tuple[Tensor, Tensor]:
        return round_with_feedback(weight, root, levels, order, exact, kept)

    return choose, used


def make_grouped_chooser(
    seen: GroupedMoment, damping: float, activation_order: bool = True, kept: Tensor | None = None
) -> tuple[gridded.Chooser, float]:
    """As `make_feedback_chooser` for a weight whose rows read several inputs: a convolution in groups, fused experts. Each group
    of rows is rounded by the moment of its own; the damping is the largest that was needed."""

    def rows_of(group: int, whole: Tensor) -> slice:
        count = len(whole) // seen.groups
        return slice(group * count, (group + 1) * count)

    made = [
        make_feedback_chooser(
            seen.moment_of(group), damping, activation_order, None if kept is None else kept[rows_of(group, kept)]
        )
        for group in range(seen.groups)
    ]  # fmt: skip

    def choose(weight: Tensor, levels: Levels, exact: Tensor | None) -> tuple[Tensor, Tensor]:
        parts = []
        for group, (one, _) in enumerate(made):
            rows = rows_of(group, weight)
            parts.append(one(weight[rows], levels.select_rows(rows), None if exact is None else exact[rows]))
        codes, reached = zip(*parts, strict=True)
        return torch.cat(codes), torch.cat(reached)

    return choose, max(used for (_, used), tokens in zip(made, seen.counts.tolist(), strict=True) if tokens or not seen.tokens)


def correct_weight(weight: Tensor, moment: Moment, strength: float, damping: float) -> Tensor:
    """W* (m, n) of step 1."""
    if moment.cross is None:
        return weight
    inverse, _ = damped_inverse(revive_dead_inputs(moment.second)[0], damping, moment.tokens)
    shift = (moment.cross - moment.second).double() @ inverse
    return weight + strength * (weight.double() @ shift).float()


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: GptqConfig) -> Change:
    """Quantize the weight of the place's site.

    Raises:
        TrimodalError: it was not given the statistic that `wants` asks for.
    """
    kept = weights.get(f"{place.observed_site.path}.mask")
    if isinstance(statistic, GroupedMoment):
        choose, damping = make_grouped_chooser(statistic, config.damping, config.activation_order, kept)
        notes = (f"damping raised to {damping:g}",) if damping > config.damping else ()
        return gridded.quantize_weight(place, weights, None, config, choose, notes=notes)
    if not isinstance(statistic, Moment):
        raise TrimodalError(f"quantize.gptq at {place.name} was given no second moment")
    choose, damping = make_feedback_chooser(statistic, config.damping, config.activation_order, kept)
    notes = (f"damping raised to {damping:g}",) if damping > config.damping else ()
    target = None
    if config.target:
        weight = weights[f"{place.observed_site.path}.weight"].flatten(1)  # (m, n)
        target = correct_weight(weight, statistic, config.target, config.damping)
    return gridded.quantize_weight(place, weights, statistic, config, choose, notes=notes, target=target)


METHOD = Method(
    name="quantize.gptq",
    kind="quantize",
    paper="Frantar, Ashkboos, Hoefler, Alistarh 2023, GPTQ, arXiv 2210.17323",
    idea="Round column by column and let the columns not yet rounded make up for the error.",
    config=GptqConfig,
    refuse=partial(refuse, masks=True, grouped=True),
    wants=wants,
    forecast=gridded.forecast,
    tables=TABLES,
    solve=solve,
)
