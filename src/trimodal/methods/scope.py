"""Scope: what is ranked together, and so how much goes where.

    layer   every place loses `sparsity` of its units
    tower   the places of a tower are ranked together: the tower loses `sparsity` in all, its places unlike much
    global  all places of the step are ranked together

Ranking over several places needs scores that mean the same everywhere; what they are, each method says:

    prune.magnitude, `score: magnitude`     LAMP: the share in what is left of the layer (see `maths/ranking.py`)
    prune.wanda, `score: hessian`           the loss in the layer's output, relative to that output's energy
    prune.gradient, `score: fisher`         the loss of the model: comparable as it is

Towers differ in more than scale: one has more tokens, deeper blocks, another loss. So `global` divides all scores by their
tower's mean first; else the tower with the larger numbers would keep everything and the other lose everything.

What goes is counted in bytes: a unit competes with its score per byte, and as many bytes go as if every place lost
`sparsity`. No place loses its last unit, or more than 95 % (or `sparsity`, if that is more). The plan shows what each
place would lose at `sparsity`, as an estimate. Just before the step all its places are scored at the model as it is then,
which takes one more pass over the calibration data; see `compression/allocation.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from trimodal.core import Certainty

Scope = Literal["layer", "tower", "global"]
RANKED = ("tower", "global")


def is_ranked(config: Any) -> bool:
    """Whether places with these options are ranked together; not where a method has no scope."""
    return getattr(config, "scope", "layer") in RANKED


def rank_alone(config: Any) -> Any:
    """The options of a place that loses its own sparsity, whatever the others of the step do."""
    return replace(config, scope="layer") if is_ranked(config) else config


def certainty(config: Any) -> Certainty:
    """What a forecast of the bytes of one place is worth."""
    return "estimate" if is_ranked(config) else "exact"
