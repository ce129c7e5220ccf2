"""Token merging (ToMe: Bolya, Fu, Dai, Zhang, Feichtenhofer, Hoffman 2023, arXiv 2210.09461) for image and audio towers.

Idea. Neighbouring patches of sky, neighbouring frames of one vowel: many tokens say the same. Let one token stand for
all that are alike, and every block after that has less to do. No weight changes, nothing is trained.

Problem. In a block, tokens x (T, d) attend to one another: y_i = Σ_j softmax_j(q_i k_jᵀ) v_j. Remove r of them so that y
changes least. If tokens j and j' are equal, one token with log 2 added to its logit gives exactly the same y, as
e^(q k + log 2) = 2 e^(q k). So: merge what is most alike, and add log(size) (proportional attention).

Algorithm, after block b of the tower, with K (T, heads, width) its keys and s (T,) how many tokens each stands for:
    1. metric  m = mean over heads of K                                              (T, width)
    2. deal the tokens in turn to A and B, all but the protected ones at the front (class, distillation)
    3. link each of A to the one of B with the largest cosine of m                   (|A|,)
    4. along the r strongest links, A's token joins B's: x = Σ s x / Σ s, s = Σ s    (T − r, d)
    5. the blocks that follow add log s to the logits of their keys
r is the same after each of the `blocks` from `first` on, so that `share` of all tokens are gone at the end. `kind:
strided` instead takes the mean of every 1/(1 − share) neighbours once, after block `first`: for audio, where neighbours
are alike by nature.

Padding is a token of size 0: it changes no mean, is merged first, and nobody looks at it. Where what follows the tower
needs every token (a score per frame, a mean over tokens, attention pooling), each gets back, after the last block, the
state of the one that it was merged into; so means count every original token.

Cost: O(T² width) for the links, less than one head's attention; saves the tower's operations in proportion to the
tokens gone, from where they are gone: merge early to save much. Fails on what needs every patch by itself (segmentation,
small print), and with attention that cannot take an additive mask (FlashAttention 2: turn `proportional` off). Models
pre-trained by masking patches want `proportional` off (the paper's MAE models).

Departs from the paper: tokens are merged after the block, not between its attention and its MLP, so that every family's
own block runs as it is; the metric still is its keys. Hence nothing is merged after the last block.

By hand. Metric [1, 0], [1, 0], [0, 1], [1, 1], all of size 1, r = 1: A = {0, 2}, B = {1, 3}; links 0 → 1 with cosine 1
and 2 → 3 with 1/√2. Token 0 joins 1. With x = 2, 4, 6, 8 what is left is 6, (2 + 4)/2 = 3, 8 with sizes 1, 2, 1, and
their logits get 0, log 2, 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trimodal.core import Change, Merge, Place
from trimodal.core.change import LARGEST_SHARE
from trimodal.errors import TrimodalError
from trimodal.methods.method import Method, Pace, Weights
from trimodal.methods.options import option
from trimodal.statistics import Statistic


@dataclass(frozen=True)
class TokensConfig:
    """Options of `merge.tokens`."""

    share: float = option(
        0.5, "fraction of a tower's tokens removed in all", low=0.0, high=LARGEST_SHARE, search=(0.25, 0.5, 0.75)
    )
    kind: Literal["matching", "strided"] = option(
        "matching", "merge what is alike, or the nearest neighbours", choices=("matching", "strided")
    )
    first: int = option(0, "the block, counted from 0, after which tokens are first merged", low=0)
    blocks: int = option(0, "over how many blocks matching is spread evenly; 0 for all but the last", low=0)
    proportional: bool = option(True, "whether attention counts a merged token as often as it stands for")


def last_merging_block(blocks: int, config: TokensConfig) -> int:
    """The last of a tower's `blocks`, counted from 0, after which tokens are merged."""
    if config.kind == "strided":
        return config.first
    return config.first + config.blocks - 1 if config.blocks else blocks - 2


def refuse(place: Place, config: TokensConfig) -> str | None:
    """Why a tower is left alone."""
    tower = place.whole_tower
    if tower is None or not tower.blocks:
        return "only the tokens of a tower with blocks can be merged"
    if tower.whole_tokens:
        return tower.whole_tokens
    last = last_merging_block(len(tower.blocks), config)
    if not config.first <= last < len(tower.blocks) - 1:
        return (
            f"it has {len(tower.blocks)} blocks and merging would go from {config.first} to {max(last, config.first)}, "
            f"counted from 0, but must end before the last"
        )
    if config.kind == "strided" and config.share > 0 and round(1 / (1 - config.share)) == 1:
        return f"neighbours are merged whole, so a share of {config.share:g} removes none; give at least 0.34, or kind: matching"
    rounds = last - config.first + 1
    if config.kind == "matching" and config.share > 1 - 0.5**rounds:
        many = "one block" if rounds == 1 else f"{rounds} blocks"
        return f"{many} cannot remove {config.share:g} of the tokens, as each removes at most half of them"
    return None


def solve(place: Place, weights: Weights, statistic: Statistic | None, config: TokensConfig) -> Change:
    """Where to merge; which tokens is decided anew for every input.

    Raises:
        TrimodalError: the place is no tower.
    """
    if place.whole_tower is None:
        raise TrimodalError(f"{place.name} is no tower")
    last = last_merging_block(len(place.whole_tower.blocks), config)
    merge = Merge(place.name, config.kind, config.share, config.first, last, config.proportional)
    return Change(merge=merge, notes=_note_merge_factor(config))


def _note_merge_factor(config: TokensConfig) -> tuple[str, ...]:
    factor = round(1 / (1 - config.share))
    if config.kind == "matching" or abs(1 - 1 / factor - config.share) < 1e-3:
        return ()
    return (f"every {factor} neighbours are merged, which removes {1 - 1 / factor:.3g} of the tokens",)


METHOD = Method(
    name="merge.tokens",
    kind="merge",
    paper="Bolya, Fu, Dai, Zhang, Feichtenhofer, Hoffman 2023, arXiv 2210.09461",
    idea="Let one token stand for all that are alike, block by block; no weight changes, no data needed.",
    config=TokensConfig,
    on="tower",
    refuse=refuse,
    reshaped=lambda layout, place, config: layout.mark_tokens_merged(place.name),
    pace=Pace(passes=0, products=0, cubes=0),
    solve=solve,
)
