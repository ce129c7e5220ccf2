"""Codes, scales and zero-points of a weight in the types that ONNX has: 4 or 8 bits, with or without a sign."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import torch

from trimodal.exporting.layer_codes import LayerCodes
from trimodal.layers.affine import Affine
from trimodal.maths.packing import unpack_codes

BESIDE = frozenset({"columns", "rank", "rotation"})
"""What of a stored form may be done beside the codes, by the names of the storage options."""
_BITS = (4, 8)


@dataclass(frozen=True)
class ScaledCodes:
    """What a DequantizeLinear takes.

    `codes` are numbers of `dtype` in the weight's shape, of which there are but 2^`bits`, the least of them `least`. `scale` float32 is
    (n,) along `axis`, or for blocks of `block` neighbours along `axis` the codes' shape with that axis divided; `zero` has its
    shape and the codes' type, None where it is 0. With a `mask` of the codes' shape only those where it is True are worth
    keeping: the others are all `rest`, which stands for 0; `counted`: they are spread as ONNX Runtime takes it (`spread_kept`).
    Without `nibbles` 4 bits are stored as two codes to a byte, since ONNX Runtime looks up rows in no type of 4 bits. `turned` are
    codes that the file has the other way round, since something else there uses them so.
    """

    name: str
    codes: np.ndarray
    dtype: ir.DataType
    bits: int
    least: int
    scale: np.ndarray
    zero: np.ndarray | None
    axis: int
    block: int = 0
    mask: np.ndarray | None = None
    rest: int = 0
    nibbles: bool = True
    turned: bool = False
    counted: bool = False

    @property
    def native(self) -> bool:
        """Whether the type has as many bits as the codes, so that they are stored as they are."""
        return self.mask is None and self.bits in (_BITS if self.nibbles else _BITS[1:])

    def transpose(self, stored: bool = True) -> ScaledCodes:
        """The same of the transposed matrix; unless `stored`, made from codes that are stored as these are."""
        blocked = self.block > 0
        return replace(
            self, turned=not stored, codes=np.ascontiguousarray(self.codes.T), axis=1 - self.axis,
            scale=np.ascontiguousarray(self.scale.T) if blocked else self.scale,
            zero=np.ascontiguousarray(self.zero.T) if blocked and self.zero is not None else self.zero,
            mask=None if self.mask is None else np.ascontiguousarray(self.mask.T),
        )  # fmt: skip


def scale_codes(codes: LayerCodes, unsigned: bool) -> ScaledCodes | None:
    """The weight as one DequantizeLinear takes it, but for what is done beside it; None where codes alone are not enough."""
    affine = _find_affine(codes)
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
    if "kept" in codes.store.options and not symmetric:
        return None  # a pruned weight would have a code of its own in every block
    return _lay_out(codes, affine, bits, signed, middle if signed else 0, channel)


def _find_affine(codes: LayerCodes) -> Affine | None:
    """The affine form under what can be done to the layer's input, or added to its output, instead of to its weight."""
    if isinstance(codes.weight, Affine):
        return codes.weight
    beside = BESIDE if len(codes.shape) == 2 else ("columns",)
    return codes.weight.inner if set(codes.weight.beyond) <= set(beside) else None


def _lay_out(codes: LayerCodes, affine: Affine, bits: int, signed: bool, shift: int, channel: bool) -> ScaledCodes:
    """The numbers of `affine` less `shift`, in the type with `bits`."""
    kind = np.int8 if signed else np.uint8
    numbers = (affine.codes - shift).to(torch.int8 if signed else torch.uint8).numpy().astype(kind).reshape(affine.shape)
    scale, zero = _spread(affine, affine.scale.float()), None if signed else _spread(affine, affine.zero).astype(kind)
    if channel:
        scale, zero = scale[:, 0].copy(), None if zero is None else zero[:, 0].copy()
    dtype = {(4, True): ir.DataType.INT4, (4, False): ir.DataType.UINT4, (8, True): ir.DataType.INT8, (8, False): ir.DataType.UINT8}
    return ScaledCodes(
        codes.path, numbers, dtype[bits, signed], affine.bits, -shift, scale, zero, 0 if channel else 1, 0 if channel else affine.group,
        _find_mask(codes, affine), 2 ** (affine.bits - 1) - shift,
    )  # fmt: skip


def _find_mask(codes: LayerCodes, affine: Affine) -> np.ndarray | None:
    """Which weights are kept, if a bit for each weight and the kept codes alone take less than all codes."""
    kept, count = codes.store.options.get("kept"), affine.codes.numel()
    if kept is None or affine.bits * kept + count >= affine.bits * count:
        return None
    return unpack_codes(codes.store.get_buffer("mask"), 1, affine.codes.shape[1]).bool().numpy().reshape(affine.shape)


def _spread(affine: Affine, part: torch.Tensor) -> np.ndarray:
    """`part` (rows, groups) or (1, 1) with a row for each row of the weight."""
    groups = math.ceil(affine.codes.shape[1] / affine.group)
    return part.expand(affine.codes.shape[0], groups).contiguous().numpy()
