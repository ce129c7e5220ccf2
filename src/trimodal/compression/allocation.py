"""How much goes where: a share for every place of a step whose places are ranked together (`scope: tower` or `global`).

All places are scored at the model as it is, block by block, and of what was seen only the scores are kept. Then the units
of all places (of a tower) go in the order of their score per byte, until as many bytes are gone as if every place had lost
the step's `sparsity`. That settles a sparsity for every place; the sweep solves them with it as ever.

    1. score s_u of every unit (or weight) u that is left at place p, and the bytes c_p that one of them takes
    2. `global`: divide all scores of a tower t by Σ_t s_u / Σ_t c_p(u), its mean score per byte
    3. budget B = Σ_p c_p · (units left at p − units that would stay at the step's sparsity)
    4. remove in the order of s_u / c_p, of each place at most what the cap leaves, until B bytes are gone
    5. sparsity of p = units gone / units in all
    6. where cuts meet in one weight (a channel's row and another's column) fewer bytes go than the sum says: forecast the
       sites, and do 4 again with a larger or smaller B until what is left is within a unit of what the plan promised

A place whose scores are all zero, or that has none, says nothing: it loses the step's sparsity. Of a place with many weights
every so many-th score stands for its neighbours in rank, which bounds memory.

By hand. Two layers of one tower with four units of one byte, scores (1, 2, 3, 4) and (10, 20, 30, 40), sparsity 0.5: B = 4;
1, 2 and 3 go, and 10, since the last of a layer stays. The first layer gets the sparsity 0.75, the second 0.25.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trimodal.compression.solve_context import SolveContext, Task, locate_block
from trimodal.core import Edit, Layout, Place
from trimodal.errors import TrimodalError
from trimodal.methods import get_method
from trimodal.methods.options import build_config
from trimodal.methods.scope import RANKED, is_ranked
from trimodal.planning import place_of

MOST = 0.95  # of a place's units can go, or the step's sparsity if that is more
_POINTS = 8192  # scores kept of one place
_ROUNDS = 12  # of step 6
_NEAR = 1e-3


@dataclass(frozen=True)
class ScorePool:
    """What one place puts up: the `scores` (k,) of its units, ascending, each standing for `each` units of `cost` bytes.
    It has `units` in all, of which `left` are there; `stay` would at the step's sparsity, and `most` can go now."""

    tower: str
    scores: Tensor
    each: float
    cost: float
    units: int
    left: int
    stay: int
    most: int


def has_ranked_places(edit: Edit) -> bool:
    """Whether places of the edit are ranked together."""
    used = get_method(edit.method)
    configs = [edit.config, *({**edit.config, **place.config} for place in edit.places)]
    return used.scores is not None and any(is_ranked(build_config(used.config, values, edit.method)) for values in configs)


def allocate_sparsity(context: SolveContext, tell: Callable[[str], None] = lambda what: None) -> list[Task]:
    """The tasks of `context`, those that are ranked together each with a sparsity of its own."""
    here = [task for task in context.tasks if task.method.scores and is_ranked(task.config)]
    pools: dict[str, ScorePool] = {}
    found = sorted(((task, context.find_place(task)) for task in here), key=_locate_pair)
    for problem in context.iterate_problems(found, "scores at", tell):
        scores = problem.score_units()
        if scores is not None and scores.any():
            pools[problem.task.planned.name] = make_score_pool(problem.task, problem.place, scores)
    shares = _allocate_shares(context.model.layout, here, pools)
    return [_apply_share(task, shares) if task in here else task for task in context.tasks]


def _locate_pair(pair: tuple[Task, Place]) -> tuple[str, int]:
    return locate_block(pair[1].observed_site)


def _apply_share(task: Task, shares: dict[str, float]) -> Task:
    share = shares.get(task.planned.name, task.config.sparsity)
    return replace(
        task, config=replace(task.config, sparsity=share), note=f"{share:.1%} of it goes (scope: {task.config.scope})"
    )


def _allocate_shares(layout: Layout, tasks: Sequence[Task], pools: dict[str, ScorePool]) -> dict[str, float]:
    """The sparsity of every place that has a pool, by name."""
    shares: dict[str, float] = {}
    by_scope = {task.planned.name: task.config.scope for task in tasks}
    together = {scope: {name: p for name, p in pools.items() if by_scope[name] == scope} for scope in RANKED}
    towers = {p.tower for p in pools.values()}
    groups = [{n: p for n, p in together["tower"].items() if p.tower == tower} for tower in sorted(towers)]
    for group in (*groups, balance_pools(together["global"])):
        shares |= _settle_shares(layout, [task for task in tasks if task.planned.name in group], group)
    return shares


def _settle_shares(layout: Layout, tasks: Sequence[Task], pools: dict[str, ScorePool]) -> dict[str, float]:
    """Steps 3 to 6 for places that are ranked together."""
    goal = _count_bytes_left(layout, tasks, {})
    near = max((one.cost for one in pools.values()), default=0.0) + _NEAR * goal
    low, high, factor = 0.0, 2.0, 1.0
    tried: list[tuple[float, dict[str, float]]] = []
    for _ in range(_ROUNDS):
        gone = allocate_units(list(pools.values()), factor)
        shares = {n: (p.units - p.left + g) / p.units for (n, p), g in zip(pools.items(), gone, strict=True)}
        over = _count_bytes_left(layout, tasks, shares) - goal
        tried.append((abs(over), shares))
        if abs(over) <= near:
            break
        low, high = (factor, high) if over > 0 else (low, factor)
        factor = (low + high) / 2
    return min(tried, key=lambda pair: pair[0])[1]


def _count_bytes_left(layout: Layout, tasks: Sequence[Task], shares: dict[str, float]) -> int:
    """Bytes of all sites after the tasks, each with its share of `shares` or, without one, the step's sparsity."""
    for task in tasks:
        place = place_of(layout, task.method, task.planned)
        config = replace(task.config, sparsity=shares.get(task.planned.name, task.config.sparsity))
        layout = layout.replace_sites(place.sites, task.method.forecast(place, config))
    return sum(site.stored_bytes for site in layout.sites)


def make_score_pool(task: Task, place: Place, scores: Tensor) -> ScorePool:
    """What `place` puts up, with `scores` (k,) of what is left there.

    Raises:
        TrimodalError: a score is not finite.
    """
    if not scores.isfinite().all():
        raise TrimodalError(
            f"{task.method.name} at {place.name}: a score is not finite; the model or its data overflow"
        )
    axis = place.observed_site.input_axis
    units = axis.units_of(place.label) if axis and place.label else place.observed_site.rows * place.observed_site.columns
    removable = units - 1 if place.label else units
    cost = (_forecast_bytes(task, place, 0.0) - _forecast_bytes(task, place, 1.0)) / max(1, removable)
    sparsity, left = task.config.sparsity, len(scores)
    stay = max(1, units - round(units * sparsity))
    least = max(1, min(stay, units - int(MOST * units)))
    ascending = scores.double().cpu().sort().values
    if left > _POINTS:
        ascending = ascending[((torch.arange(_POINTS) + 0.5) * (left / _POINTS)).long()]
    each = left / len(ascending)
    return ScorePool(place.tower, ascending, each, max(cost, 1e-9), units, left, stay, max(0, left - least))


def _forecast_bytes(task: Task, place: Place, sparsity: float) -> int:
    after = task.method.forecast(place, replace(task.config, sparsity=sparsity))
    return sum(site.stored_bytes for site in after)


def balance_pools(pools: dict[str, ScorePool]) -> dict[str, ScorePool]:
    """Step 2: scores of every tower over their mean per byte."""
    means = {}
    for tower in {one.tower for one in pools.values()}:
        own = [one for one in pools.values() if one.tower == tower]
        scores = sum(float(one.scores.sum()) * one.each for one in own)
        means[tower] = scores / sum(one.left * one.cost for one in own)
    return {name: replace(one, scores=one.scores / means[one.tower]) for name, one in pools.items()}


def allocate_units(pools: Sequence[ScorePool], factor: float = 1.0) -> list[int]:
    """Steps 3 and 4: how many units of each pool go when `factor` times the budget is to."""
    if not pools:
        return []
    budget = factor * sum(one.cost * (one.left - one.stay) for one in pools)
    order = torch.cat([one.scores / one.cost for one in pools]).sort(stable=True).indices
    counts = torch.cat([_count_removable(one) for one in pools])[order]
    owner = torch.cat([torch.full((len(one.scores),), number) for number, one in enumerate(pools)])[order]
    costs = counts * torch.tensor([one.cost for one in pools], dtype=torch.float64)[owner]
    before = costs.cumsum(0) - costs
    taken = counts * ((budget - before) / costs.clamp(min=1e-12)).clamp(0, 1)
    gone = torch.zeros(len(pools), dtype=torch.float64).scatter_add_(0, owner, taken)
    return _round_to_units(gone, pools, budget)


def _count_removable(one: ScorePool) -> Tensor:
    """How many units each score of a pool stands for, (k,); none beyond what can go at most."""
    whole = torch.full((len(one.scores),), one.each, dtype=torch.float64)
    before = whole.cumsum(0) - whole
    return (one.most - before).clamp(0, one.each)


def _round_to_units(gone: Tensor, pools: Sequence[ScorePool], budget: float) -> list[int]:
    """Whole units: all rounded down, then one more each, the largest remainder first, while the budget has half a unit."""
    down = [min(int(float(g) + 1e-6), one.most) for g, one in zip(gone, pools, strict=True)]
    left = budget - sum(count * one.cost for count, one in zip(down, pools, strict=True))
    for number in sorted(range(len(pools)), key=lambda i: down[i] - float(gone[i])):
        if left >= pools[number].cost / 2 and down[number] < pools[number].most and float(gone[number]) > down[number]:
            down[number] += 1
            left -= pools[number].cost
    return down
