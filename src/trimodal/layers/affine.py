"""A stored weight as integer runtimes want it, `weight = scale · (codes − zero)`, or why it is not of that form.

Exporters stand on this: what is `Affine` is one DequantizeLinear; of what is `NotAffine` the reason says in words what lies
beyond, and `inner` holds the affine part where there is one, to be dressed with the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimodal.maths.grid import expand_groups


@dataclass(frozen=True)
class Affine:
    """The weight seen as a matrix (rows, columns), a convolution's kernel flattened into the columns: `shape` is its own.

    `codes` int32 (rows, columns) lie in [0, 2^`bits`). `scale` float32 and `zero` (int32, or float32 where it need not be whole)
    are (rows, groups), or (1, 1) for one in all: along `axis`, the columns, every `group` neighbours share one. Pruned weights
    have the code that decodes to 0. The form is exact in float32; a model in float16 rounds it to that afterwards.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    bits: int
    group: int
    shape: tuple[int, ...]
    axis: int = 1

    @property
    def whole_zero(self) -> bool:
        """Whether all zero-points are whole numbers, as integer runtimes need them."""
        return not self.zero.is_floating_point()

    def decode(self) -> Tensor:
        """The weight float32, in its own shape."""
        scale, zero = (expand_groups(part, self.group, self.codes.shape[1]) for part in (self.scale, self.zero.float()))
        return ((self.codes.float() - zero) * scale).view(self.shape)


@dataclass(frozen=True)
class NotAffine:
    """Why a weight is not of the affine form, in words. `beyond` names what is applied after decoding, by the names of the
    storage options (`core/storage.py`): then `inner` is the affine part under it."""

    reason: str
    beyond: tuple[str, ...] = ()
    inner: Affine | None = None


BEYOND = {
    "rotation": "its codes are those of a weight whose columns were rotated",
    "columns": "its columns are each multiplied by a factor after decoding",
    "rank": "a low-rank correction is added after decoding",
    "outliers": "single weights are kept in float16",
}
"""What may be applied after decoding, by the storage option that says so, in that order."""


def fill_pruned_codes(codes: Tensor, zero: Tensor, group: int, mask: Tensor) -> Tensor:
    """`codes` (rows, columns) with the zero-point's own code where `mask` (rows, columns) keeps no weight."""
    return torch.where(mask, codes, expand_groups(zero, group, codes.shape[1]).to(codes.dtype))
