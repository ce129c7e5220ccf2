"""Damped factorisations of second-moment matrices, in float64.

A second moment C (n, n) from fewer tokens than columns, or with columns that never fire, is singular. Damping adds
d·mean(diag C) to the diagonal; d starts where the caller says and grows tenfold, up to 1, until the Cholesky
factorisation succeeds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trimodal.errors import TrimodalError
from trimodal.maths.unseen import fill_unseen_moment

FEW_TOKENS_DAMPING = 0.1
LEAST_DAMPING = 1e-6
_SMALL = 256


def revive_dead_inputs(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Float64 copy of `moment` in which inputs that never fire are as `maths/unseen.py` assumes, and the mask (n,) of these."""
    return fill_unseen_moment(moment.double())


def safe_damping(damping: float, tokens: int, columns: int) -> float:
    """`damping`, or 0.1 at least with fewer tokens than columns: less fits the sample's noise."""
    return max(damping, FEW_TOKENS_DAMPING) if tokens < columns else damping


def damped_inverse(moment: Tensor, damping: float, tokens: int) -> tuple[Tensor, float]:
    """(C + d·mean(diag C)·I)⁻¹ in float64 (n, n), and the d that was needed.

    d starts at `safe_damping`.
    """
    factor, used = _factor_cholesky_(moment.to(torch.float64, copy=True), damping, tokens)
    return torch.cholesky_inverse(factor), used


def inverse_root(moment: Tensor, damping: float, tokens: int) -> tuple[Tensor, float]:
    """Upper Cholesky factor U (n, n) of the damped inverse, C⁻¹ = Uᵀ U, in float64, and the damping needed.

    The inverse itself is never formed: with rows and columns in reverse, C = L Lᵀ; in the old order that L is an upper
    triangle R with C = R Rᵀ, and U = R⁻¹.
    """
    factor, used = _factor_cholesky_(moment.flip(0, 1).to(torch.float64), damping, tokens)
    return _invert_upper(factor.flip(0, 1)), used


def _invert_upper(triangle: Tensor) -> Tensor:
    """R⁻¹ for an upper triangle R (n, n), by halves: [[A, B], [0, D]]⁻¹ = [[A⁻¹, −A⁻¹ B D⁻¹], [0, D⁻¹]]."""
    n = len(triangle)
    result = torch.zeros_like(triangle)
    if n <= _SMALL:
        solved: Tensor = torch.linalg.solve_triangular(triangle, result.fill_diagonal_(1.0), upper=True)
        return solved
    half = n // 2
    first, last = (_invert_upper(triangle[part, part]) for part in (slice(half), slice(half, n)))
    result[:half, :half], result[half:, half:] = first, last
    result[:half, half:] = -(first @ triangle[:half, half:] @ last)
    return result


def _factor_cholesky_(moment: Tensor, damping: float, tokens: int) -> tuple[Tensor, float]:
    """Lower L (n, n) with C + d·mean(diag C)·I = L Lᵀ, and d; `moment` is overwritten, since n² numbers are many."""
    n, diagonal = moment.shape[0], moment.diagonal().clone()
    mean = float(diagonal.mean())
    d = safe_damping(damping, tokens, n)
    while d <= 1.0 and math.isfinite(mean):
        moment.diagonal().copy_(diagonal + d * mean)
        factor, failed = torch.linalg.cholesky_ex(moment)
        if not failed and torch.isfinite(factor.diagonal()).all():
            return factor, d
        d = _raise_damping(d)
    raise TrimodalError(
        f"a second moment of {n} inputs from {tokens} tokens cannot be factorised even with damping 1.0; "
        "it holds non-finite values or the calibration data is degenerate: give other or more samples"
    )


def _raise_damping(damping: float) -> float:
    return damping * 10 if damping else LEAST_DAMPING
