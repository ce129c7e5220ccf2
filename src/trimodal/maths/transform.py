"""Changes of a layer's input coordinates, undone when the weight is decoded.

For y = x Wᵀ and an invertible T: y = (x T)(W T⁻ᵀ)ᵀ. A grid may fit W T⁻ᵀ better than W. Two kinds are kept with a weight:

    columns   T = diag(c): x is multiplied by c, W divided by it (AWQ, SmoothQuant)
    rotation  T orthogonal: signs, then Hadamard blocks (QuaRot: Ashkboos et al. 2024, arXiv 2404.00456)

A rotation within the layer needs nothing of its neighbours: no norm has to be folded or centred first, as it must be
where a whole residual stream is rotated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rotation_block(columns: int) -> int:
    """The largest power of two that divides `columns`."""
    return columns & -columns


def random_signs(columns: int, seed: int) -> Tensor:
    """±1 float32 (columns,), the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (columns,), generator=generator).float() * 2 - 1


def hadamard(x: Tensor, block: int) -> Tensor:
    """x H (..., columns) with H symmetric and orthogonal: Sylvester's Hadamard matrix on every `block` columns.

    A fast transform, log2(block) additions per number.
    """
    shape, width = x.shape, 1
    while width < block:
        pairs = x.reshape(-1, 2, width)
        x = torch.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), dim=1)
        width *= 2
    return x.reshape(shape) / math.sqrt(block)


def rotate_columns(x: Tensor, signs: Tensor, block: int) -> Tensor:
    """(x · signs) H for x (..., columns): the input, or a weight, in rotated coordinates."""
    return hadamard(x * signs, block)


def unrotate_columns(x: Tensor, signs: Tensor, block: int) -> Tensor:
    """The inverse of `rotate_columns`: (x H) · signs for x (…, columns)."""
    return hadamard(x, block) * signs


def rotate_moment(moment: Tensor, signs: Tensor, block: int) -> Tensor:
    """The second moment (n, n) of the rotated input."""
    return rotate_columns(rotate_columns(moment, signs, block).T, signs, block)
