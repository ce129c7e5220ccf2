"""A table of symbol frequencies that is small when it is stored, and the coder that writes symbols by it.

What the numbers mean is taught in `maths/entropy_coding.py`, which says which symbols share a table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import InputError

Bytes = NDArray[np.uint8]
CONSTANT, CODED = 1, 2  # the first byte of what is written: one symbol only, or a table and words

EXTRA = "pack"
_STEPS = (1, 2, 4, 8, 16, 32, 64)  # per doubling of a count
# Neighbours differ by d with the weight (1 − 1/m)^|d|: m in sixteenths.
_DECAYS = (17, 18, 20, 24, 28, 32, 40, 56, 80, 128, 192, 320, 512, 1024, 2048, 4096)
_WIDTHS = (1, 5, 15)  # neighbours whose counts are smoothed
_MANY = 256  # symbols per entry of the table from which on smoothing cannot pay
_OCTAVES = 33  # counts stay below 2^32
_FRACTION = 1 << 16
_FLUSH_BITS = 48.0  # what the coder's state leaves over, on average


class MalformedStreamError(ValueError):
    """A stream that no coder of ours has written; the text says why."""


def require_constriction() -> Any:
    """The coding library.

    Raises:
        InputError: it is not installed.
    """
    try:
        import constriction
    except ImportError as error:
        raise InputError(
            f"entropy-coded weights need the package constriction; install it with pip install 'trimodal[{EXTRA}]'"
        ) from error
    return constriction.stream


@dataclass(frozen=True)
class SymbolTable:
    """Frequencies of the symbols from `low` on, as q (span,) in so many `steps` per doubling, neighbours coded with the `decay` in
    sixteenths; `bits` is what the table and all symbols take."""

    low: int
    q: NDArray[np.int64]
    steps: int
    decay: int
    bits: float


def fit_symbol_table(counts: NDArray[np.int64]) -> SymbolTable:
    """The table for symbols with these `counts` (256,) that makes it and them shortest together."""
    used = np.flatnonzero(counts)
    if len(used) < 2:
        return SymbolTable(int(used[0]) if len(used) else 0, np.zeros(1, np.int64), 1, _DECAYS[0], 16.0)
    low, high = int(used[0]), int(used[-1])
    present = counts[low : high + 1]
    here = present > 0
    decays = np.array(_DECAYS) / 16
    # weights (1 − 1/m)^|d| over all whole d sum to 2m − 1
    per_jump, per_symbol = -np.log2(1 - 1 / decays), np.log2(2 * decays - 1)
    steps, total = np.array(_STEPS), present[here].astype(np.float64)
    best: SymbolTable | None = None
    for width in _WIDTHS if present.sum() < _MANY * len(present) else _WIDTHS[:1]:
        q = np.round(steps[:, None] * np.log2(1.0 + _smooth_counts(present, width))).astype(np.int64)  # (7, span)
        q[:, here] = q[:, here].clip(min=1)
        frequency = _to_frequencies(q, steps[:, None])
        share = frequency[:, here] / frequency.sum(axis=1, keepdims=True)
        jumps = np.abs(np.diff(q, axis=1, prepend=0)).sum(axis=1)
        costs = jumps[:, None] * per_jump + q.shape[1] * per_symbol - (np.log2(share) @ total)[:, None]
        at, decay = divmod(int(costs.argmin()), len(decays))
        bits = float(costs[at, decay]) + 32 + _FLUSH_BITS
        if best is None or bits < best.bits:
            best = SymbolTable(low, q[at], _STEPS[at], _DECAYS[decay], bits)
    assert best is not None
    return best


def _smooth_counts(counts: NDArray[np.int64], width: int) -> NDArray[np.float64]:
    """Means over `width` neighbours, except at both ends, where clamping heaps symbols up."""
    found = counts.astype(np.float64)
    inner = found[1:-1]
    if width > 1 and len(inner) > width:
        window = np.ones(width)
        found[1:-1] = np.convolve(inner, window, "same") / np.convolve(np.ones_like(inner), window, "same")
    return found


@cache
def _power_mantissas() -> tuple[int, ...]:
    """2^(k/64) for k from 0 to 63, in whole 2^−16: square roots of whole numbers, alike on every machine."""
    one = 1 << 64
    root = 2 * one
    for _ in range(6):
        root = math.isqrt(root * one)
    found, value = [], one
    for _ in range(64):
        found.append(value * _FRACTION // one)
        value = value * root // one
    return tuple(found)


def _to_frequencies(q: NDArray[np.int64], steps: int | NDArray[np.int64]) -> NDArray[np.float64]:
    """2^(q / steps) − 1 in units of 2^−16, whole numbers below 2^50."""
    fine = q * (64 // steps)
    found: NDArray[np.int64] = (np.array(_power_mantissas(), np.int64)[fine % 64] << (fine // 64)) - _FRACTION
    return found.astype(np.float64)


@cache
def _jump_model(steps: int, decay: int) -> Any:
    """The distribution of a difference between neighbours, shifted so that the lowest possible is 0."""
    weights, value = [], 1 << 40
    for _ in range(_OCTAVES * steps + 1):
        weights.append(float(max(value, 1)))
        value = value * (decay - 16) // decay
    return require_constriction().model.Categorical(np.array([*reversed(weights[1:]), *weights]), perfect=False)


def encode_with_table(symbols: Bytes, table: SymbolTable) -> bytes:
    """The symbols (rows, columns) as bytes: the table and what it makes of them."""
    if len(table.q) == 1:
        return bytes([CONSTANT, table.low])
    stream = require_constriction()
    coder = stream.stack.AnsCoder()
    model = stream.model.Categorical(_to_frequencies(table.q, table.steps), perfect=False)
    coder.encode_reverse(symbols.reshape(-1).astype(np.int32) - table.low, model)
    jumps = np.diff(table.q, prepend=0) + _OCTAVES * table.steps
    coder.encode_reverse(jumps.astype(np.int32), _jump_model(table.steps, table.decay))
    form = _STEPS.index(table.steps) << 4 | _DECAYS.index(table.decay)
    words: bytes = coder.get_compressed().astype("<u4").tobytes()
    return bytes([CODED, table.low, len(table.q) - 1, form]) + words


def decode_with_table(rest: bytes, size: int) -> Bytes:
    """The symbols uint8 (size,) of what `encode_with_table` wrote, without its first byte.

    Raises:
        MalformedStreamError: it wrote no such thing.
    """
    if len(rest) < 3 or (len(rest) - 3) % 4:
        raise MalformedStreamError(f"holds {len(rest)} bytes, which are no head and whole words")
    low, span, form = rest[0], rest[1] + 1, rest[2]
    if low + span > 256 or span < 2 or form >> 4 >= len(_STEPS):
        raise MalformedStreamError(f"has a table of {span} symbols from {low} in the form {form}")
    stream = require_constriction()
    steps, decay = _STEPS[form >> 4], _DECAYS[form & 15]
    words = np.frombuffer(rest, "<u4", offset=3).astype(np.uint32)
    try:
        coder = stream.stack.AnsCoder(words)
    except ValueError as error:
        raise MalformedStreamError("ends with an empty word") from error
    q = np.cumsum(coder.decode(_jump_model(steps, decay), span).astype(np.int64) - _OCTAVES * steps)
    if q.min() < 0 or q.max() > _OCTAVES * steps or not q.any():
        raise MalformedStreamError("has a table of impossible frequencies")
    model = stream.model.Categorical(_to_frequencies(q, steps), perfect=False)
    found: Bytes = coder.decode(model, size).astype(np.uint8)
    if not coder.is_empty():
        raise MalformedStreamError("holds more than its symbols")
    found += np.uint8(low)
    return found
