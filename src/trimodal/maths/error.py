"""The layer error in closed form: what a changed weight does to a layer's output.

For y = x Wᵀ + b, C = E[x xᵀ] and μ = E[x], replacing W by W − Δ and b by b − β changes the output by Δx + β, and

    E‖Δx + β‖² = tr(Δ C Δᵀ) + 2 βᵀ Δ μ + ‖β‖²

which needs no data once C and μ are known. Divided by tr(W C Wᵀ) it is the relative error that records show.
"""

from __future__ import annotations

import torch
from torch import Tensor

_AT_ONCE = 2**17  # weights in double that fit the cache


def quadratic_form(weight: Tensor, moment: Tensor) -> float:
    """tr(W C Wᵀ) for W (m, n) and C (n, n)."""
    return float(((weight.double() @ moment.double()) * weight.double()).sum())


def output_error(
    before: Tensor, after: Tensor, moment: Tensor, mean: Tensor, bias_change: Tensor | None = None
) -> float:
    """Relative squared output error; `bias_change` is b − b̂ (m,). 0 where the layer's output is 0 anyway."""
    change = before.double() - after.double()
    error = quadratic_form(change, moment)
    if bias_change is not None:
        beta = bias_change.double()
        error += float(2 * beta @ (change @ mean.double()) + beta @ beta)
    energy = float(((before @ moment.to(before)) * before).sum())  # nothing cancels here: float32 is enough
    return max(error, 0.0) / energy if energy > 0 else 0.0


def rows_error(before: Tensor, after: Tensor, counts: Tensor) -> float:
    """Relative squared error of what an embedding (rows, width) gave: Σ c_r ‖w_r − ŵ_r‖² / Σ c_r ‖w_r‖², row r looked up
    c_r times; 0 where it gave zeros anyway."""
    weights = counts.to(before.device, torch.float64)
    change = (before.double() - after.double()).square().sum(dim=1)
    energy = float(weights @ before.double().square().sum(dim=1))
    return float(weights @ change) / energy if energy > 0 else 0.0


def grouped_error(
    before: Tensor, after: Tensor, moments: Tensor, means: Tensor, bias_change: Tensor | None = None
) -> float:
    """As `output_error`, of a convolution with weight (m, n) in g groups that read inputs of their own: the sum of both sides
    of the fraction over groups, `moments` (g, n, n) and `means` (g, n)."""
    groups = len(moments)
    old, new = (weight.double().reshape(groups, -1, weight.shape[1]) for weight in (before, after))  # (g, m / g, n)
    change, second = old - new, moments.double()
    error = float(((change @ second) * change).sum())
    if bias_change is not None:
        beta = bias_change.double().reshape(groups, -1)
        moved = (change @ means.double().unsqueeze(-1)).squeeze(-1)
        error += float((2 * beta * moved + beta * beta).sum())
    energy = float(((old @ second) * old).sum())
    return max(error, 0.0) / energy if energy > 0 else 0.0


def weight_error(before: Tensor, after: Tensor) -> float:
    """‖W − Ŵ‖² / ‖W‖² of two tensors of one shape, summed in float64; 0 for a zero matrix."""
    parts = zip(before.reshape(-1).split(_AT_ONCE), after.reshape(-1).split(_AT_ONCE), strict=True)
    sums = [(old @ old, (change := old - new) @ change) for old, new in ((a.double(), b.double()) for a, b in parts)]
    energy = float(sum(whole for whole, _ in sums))
    return float(sum(changed for _, changed in sums)) / energy if energy > 0 else 0.0


def kept_share(before: Tensor, after: Tensor, moment: Tensor | None) -> float:
    """1 − tr(Δ C Δᵀ) / tr(W C Wᵀ) for W and Ŵ (m, n) and C (n, n) or None for I; 1 for a layer without output."""

    def energy(weight: Tensor) -> float:
        return float(weight.square().sum()) if moment is None else quadratic_form(weight, moment)

    whole = energy(before)
    return 1 - energy(before - after) / whole if whole > 0 else 1.0


def bias_correction(before: Tensor, after: Tensor, mean: Tensor) -> Tensor:
    """(W − Ŵ) μ (m,): added to the bias it removes the error's mean."""
    return ((before.double() - after.double()) @ mean.double()).to(torch.float32)
