"""Scores that can be compared from one layer to another."""

from __future__ import annotations

import torch
from torch import Tensor


def lamp_scores(squares: Tensor) -> Tensor:
    """LAMP (Lee, Park, Mo, Ahn, Shin 2021, arXiv 2010.07611) of the squared sizes (k,) of what one layer has: float64 (k,).

    The share of a weight in the energy of itself and all larger ones, Σ_{v: v ≥ u} w_v²:

        score of u = w_u² / Σ_{v: w_v² ≥ w_u²} w_v²

    Within the layer it keeps the order of sizes (of equals the later one counts for more); from layer to layer it is free
    of scale, and the largest weight of every layer scores 1, so no layer loses everything. It bounds what removal of the
    weight adds to the layer's relative error when all smaller ones have gone.

    By hand. Sizes 3 and 4: 9/(9 + 16) = 0.36 and 16/16 = 1, and the same for 30 and 40.
    """
    values, order = torch.sort(squares.double(), stable=True)
    remaining = values.flip(0).cumsum(0).flip(0)
    scores = torch.where(remaining > 0, values / remaining, torch.zeros_like(values))
    return torch.zeros_like(scores).scatter_(0, order, scores)
