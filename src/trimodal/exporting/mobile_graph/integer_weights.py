"""Codes as kernels on phones multiply them: signed, around zero, with a positive scale per output or per block of inputs.

    w = scale · code        code int8 in [−2^(b−1), 2^(b−1) − 1]

Our codes are unsigned around 2^(b−1), so both are the same numbers, 2^(b−1) apart. A negative scale, which the grid `symmetric` has,
turns its row's codes round where none of them is the least one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trimodal.exporting.layer_codes import LayerCodes
from trimodal.layers.affine import Affine

LEAST_NORMAL = 2.0**-126
"""Kernels refuse scales below it; a row with scale 0 has the code 0 everywhere instead."""


@dataclass(frozen=True)
class IntegerWeight:
    """`codes` int8 in the weight's shape, around 0, kept in `bits` (4 or 8); `scale` float32 (rows,), or (rows, groups) where every
    `group` neighbouring inputs share one (`group` is 0 otherwise)."""

    codes: Tensor
    scale: Tensor
    bits: int
    group: int = 0

    def decode(self) -> Tensor:
        """The weight float32 in its own shape."""
        if self.group:
            rows, columns = self.codes.shape
            return (self.codes.float().view(rows, -1, self.group) * self.scale[..., None]).view(rows, columns)
        return self.codes.float() * self.scale.view(-1, *(1 for _ in self.codes.shape[1:]))


def make_integer_weight(codes: LayerCodes) -> IntegerWeight | str:
    """The weight that meets x · columns, or why kernels do not multiply such codes."""
    affine = codes.affine
    if affine is None:
        return "its codes are not evenly spaced, or something is added after decoding"
    middle = 2 ** (affine.bits - 1)
    if affine.bits > 8 or not affine.whole_zero or not bool((affine.zero == middle).all()):
        return "its zero-points are not all in the middle of the range, as kernels on phones need them"
    columns = affine.codes.shape[1]
    if affine.group >= columns:
        return _turn_round(affine, affine.codes - middle, affine.scale.expand(len(affine.codes), 1), 0)
    if affine.bits > 4 or len(affine.shape) > 2 or affine.group % 32 or columns % affine.group:
        return "it has scales by group, which kernels on phones have for linear layers of 4 bits and groups of 32, 64, 96, … inputs only"
    return _turn_round(affine, affine.codes - middle, affine.scale.expand(-1, math.ceil(columns / affine.group)), affine.group)


def _turn_round(affine: Affine, codes: Tensor, scale: Tensor, group: int) -> IntegerWeight | str:
    """`codes` int (rows, columns) around 0 with `scale` (rows, groups), every scale positive."""
    rows, groups = scale.shape
    blocks = codes.view(rows, groups, -1)
    negative = scale < 0
    if bool((negative & (blocks.amin(2) == -(2 ** (affine.bits - 1)))).any()):
        return "it has negative scales with codes that a positive one cannot express (grid: positive has none)"
    blocks = torch.where(negative[..., None], -blocks, blocks) * (scale.abs() >= LEAST_NORMAL)[..., None]
    scale = scale.abs().float().clamp(min=LEAST_NORMAL).contiguous()
    bits = 4 if affine.bits <= 4 and len(affine.shape) == 2 else 8
    return IntegerWeight(blocks.view(affine.shape).to(torch.int8), scale if group else scale[:, 0].contiguous(), bits, group)


@dataclass(frozen=True)
class IntegerTable:
    """An embedding's rows: `codes` int8 (rows, columns), 128 below ours, as converters know no unsigned constants. With `bits` 4 they
    are (rows, columns / 2), two of ours to a byte, the lower half first.

    `scale` and `zero` float32 are (rows, groups): row = scale · (code − zero) by groups of `group` columns.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    bits: int
    group: int


def make_integer_table(codes: LayerCodes) -> IntegerTable | str:
    """An embedding's rows as they are looked up and decoded, or why they are not."""
    affine = codes.affine if codes.columns is None else None
    if affine is None:
        return "its codes are not evenly spaced, or something is added after decoding"
    rows, columns = affine.codes.shape
    group = min(affine.group, columns)
    if affine.bits > 8 or columns % group:
        return "its groups are not all of one size"
    kept = affine.codes.to(torch.uint8)
    four = affine.bits <= 4 and columns % 2 == 0
    packed = kept[:, ::2] | (kept[:, 1::2] << 4) if four else kept ^ 128
    shift = 0 if four else 128
    scale, zero = (part.float().expand(rows, columns // group).contiguous() for part in (affine.scale, affine.zero - shift))
    return IntegerTable(packed.contiguous().view(torch.int8), scale, zero, 4 if four else 8, group)


def list_layouts(weight: IntegerWeight | IntegerTable, signed: bool) -> list[bytes]:
    """The bytes as which a file may have the codes: a matrix as it is, a kernel with its inputs last or, where it has but one, with its
    outputs last; two codes of 4 bits in a byte, the lower half first, as they are (`signed`) or 8 above."""
    if isinstance(weight, IntegerTable) or weight.bits == 8:
        orders = [weight.codes]
        if weight.codes.dim() > 2:
            orders = [weight.codes.movedim(1, -1), *([weight.codes.movedim(0, -1)] if weight.codes.shape[1] == 1 else []), *orders]
        return [order.contiguous().numpy().tobytes() for order in orders]
    flat = (weight.codes if signed else weight.codes + 8).view(torch.uint8) & 15
    if flat.shape[1] % 2:
        flat = torch.nn.functional.pad(flat, (0, 1), value=0 if signed else 8)
    return [(flat[:, ::2] | (flat[:, 1::2] << 4)).numpy().tobytes()]
