"""Codes, scales and zero-points of a weight in the types that ONNX has: 4 or 8 bits, with or without a sign."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import torch

from trimodal.exporting.layer_codes import LayerCodes
from trimodal.layers.affine import Affine

_BITS = (4, 8)


@dataclass(frozen=True)
class ScaledCodes:
    """What a DequantizeLinear takes.

    `codes` are numbers of `dtype` in the weight's shape. `scale` float32 is (n,) along `axis`, or for blocks of `block` neighbours
    along `axis` the codes' shape with that axis divided; `zero` has its shape and the codes' type, None where it is 0.
    """

    name: str
    codes: np.ndarray
    dtype: ir.DataType
    scale: np.ndarray
    zero: np.ndarray | None
    axis: int
    block: int = 0

    def transpose(self) -> ScaledCodes:
        """The same of the transposed matrix."""
        blocked = self.block > 0
        return replace(
            self, codes=np.ascontiguousarray(self.codes.T), axis=1 - self.axis,
            scale=np.ascontiguousarray(self.scale.T) if blocked else self.scale,
            zero=np.ascontiguousarray(self.zero.T) if blocked and self.zero is not None else self.zero,
        )  # fmt: skip


def scale_codes(codes: LayerCodes, unsigned: bool) -> ScaledCodes | None:
    """The weight as one DequantizeLinear takes it, or None where it takes more than one."""
    affine = codes.affine
    if affine is None or not affine.whole_zero or affine.bits > 8:
        return None
    channel = affine.group >= affine.codes.shape[1]
    if not channel and (len(affine.shape) > 2 or affine.codes.shape[1] % affine.group):
        return None  # blocks lie along one axis, and are all of one size
    bits = next(bits for bits in _BITS if affine.bits <= bits)
    middle = 2 ** (affine.bits - 1)
    symmetric = bool((affine.zero == middle).all())
    signed = symmetric and not (unsigned and bits == 8)
    if not symmetric and not bool(((affine.zero >= 0) & (affine.zero < 2**bits)).all()):
        return None
    return _lay_out(codes.path, affine, bits, signed, middle if signed else 0, channel, symmetric)


def _lay_out(path: str, affine: Affine, bits: int, signed: bool, shift: int, channel: bool, symmetric: bool) -> ScaledCodes:
    """The numbers of `affine` less `shift`, in the type with `bits`."""
    kind = np.int8 if signed else np.uint8
    numbers = (affine.codes - shift).to(torch.int8 if signed else torch.uint8).numpy().astype(kind).reshape(affine.shape)
    scale, zero = _spread(affine, affine.scale.float()), None if signed else _spread(affine, affine.zero).astype(kind)
    if channel:
        scale, zero = scale[:, 0].copy(), None if zero is None else zero[:, 0].copy()
    dtype = {(4, True): ir.DataType.INT4, (4, False): ir.DataType.UINT4, (8, True): ir.DataType.INT8, (8, False): ir.DataType.UINT8}
    return ScaledCodes(path, numbers, dtype[bits, signed], scale, zero, 0 if channel else 1, 0 if channel else affine.group)


def _spread(affine: Affine, part: torch.Tensor) -> np.ndarray:
    """`part` (rows, groups) or (1, 1) with a row for each row of the weight."""
    groups = math.ceil(affine.codes.shape[1] / affine.group)
    return part.expand(affine.codes.shape[0], groups).contiguous().numpy()
