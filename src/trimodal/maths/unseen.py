"""Inputs that the data never reached: what a method assumes of them, so that no weight is lost for want of data.

A column whose input was zero at every calibration token adds nothing to C = E[x xᵀ], so that any error in its weights looks
free: rounded coarsely, pruned first, or set to zero, and the model is wrong as soon as the input fires. The rule, for every
method: **an input that was never seen counts as one of median size that goes along with no other.** Its weights are then
rounded to the nearest and pruned by magnitude. Inputs below a thousandth of the size that is typical count as never seen: what
little there is says nothing of their use.

By hand. C = [[4, 0, 2], [0, 0, 0], [2, 0, 9]]: input 1 was never seen. The others have the mean squares 4 and 9, of which 4 is the
(lower) median: C becomes [[4, 0, 2], [0, 4, 0], [2, 0, 9]].
"""

from __future__ import annotations

import torch
from torch import Tensor

_TYPICAL = 0.9  # the quantile of what was seen at all: typical even where most inputs are all but dead
_LEAST = 1e-6


def find_unseen_inputs(square: Tensor) -> Tensor:
    """Mask (n,) of the inputs that were never seen, for E[x_j²] = `square` (n,); what is not finite was seen."""
    positive = square[(square > 0) & square.isfinite()]
    if not len(positive):
        return square <= 0
    rank = max(1, min(len(positive), round(_TYPICAL * len(positive))))
    return square <= _LEAST * positive.kthvalue(rank).values


def fill_unseen_squares(square: Tensor) -> Tensor:
    """`square` (n,) with the median of what was seen where nothing was; 1 where nothing was seen at all."""
    never = find_unseen_inputs(square)
    seen = square[~never]
    return torch.where(never, seen.median() if len(seen) else square.new_ones(()), square)


def fill_unseen_moment(moment: Tensor) -> tuple[Tensor, Tensor]:
    """A copy of C = `moment` (n, n) by the rule above, and the mask (n,) of the inputs that were never seen."""
    diagonal = moment.diagonal()
    never = find_unseen_inputs(diagonal)
    filled = moment.clone()
    if never.any():
        filled[never] = 0.0
        filled[:, never] = 0.0
        filled.diagonal().copy_(fill_unseen_squares(diagonal))
    return filled, never
