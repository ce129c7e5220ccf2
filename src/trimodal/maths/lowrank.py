"""The best low-rank stand-in for a weight, for the inputs that the layer really sees."""

from __future__ import annotations

import torch
from torch import Tensor

_TALL = 2


def output_basis(weight: Tensor, moment: Tensor | None) -> tuple[Tensor, Tensor]:
    """Eigenvalues λ, descending (k,), and eigenvectors U (m, k) of W C Wᵀ, in float64, with k = m; of a weight with more than
    twice as many rows as columns, a language model's head for one, only those of the n that are not zero: k = n.
    No moment stands for C = I: plain SVD.

    W C Wᵀ is the second moment of the layer's output, so U are its principal directions and
    1 − Σ_{i≤k} λ_i / Σ λ_i is exactly the relative output error of keeping k of them.
    """
    w = weight.double()
    if len(w) > _TALL * w.shape[1]:  # W C^½ = Q R, so that U are Q times the eigenvectors of R Rᵀ: nothing is (m, m)
        basis, triangle = torch.linalg.qr(w if moment is None else w @ symmetric_root(moment.double()))
        values, vectors = torch.linalg.eigh(triangle @ triangle.T)
        return values.flip(0).clamp(min=0), basis @ vectors.flip(1)
    product = w @ w.T if moment is None else w @ moment.double() @ w.T
    values, vectors = torch.linalg.eigh((product + product.T) / 2)
    return values.flip(0).clamp(min=0), vectors.flip(1)


def fit_correction(residual: Tensor, moment: Tensor | None, rank: int) -> tuple[Tensor, Tensor]:
    """left (m, rank) and right (rank, n), float64, for which E‖(R − left right) x‖² is the smallest that rank `rank` allows, with
    R = `residual` (m, n) and C = E[x xᵀ] = `moment` (n, n); without a moment x counts alike in all directions.

    With S = C^½ that is ‖R S − left right S‖², so left right S is R S cut to its largest singular values (Eckart, Young 1936):
    U Uᵀ R S, with U the first eigenvectors of R C Rᵀ. So left = U and right = Uᵀ R, which needs no inverse of S.
    """
    _, vectors = output_basis(residual, moment)
    left = vectors[:, :rank].contiguous()
    return left, left.T @ residual.double()


def break_even_rank(rows: int, columns: int) -> int:
    """The largest rank at which two factors hold fewer numbers than the matrix; 0 if there is none."""
    return (rows * columns - 1) // (rows + columns)


def kept_energy(values: Tensor, rank: int) -> float:
    """Σ_{i≤k} λ_i / Σ λ_i for `values` (n,), largest first, and k = `rank`; 1 for a layer without output."""
    total = float(values.sum())
    return float(values[:rank].sum()) / total if total > 0 else 1.0


def choose_rank(values: Tensor, energy: float | None, most: int) -> int:
    """The smallest rank that keeps the share `energy` of Σ λ_i, λ descending (m,), but no more than `most`; without
    `energy` it is that."""
    if energy is None:
        return most
    kept = values.cumsum(0)
    return min(most, int((kept < energy * kept[-1]).sum()) + 1)


def leading_eigenvectors(square: Tensor, rank: int) -> Tensor:
    """The eigenvectors (n, rank) of the largest eigenvalues of a symmetric matrix."""
    vectors: Tensor = torch.linalg.eigh((square + square.T) / 2)[1]
    return vectors.flip(1)[:, :rank]


def symmetric_root(square: Tensor) -> Tensor:
    """The symmetric square root (n, n) of a positive semidefinite matrix (n, n)."""
    values, vectors = torch.linalg.eigh((square + square.T) / 2)
    found: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return found
