"""A safetensors file cut into blocks that are small enough to be held: where each lies, its type and shape, and the codes in it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trimodal.core.storage import packed_columns

BLOCK_BYTES = 1 << 22
_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Bytes `start` to `stop` of a file, and what they are: numbers of `dtype` in `shape`; `codes` says how many bits the codes that
    are packed in them have and how many a row has, None where there are none."""

    start: int
    stop: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    codes: tuple[int, int] | None = None


def split_tensor_file(file: Path, packed: Mapping[str, tuple[int, int]]) -> list[Block] | None:
    """The blocks of a safetensors file in the order in which they lie in it, the header's included; None where it is not one that
    holds its tensors end to end. `packed` has bits and columns of the tensors that hold packed codes, by name."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        begin = 8 + int.from_bytes(opened.read(8), "little")
        if not 8 < begin <= size:
            return None
        tensors = _parse_tensors(opened.read(begin - 8))
    found, at = list(split_bytes(begin)), begin
    if tensors is None:
        return None
    for name, kind, shape, start, stop in tensors:
        dtype = _TYPES.get(kind, torch.uint8)
        if begin + start != at or begin + stop > size or stop < start:
            return None
        if kind not in _TYPES:
            shape = (stop - start,)
        if math.prod(shape) * dtype.itemsize != stop - start:
            return None
        found += _split_tensor(at, dtype, shape, packed.get(name))
        at = begin + stop
    return found if at == size else None


def split_bytes(size: int) -> Iterator[Block]:
    """The blocks of `size` bytes of which nothing is known."""
    for start in range(0, size, BLOCK_BYTES):
        stop = min(start + BLOCK_BYTES, size)
        yield Block(start, stop, torch.uint8, (stop - start,))


def _parse_tensors(header: bytes) -> list[tuple[str, str, tuple[int, ...], int, int]] | None:
    """Name, type, shape, first and last byte of every tensor, in the order of the bytes."""
    try:
        said: dict[str, Any] = json.loads(header)
        found = [
            (name, str(what["dtype"]), tuple(map(int, what["shape"])), int(what["data_offsets"][0]), int(what["data_offsets"][1]))
            for name, what in said.items() if name != "__metadata__"
        ]  # fmt: skip
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return sorted(found, key=lambda one: (one[3], one[4]))


def _split_tensor(at: int, dtype: torch.dtype, shape: tuple[int, ...], codes: tuple[int, int] | None) -> Iterator[Block]:
    """Whole rows where a row is no longer than a block, else pieces of rows; of packed codes no more than a block's bytes of codes."""
    rows, width = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
    if codes is not None and dtype is torch.uint8 and len(shape) == 2 and packed_columns(codes[1], codes[0]) == width:
        bits, columns = codes
        if columns > BLOCK_BYTES:
            for row in range(rows):
                yield from _split_code_row(at + row * width, bits, columns)
            return
        for first, count in _split_rows(rows, columns):
            yield Block(at + first * width, at + (first + count) * width, dtype, (count, width), codes)
        return
    row_bytes = width * dtype.itemsize
    if len(shape) > 1 and row_bytes <= BLOCK_BYTES:
        for first, count in _split_rows(rows, row_bytes):
            yield Block(at + first * row_bytes, at + (first + count) * row_bytes, dtype, (count, width))
        return
    step = BLOCK_BYTES // dtype.itemsize
    for first in range(0, rows * width, step):
        count = min(step, rows * width - first)
        yield Block(at + first * dtype.itemsize, at + (first + count) * dtype.itemsize, dtype, (count,))


def _split_rows(rows: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each block."""
    step = max(1, BLOCK_BYTES // max(1, row_bytes))
    return ((first, min(step, rows - first)) for first in range(0, rows, step))


def _split_code_row(at: int, bits: int, columns: int) -> Iterator[Block]:
    """Pieces of one row of packed codes: a block's bytes are a multiple of eight codes, so each piece begins with a byte of its own."""
    for first in range(0, columns, BLOCK_BYTES):
        count = min(BLOCK_BYTES, columns - first)
        start, length = at + packed_columns(first, bits), packed_columns(count, bits)
        yield Block(start, start + length, torch.uint8, (1, length), (bits, count))
