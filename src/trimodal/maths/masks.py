"""Which weights stay: exact counts, no ties over-pruned."""

from __future__ import annotations

import torch
from torch import Tensor

from trimodal.errors import TrimodalError
from trimodal.maths.cholesky import revive


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


def refit(weight: Tensor, mask: Tensor, moment: Tensor, damping: float) -> Tensor:
    """The least-squares weights on a fixed mask: per row solve C_SS ŵ_S = (C w)_S with S the kept columns.

    Cost O(m·k³) for k kept columns. `moment` (n, n) is C; returns float32 (m, n), zero outside the mask.
    Minimises tr((W − Ŵ) C (W − Ŵ)ᵀ), so it never has a larger error than the masked weight itself.
    """
    c, _ = revive(moment)
    c.diagonal().add_(damping * c.diagonal().mean())
    target = weight.double() @ c  # (m, n)
    result = torch.zeros_like(target)
    for row in range(weight.shape[0]):
        kept = mask[row].nonzero().squeeze(1)
        if len(kept):
            factor, failed = torch.linalg.cholesky_ex(c[kept][:, kept])
            if failed:
                raise TrimodalError(
                    f"the refit cannot be solved with damping {damping:g}: the second moment of its {len(kept)} kept "
                    "inputs is singular or holds non-finite values; raise damping or give more samples"
                )
            result[row, kept] = torch.cholesky_solve(target[row, kept].unsqueeze(1), factor).squeeze(1)
    return result.float()
