"""Which weights stay: exact counts, no ties over-pruned."""

from __future__ import annotations

import torch
from torch import Tensor

from trimodal.errors import TrimodalError
from trimodal.maths.cholesky import revive_dead_inputs

_MOST_OPERATIONS = 1e12  # of an exact refit: half a minute on one slow core
_NUMBERS_AT_ONCE = 2**25
_DESCENTS = 40
_NEAR = 1e-12  # of the squared residual that a row began with


def kept_count(size: int, sparsity: float) -> int:
    """How many of `size` weights stay when the fraction `sparsity` is removed."""
    return size - round(size * sparsity)


def keep_largest(scores: Tensor, sparsity: float, within: Tensor | None = None) -> Tensor:
    """Mask (rows, columns), True for the kept weights: in every row exactly `kept_count` with the largest
    scores. Among equal scores the earlier column stays.

    With the mask `within` only weights in it can stay. Rows that have too few of them keep them all, and others keep
    more, in order of scores over all rows, so that the count over all rows is the same.
    """
    kept = kept_count(scores.shape[1], sparsity)
    if within is not None:
        scores = scores.masked_fill(~within, float("-inf"))
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order[:, :kept], True)
    if within is None:
        return mask
    mask &= within
    lacking = scores.shape[0] * kept - int(mask.sum())
    if lacking:
        left = scores.masked_fill(mask, float("-inf")).flatten()
        mask.view(-1)[torch.sort(left, descending=True, stable=True).indices[:lacking]] = True
    return mask & within


def keep_n_of_m(scores: Tensor, kept: int, of: int) -> Tensor:
    """Mask (rows, columns): in every run of `of` neighbouring columns the `kept` largest scores stay. A last,
    shorter run keeps at most `kept`."""
    rows, columns = scores.shape
    padding = -columns % of
    padded = torch.nn.functional.pad(scores, (0, padding), value=float("-inf")).view(-1, of)
    order = torch.sort(padded, dim=1, descending=True, stable=True).indices
    mask = torch.zeros_like(padded, dtype=torch.bool).scatter_(1, order[:, :kept], True)
    return mask.view(rows, -1)[:, :columns]


def is_refit_exact(mask: Tensor) -> bool:
    """Whether `refit_weights` solves for the mask (m, n) exactly: m·k³/3 operations for k kept columns, 10¹² at most."""
    return float((mask.sum(dim=1).double() ** 3).sum()) / 3 <= _MOST_OPERATIONS


def refit_weights(weight: Tensor, mask: Tensor, moment: Tensor, damping: float) -> Tensor:
    """The least-squares weights on a fixed mask: per row solve C_SS ŵ_S = (C w)_S with S the kept columns.

    `moment` (n, n) is C; returns float32 (m, n), zero outside the mask. Minimises tr((W − Ŵ) C (W − Ŵ)ᵀ), so it never has a
    larger error than the masked weight itself. Rows that keep equally many columns are solved together, at O(m·k³) in all.
    Where that is too much (`is_refit_exact`) it is conjugate gradients from the masked weight on, for all rows at once: at most
    40 products of (m, n) with (n, n), each of which lessens the error.
    """
    c, _ = revive_dead_inputs(moment)
    c.diagonal().add_(damping * c.diagonal().mean())
    if not is_refit_exact(mask):
        return _run_conjugate_gradients(weight.double() * mask, weight.double() @ c, mask, c).float()
    target, counts = weight.double() @ c, mask.sum(dim=1)
    result = torch.zeros_like(target)
    for count in counts.unique().tolist():
        if count:
            for rows in (counts == count).nonzero()[:, 0].split(max(1, _NUMBERS_AT_ONCE // count**2)):
                kept = mask[rows].nonzero()[:, 1].view(len(rows), count)
                solved = _solve_batched(c[kept[:, :, None], kept[:, None, :]], target[rows].gather(1, kept), damping)
                result[rows] = torch.zeros_like(target[rows]).scatter(1, kept, solved)
    return result.float()


def _solve_batched(squares: Tensor, targets: Tensor, damping: float) -> Tensor:
    """x (r, k) with S x = t for each S of `squares` (r, k, k) and t of `targets` (r, k)."""
    factors, failed = torch.linalg.cholesky_ex(squares)
    if bool(failed.any()):
        raise TrimodalError(
            f"the refit cannot be solved with damping {damping:g}: the second moment of its {squares.shape[1]} kept "
            "inputs is singular or holds non-finite values; raise damping or give more samples"
        )
    found: Tensor = torch.cholesky_solve(targets[:, :, None], factors)[:, :, 0]
    return found


def _run_conjugate_gradients(start: Tensor, target: Tensor, mask: Tensor, moment: Tensor) -> Tensor:
    """Conjugate gradients for all rows of `start` (m, n), each on its own columns, with diag C as preconditioner."""
    found, scale = start, 1 / moment.diagonal()
    residual = (target - found @ moment) * mask
    steered = residual * scale
    direction, size = steered, (residual * steered).sum(dim=1, keepdim=True)
    enough = _NEAR * size
    for _ in range(_DESCENTS):
        if bool((size <= enough).all()):
            break
        product = (direction @ moment) * mask
        bent = (direction * product).sum(dim=1, keepdim=True)
        step = torch.where(bent > 0, size / bent, torch.zeros_like(size))
        found, residual = found + step * direction, residual - step * product
        steered = residual * scale
        size, before = (residual * steered).sum(dim=1, keepdim=True), size
        direction = steered + torch.where(before > 0, size / before, torch.zeros_like(size)) * direction
    return found
