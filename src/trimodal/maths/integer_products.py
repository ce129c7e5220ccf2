"""Products of 8-bit whole numbers, where this machine has quick ones that are exact.

The processor instructions for them (VNNI) add products of 8 bits up in 32 bits. Older ones (AVX2, AVX-512 without VNNI) add two
neighbouring products up in 16 bits first and cut off what does not fit: 255 · 127 + 255 · 127 = 64,770 becomes 32,767. A sum that
may be cut off is of no use here. So the products are tried once, on numbers that would be cut off, before they are relied on.

By hand. Codes (3, 255) with zero-point 2 and scale 0.5 times the whole numbers (1, -1) with scale 0.1: the values are (0.5, 126.5)
and (0.1, -0.1), whose product is -12.6. In whole numbers: codes - 128 = (-125, 127), times (1, -1) = -252; and (128 - 2) · (1 - 1) = 0
to make up for the shift. -252 · 0.5 · 0.1 = -12.6.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from trimodal.machine import detect_processor

SHIFT = 128
LARGEST_INNER = 2**16
"""So many products of two 8-bit numbers fit into 32 bits."""
_QUICK = {"avx512_vnni", "avx_vnni", "amx_int8"}
_SHAPES = ((1, 64, 16), (33, 260, 70))


def multiply_integers(left: Tensor, right: Tensor) -> Tensor:
    """`left` int8 (m, k) times `right` int8 (k, n): int32 (m, n)."""
    return torch._int_mm(left, right)


@cache
def has_exact_integer_products() -> bool:
    """Whether this process multiplies 8-bit matrices quickly, and gets what integers give."""
    _, vectors = detect_processor()
    return bool(_QUICK & set(vectors)) and torch.backends.mkldnn.is_available() and all(_is_exact(*shape) for shape in _SHAPES)


def _is_exact(rows: int, inner: int, columns: int) -> bool:
    """Whether products at both ends of the range, and alternating ones, are what they are in double precision."""
    ends = torch.tensor([127, 127, -128, -128, 127, -128, 1], dtype=torch.int8)
    left = ends.repeat(-(-rows * inner // 7))[: rows * inner].view(rows, inner)
    right = ends.flip(0).repeat(-(-inner * columns // 7))[: inner * columns].view(columns, inner)
    alike = ((torch.full_like(left, end), torch.full_like(right, end)) for end in (127, -128))
    for a, b in ((left, right), *alike):
        try:
            found = multiply_integers(a, b.T)
        except RuntimeError:  # a build without them
            return False
        if not torch.equal(found.double(), a.double() @ b.double().T):
            return False
    return True
