"""Entropy coding: whole tensors as short streams of bytes, and back to the very same tensors.

A symbol of probability p needs −log2 p bits, so n symbols with the frequencies p_s need at least n·Σ −p_s log2 p_s bits,
their entropy. Asymmetric numeral systems (Duda 2013, arXiv 1311.2540) come within a fraction of a percent of that, also
where one symbol has more than half of all places and Huffman's whole bits would cost twice as much. The coder is
the library `constriction` (Bamler 2022, arXiv 2201.01741), an optional extra; whatever only asks what a stream would
take does without it.

A tensor becomes *planes* of bytes, each coded for itself:

    codes, int8, uint8       one plane, the numbers from the lowest up
    floats                   the exponent first: bits are rotated left by one, so that the sign stands behind the mantissa;
                             one plane per byte. Exponents take few values, mantissas stay as they are (as in DFloat11,
                             Zhang et al. 2025, arXiv 2504.11651)
    wider whole numbers      one plane per byte; a vector as the differences of neighbours, since places ascend

A plane is stored in the shortest of four ways, which its first byte names:

    0 raw        the bytes
    1 constant   one byte
    2 coded      lowest symbol, number of symbols − 1, form of the table, then 32-bit words, the lowest byte first: a
                 stack from which the table comes first and then the symbols
    3 lines      rows or columns of a matrix sorted into classes by how far their symbols spread, one table per class

The table holds no counts but q = round(r·log2(1 + count)), neighbour by neighbour as differences in a two-sided geometric
distribution; r, from 1 to 64 steps per doubling, is what makes table and symbols together shortest, and so is whether
counts are smoothed first: few symbols get a rough table, many a fine one. Frequencies follow from q in whole numbers
and are below 2^50, so that they are the same on every machine.

By hand. Counts 3, 1 for the symbols 0, 1 and r = 1: q = round(log2 4), round(log2 2) = 2, 1; the frequencies 2^q − 1 are
3 and 1, the counts themselves. Four symbols then need 3·log2(4/3) + 1·log2 4 = 3.245112 bits.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimodal.maths.symbol_table import (
    CODED,
    CONSTANT,
    Bytes,
    MalformedStreamError,
    SymbolTable,
    decode_with_table,
    encode_with_table,
    fit_symbol_table,
)

Axis = Literal[0, 1]

_RAW, _LINES = 0, 3
_FEW = 1024  # symbols for which no classes are tried
_CLASSES_PER_OCTAVE = (2, 4)
_CHUNK = 1 << 20
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_SIGNED = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def shannon_entropy(values: Tensor) -> float:
    """Bits per number that whole `values`, of any shape, need at least when each is coded for itself; 0 for none at all."""
    if not values.numel():
        return 0.0
    counts = values.unique(return_counts=True)[1].double()
    share = counts / counts.sum()
    return float(-(share * share.log2()).sum()) + 0.0


# Tensors


def encode_tensor(tensor: Tensor) -> bytes:
    """The stream of `tensor`, of any type and shape; never much longer than the tensor itself."""
    planes = [encode_plane(plane) for plane in _split_planes(tensor)]
    return planes[0] if len(planes) == 1 else b"".join(struct.pack("<I", len(part)) + part for part in planes)


def decode_tensor(stream: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor that `encode_tensor` made `stream` of. It takes memory for `shape`, whatever `stream` says.

    Raises:
        MalformedStreamError: it is no stream of such a tensor.
    """
    width, lines = dtype.itemsize, _plane_shape(shape)
    if width == 1:
        return _join_planes([decode_plane(stream, lines)], dtype, shape)
    planes, start = [], 0
    for _ in range(width):
        if start + 4 > len(stream):
            raise MalformedStreamError("ends before its last plane")
        (length,) = struct.unpack_from("<I", stream, start)
        planes.append(decode_plane(stream[start + 4 : start + 4 + length], lines))
        start += 4 + length
    if start != len(stream):
        raise MalformedStreamError(f"holds {len(stream)} bytes where its planes take {start}")
    return _join_planes(planes, dtype, shape)


def _plane_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a plane."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))


def _split_planes(tensor: Tensor) -> list[Bytes]:
    """The bytes of `tensor` as matrices, the most significant ones first."""
    plain = tensor.detach().cpu().contiguous()
    width = plain.element_size()
    if plain.dtype is torch.bool or width not in _SIGNED or plain.is_complex():
        raw: Bytes = plain.reshape(-1).view(torch.uint8).numpy()
        return list(raw.reshape(-1, width).T.reshape(width, *_plane_shape(tuple(plain.shape))))
    unsigned = plain.reshape(-1).view(_SIGNED[width]).numpy().view(_UNSIGNED[width])
    bits = unsigned.dtype.type(8 * width - 1)
    if plain.is_floating_point() and width > 1:
        unsigned = (unsigned << unsigned.dtype.type(1)) | (unsigned >> bits)
    elif plain.dtype is torch.int8:
        unsigned = unsigned ^ np.uint8(128)
    elif width > 1 and plain.dim() == 1:
        unsigned = np.diff(unsigned, prepend=unsigned.dtype.type(0))  # wraps around, and back
    matrix = _plane_shape(tuple(plain.shape))
    return [(unsigned >> unsigned.dtype.type(8 * n)).astype(np.uint8).reshape(matrix) for n in reversed(range(width))]


def _join_planes(planes: list[Bytes], dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `_split_planes`."""
    width = dtype.itemsize
    if dtype is torch.bool or width not in _SIGNED or dtype.is_complex:
        raw = np.stack([plane.reshape(-1) for plane in planes], axis=-1)
        if dtype is torch.bool and raw.size and raw.max() > 1:
            raise MalformedStreamError("holds truth values above 1")
        return torch.from_numpy(raw.reshape(-1)).view(dtype).view(shape)
    kind = _UNSIGNED[width]
    found = np.zeros(math.prod(shape), kind)
    for plane in planes:
        found = (found << kind(8) if width > 1 else found) | plane.reshape(-1).astype(kind)
    if dtype.is_floating_point and width > 1:
        found = (found >> kind(1)) | (found << kind(8 * width - 1))
    elif dtype is torch.int8:
        found = found ^ np.uint8(128)
    elif width > 1 and len(shape) == 1:
        found = np.cumsum(found, dtype=kind)
    signed = np.ascontiguousarray(found).view(np.dtype(f"i{width}"))
    return torch.from_numpy(signed).view(dtype).view(shape)


# Planes


def encode_plane(symbols: Bytes) -> bytes:
    """The stream of a matrix of bytes uint8 (rows, columns), stored in the shortest way."""
    plain = np.ascontiguousarray(symbols)
    raw = bytes([_RAW]) + plain.tobytes()
    if plain.size < 2:
        return raw
    best = min(_list_plane_codings(plain), key=lambda way: way.bits)
    if best.bits >= 8 * (len(raw) - 1):
        return raw
    found = encode_with_table(plain, best.tables[0]) if best.labels is None else _encode_lines(plain, best)
    return found if len(found) < len(raw) else raw


def estimate_coded_bits(codes: Tensor) -> float:
    """Bits that the stream of int8 or uint8 `codes` (rows, columns) takes, to about a tenth of a percent."""
    (plane,) = _split_planes(codes)
    if plane.size < 2:
        return 8.0 * (1 + plane.size)
    return min(8.0 * (1 + plane.size), *(way.bits for way in _list_plane_codings(plane)))


def decode_plane(stream: bytes, shape: tuple[int, int]) -> Bytes:
    """The matrix of bytes that `encode_plane` made `stream` of.

    Raises:
        MalformedStreamError: it is no stream of a matrix of this shape.
    """
    if not stream:
        raise MalformedStreamError("is empty")
    kind, rest, size = stream[0], stream[1:], math.prod(shape)
    if kind == _LINES and size:
        return _decode_lines(rest, shape)
    if kind == _RAW:
        if len(rest) != size:
            raise MalformedStreamError(f"holds {len(rest)} bytes for {size} symbols")
        return np.frombuffer(rest, np.uint8).reshape(shape)
    if kind == CONSTANT:
        if len(rest) != 1:
            raise MalformedStreamError(f"holds {len(rest)} bytes for one symbol")
        return np.full(shape, rest[0], np.uint8)
    if kind != CODED:
        raise MalformedStreamError(f"is stored in the unknown way {kind}")
    return decode_with_table(rest, size).reshape(shape)


@dataclass(frozen=True)
class _PlaneCoding:
    """One way to store a plane: tables, and for more than one the class of each line along `axis`."""

    tables: tuple[SymbolTable, ...]
    bits: float
    labels: NDArray[np.intp] | None = None
    axis: Axis = 0


def _list_plane_codings(symbols: Bytes) -> Iterator[_PlaneCoding]:
    """With one table, and with classes of rows or columns where that could pay."""
    counts = np.bincount(symbols.reshape(-1), minlength=256)
    table = fit_symbol_table(counts)
    yield _PlaneCoding((table,), table.bits)
    if symbols.size < _FEW or min(symbols.shape) < 2 or table.bits > 7.9 * symbols.size or (counts > 0).sum() < 2:
        return
    middle = int(np.searchsorted(np.cumsum(counts), symbols.size / 2))
    layouts: list[tuple[float, Axis, NDArray[np.intp], NDArray[np.int64]]] = []
    axis: Axis
    for axis in (1, 0):
        spread = _mean_spread(symbols, middle, axis)
        for per_octave in _CLASSES_PER_OCTAVE:
            labels = np.unique(np.round(per_octave * np.log2(spread + 2.0**-8)), return_inverse=True)[1]
            if 1 < labels.max() + 1 <= 256:
                parts = _count_by_class(symbols, labels, axis, int(labels.max()) + 1)
                layouts.append((_estimate_class_bits(parts), axis, labels, parts))
    if layouts:
        _, axis, labels, parts = min(layouts, key=lambda layout: layout[0])
        tables = tuple(fit_symbol_table(part) for part in parts)
        listed = fit_symbol_table(np.bincount(labels, minlength=256)).bits
        yield _PlaneCoding(tables, sum(part.bits + 32 for part in tables) + listed + 64, labels, axis)


def _estimate_class_bits(counts: NDArray[np.int64]) -> float:
    """Roughly the bits of classes with these `counts` (classes, 256): entropies, and half a logarithm per entry."""
    total = counts.sum(axis=1, keepdims=True)
    entries = (counts > 0).sum(axis=1)
    ideal = (counts * -np.log2(counts.clip(min=1) / total)).sum()
    return float(ideal + (entries * 0.5 * np.log2(1 + total[:, 0] / entries) + 128).sum())


def _mean_spread(symbols: Bytes, middle: int, axis: Axis) -> NDArray[np.float64]:
    """Mean distance of the symbols of each row (axis 0) or column (axis 1) from `middle`."""
    found = np.zeros(symbols.shape[axis])
    for part in _split_chunks(symbols):
        distance = np.abs(symbols[part].astype(np.int16) - np.int16(middle))
        if axis:
            found += distance.sum(axis=0, dtype=np.float64)
        else:
            found[part] = distance.sum(axis=1, dtype=np.float64)
    mean: NDArray[np.float64] = found / symbols.shape[1 - axis]
    return mean


def _count_by_class(symbols: Bytes, labels: NDArray[np.intp], axis: Axis, classes: int) -> NDArray[np.int64]:
    """How often each symbol occurs in each class (classes, 256)."""
    found = np.zeros(classes * 256, np.int64)
    for part in _split_chunks(symbols):
        offset = labels[None, :] if axis else labels[part, None]
        found += np.bincount((symbols[part] + 256 * offset).reshape(-1), minlength=len(found))
    return found.reshape(classes, 256)


def _split_chunks(symbols: Bytes) -> Iterator[slice]:
    rows = max(1, _CHUNK // max(1, symbols.shape[1]))
    return (slice(start, start + rows) for start in range(0, symbols.shape[0], rows))


def _encode_lines(symbols: Bytes, way: _PlaneCoding) -> bytes:
    """A plane with one table per class of lines."""
    assert way.labels is not None
    labels = way.labels.astype(np.uint8)
    parts = [encode_plane(labels[None])]
    for number, table in enumerate(way.tables):
        chosen = labels == number
        parts.append(encode_with_table(symbols[:, chosen] if way.axis else symbols[chosen], table))
    head = bytes([_LINES, way.axis, len(way.tables) - 1])
    return head + b"".join(struct.pack("<I", len(part)) + part for part in parts)


def _decode_lines(rest: bytes, shape: tuple[int, int]) -> Bytes:
    if len(rest) < 2 or rest[0] > 1:
        raise MalformedStreamError("has classes of neither rows nor columns")
    axis, classes = rest[0], rest[1] + 1
    parts, start = [], 2
    for _ in range(classes + 1):
        if start + 4 > len(rest):
            raise MalformedStreamError("ends before its last class")
        (length,) = struct.unpack_from("<I", rest, start)
        part = rest[start + 4 : start + 4 + length]
        if part[:1] == bytes([_LINES]):
            raise MalformedStreamError("has classes inside of a class")
        parts.append(part)
        start += 4 + length
    if start != len(rest):
        raise MalformedStreamError(f"holds {len(rest)} bytes where its classes take {start}")
    labels = decode_plane(parts[0], (1, shape[axis]))[0]
    if labels.size and labels.max() >= classes:
        raise MalformedStreamError(f"puts a line into class {labels.max()} of {classes}")
    found = np.empty(shape, np.uint8)
    for number, part in enumerate(parts[1:]):
        chosen = labels == number
        lines = int(chosen.sum())
        if axis:
            found[:, chosen] = decode_plane(part, (shape[0], lines))
        else:
            found[chosen] = decode_plane(part, (lines, shape[1]))
    return found
