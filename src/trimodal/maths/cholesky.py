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

FEW_TOKENS_DAMPING = 0.1
LEAST_DAMPING = 1e-6


def revive(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Float64 copy of `moment` with 1 on the diagonal of inputs that never fire, and the mask (n,) of these."""
    alive = moment.to(torch.float64).clone()
    dead = alive.diagonal() == 0
    alive.diagonal()[dead] = 1.0
    return alive, dead


def safe_damping(damping: float, tokens: int, columns: int) -> float:
    """`damping`, or 0.1 at least with fewer tokens than columns: less fits the sample's noise."""
    return max(damping, FEW_TOKENS_DAMPING) if tokens < columns else damping


def damped_inverse(moment: Tensor, damping: float, tokens: int) -> tuple[Tensor, float]:
    """(C + d·mean(diag C)·I)⁻¹ in float64 (n, n), and the d that was needed.

    d starts at `safe_damping`.
    """
    n = moment.shape[0]
    mean = float(moment.diagonal().double().mean())
    d = safe_damping(damping, tokens, n)
    while d <= 1.0 and math.isfinite(mean):
        damped = moment.to(torch.float64).clone()
        damped.diagonal().add_(d * mean)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            inverse = torch.cholesky_inverse(factor)
            if torch.isfinite(inverse).all():
                return inverse, d
        d = _raised(d)
    raise TrimodalError(
        f"a second moment of {n} inputs from {tokens} tokens cannot be factorised even with damping 1.0; "
        "it holds non-finite values or the calibration data is degenerate: give other or more samples"
    )


def inverse_root(moment: Tensor, damping: float, tokens: int) -> tuple[Tensor, float]:
    """Upper Cholesky factor U (n, n) of the damped inverse, C⁻¹ = Uᵀ U, in float64, and the damping needed."""
    inverse, used = damped_inverse(moment, damping, tokens)
    while True:
        factor, failed = torch.linalg.cholesky_ex(inverse, upper=True)
        if not failed:
            return factor, used
        inverse, used = damped_inverse(moment, _raised(used), tokens)


def _raised(damping: float) -> float:
    return damping * 10 if damping else LEAST_DAMPING
