"""Round to nearest: every weight becomes the nearest number of its group's grid.

The baseline that needs no data and that every other quantizer must beat.

Problem. For W (m, n), a grid of 2^b numbers per group of columns: choose codes Q so that Ŵ is nearest to W, each
weight for itself; Σ (w − ŵ)² is least on the given grid, the layer's output error need not be.

Algorithm.
    1. Per group choose the scale s (and zero-point z) from the range of its weights, `clip: mse` shrinking the range
       to where Σ|w − ŵ|^2.5 is least                                            s, z (m, n/group)
    2. q = clamp(round(w / s) + z, 0, 2^b − 1)                                     Q (m, n)
    3. store Q packed, s in float16

Cost. O(m·n), times 20 for the `mse` search. Fails below 4 bits per channel, and where a few inputs are much larger
than the rest: the error in their columns is amplified. Works on linear layers, convolutions (kernel flattened into
columns) and embeddings.

Departs from common practice: the `positive` grid uses all 2^b codes where most divide by max|w| and leave one out; the
`symmetric` one has a signed scale besides (see `maths/grid.py`), which at 2 bits matters (AutoRound, arXiv 2512.04746, reports
0.450 → 0.538 mean accuracy at W2G32).

The numbers need not be evenly spaced: tables (`nf`, `fp`, `pot`, `log`) and learned levels (`kmeans`) go the same way.

With `table: tower` (or `group: tower`, without scales) all layers of a tower use one table, see `tower_table.py`.

A pruned weight keeps its mask: only the kept weights get codes, and k-means has all its levels for them.

By hand. W = [[1, −0.2], [0.3, 0.5]], 2 bits, per channel, `max`. On the grid `symmetric`:
    row 0: s = −1/2 = −0.5; codes round(−2)+2 = 0, round(0.4)+2 = 2        →  (1, 0)
    row 1: s = −0.5/2 = −0.25; codes round(−1.2)+2 = 1, round(−2)+2 = 0    →  (0.25, 0.5)
(Both scales are exact in float16. Where they are not they are rounded first: a largest weight 0.8 has s = −0.4, which
is kept as −0.39990234, so that it reads 0.79980469.) On the grid `positive` s = 1 and 0.5, which decodes to (1, 0) and (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from trimodal.core import Change, Place
from trimodal.methods.method import Method, Pace, Weights
from trimodal.methods.quantize import gridded
from trimodal.methods.quantize.gridded import RepairOptions, SharedCodebookOptions
from trimodal.methods.quantize.tower_codebook import TABLES
from trimodal.statistics import Moment, Statistic, StatisticKind


@dataclass(frozen=True)
class RtnConfig(SharedCodebookOptions, RepairOptions):
    """Options of `quantize.rtn`."""


def wants(place: Place, config: RtnConfig) -> StatisticKind | None:
    """The second moment where something of it is asked for: the output clip, counted k-means, or a repair."""
    site = place.observed_site
    asked = config.clip == "output" or config.grid == "kmeans" or config.bias or config.rank or config.outliers
    return "moment" if asked and site.kind in ("linear", "conv") and site.groups == 1 else None


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: RtnConfig) -> Change:
    """Round the weight of the place's site."""
    moment = statistic if isinstance(statistic, Moment) else None
    return gridded.quantize_weight(place, weights, moment, config, gridded.round_to_nearest)


METHOD = Method(
    name="quantize.rtn",
    kind="quantize",
    paper="folklore; the baseline in every quantization paper",
    idea="Every weight becomes the nearest number of its group's grid; needs no data.",
    config=RtnConfig,
    refuse=partial(gridded.refuse, masks=True),
    wants=wants,
    without_data="k-means counts every weight alike, the `output` clip becomes `mse`, and there is no bias repair",
    forecast=gridded.forecast,
    tables=TABLES,
    pace=Pace(passes=120, products=0, cubes=0),
    solve=solve,
)
