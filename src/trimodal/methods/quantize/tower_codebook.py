"""One table of learned numbers for all layers of a tower: k-means after Han, Mao, Dally 2016, Deep Compression (arXiv 1510.00149),
over all their weights together.

Idea. Layers need not each bring their own 2^b numbers: one table serves a whole tower, is stored once in the file and held
once in memory, and is trained as one. What layers differ in is their scale, and that a number per row can say.

Problem. For the layers l of a tower, with weights W_l (m, n), inputs of second moment C_l, and the mean squared input of each
column c_l = diag C_l (ones where nothing is known), find 2^b numbers t and a scale s per group of columns (none with `group:
tower`) for the least

    Σ_l Σ_ij c_lj (w_ij − s_i·t[q_ij])² / Σ_ij c_lj w_ij²

that is the sum of what each layer's output loses of its own energy, as if inputs were uncorrelated.

Algorithm, before the sweep over the model.
    1. c_l for all layers, on the model as it stands; of a pruned layer only the weights that are kept count     (n,)
    2. with scales: u = w/s, s the largest magnitude of the group, counted c·s²; without: u = w, counted c      (m, n)
    3. divide each layer's counts by Σ c w²; weighted k-means over the u of all layers (see `maths/codebook.py`)    t (2^b,)
In the sweep each layer, when its turn comes, is treated like one with a table known by name: its scales are searched, its
weights rounded, by GPTQ with feedback. Layers of one step share a table where their tower, bits and use of scales are the
same; the first of them in running order stores it.

Finding scales and table anew in turn was tried and gains less than half a percent of the error.

Cost. The statistics are taken twice, once before the sweep; k-means sorts at most 65,537 numbers per layer. A table takes
2·2^b bytes: 32 at 4 bits, 512 at 8. A table per tensor would cost the same for each layer, which is little beside its
codes except in small networks or at 8 bits; a table per row costs much more than the scale that takes its place here.

Fails without scales where layers differ in scale: the numbers of the largest are too coarse for the smallest. A later step
cannot remove the block that stores the table.

By hand. Two layers W_1 = [[1, 3]], W_2 = [[10, 30]], 1 bit, no data. Without scales the counts are 1/10 and 1/1000. Of the
three cuts of 1, 3, 10, 30 that behind 10 leaves least: t = (0.41/0.201, 30) = (2.039801, 30), and each layer loses of its energy
0.1·(1.081186 + 0.921982) = 0.200317 and 0.001·63.364768 = 0.063365. With a scale per row both are (1/3, 1): two numbers hold
them exactly.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from trimodal.core import Place
from trimodal.maths.codebook import CodebookSamples, fit_shared_table, gather_codebook_samples
from trimodal.methods.method import SharedTables, Weights
from trimodal.methods.quantize.gridded import shared_levels_key, uses_shared_codebook
from trimodal.statistics import Moment, Statistic


def codebook_group_of(place: Place, config: Any) -> Hashable:
    """What is the same for all places of a step that use one table."""
    return place.tower, config.bits, config.group == "tower"


def assign_codebook_owner(place: Place, config: Any, others: Sequence[tuple[Place, Any]]) -> Any:
    """The options at `place` when `others` of the same step come before it: whether it stores the tower's table or borrows
    it. Options that speak of no such table stay as they are."""
    if not uses_shared_codebook(config):
        return config
    group = codebook_group_of(place, config)
    there = any(uses_shared_codebook(known) and codebook_group_of(other, known) == group for other, known in others)
    return replace(config, table="borrowed" if there else "tower")


def gather_place_samples(place: Place, weights: Weights, statistic: Statistic | None, config: Any) -> CodebookSamples:
    """Steps 1 to 3 for one layer: what it puts into the table."""
    path = place.observed_site.path
    importance = statistic.square if isinstance(statistic, Moment) else None
    return gather_codebook_samples(weights[f"{path}.weight"].flatten(1), config.group, importance, weights.get(f"{path}.mask"))


def fit_table(samples: Sequence[CodebookSamples], config: Any) -> Tensor:
    """Step 3 for all layers of a tower: their table (2^bits,)."""
    return fit_shared_table(samples, config.bits, scaled=config.group != "tower")


TABLES = SharedTables(
    uses=uses_shared_codebook,
    group_of=codebook_group_of,
    assign_owner=assign_codebook_owner,
    gather=gather_place_samples,
    fit=fit_table,
    name_at=shared_levels_key,
)
