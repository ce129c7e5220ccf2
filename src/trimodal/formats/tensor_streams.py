"""One tensor as a stream of bytes, with the entry that tells how to read it back to the very same bytes.

An entry is [type, shape, coder, bytes of the stream, CRC-32 of the tensor], and with the coder `codes` also bits and columns:

    coder   raw        the tensor's bytes, which no stream is shorter than
            tensor     planes of its bytes
            codes      codes of `bits` bits, taken out of the bytes that they are packed into: a row has `columns` of them

What an entry from anybody says is checked before any memory is taken; a stream is believed when the tensor has the checksum that was
written with it. `formats/packed.py` puts the streams of whole tensors into one file, `formats/archive.py` those of blocks.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimodal.core import Layout
from trimodal.core.storage import packed_columns
from trimodal.edits.steps import read_steps
from trimodal.errors import InputError
from trimodal.maths.entropy_coding import decode_tensor, encode_tensor
from trimodal.maths.packing import pack_codes, unpack_codes
from trimodal.maths.symbol_table import MalformedStreamError

MOST_TIMES = 256
_MOST_BEYOND = 1 << 24
_CHUNK = 1 << 20
_WIDTHS = (*range(1, 9), 16)  # bits that codes may have to be coded as codes
TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64,
        torch.uint16, torch.uint32, torch.uint64,
    )
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """How one tensor's stream is to be read."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    coder: str
    length: int
    crc32: int
    bits: int = 8
    columns: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def claimed_bytes(self) -> int:
        """Bytes that reading it takes: of the tensor, and of its codes where they are unpacked."""
        width = 2 if self.bits > 8 else 1
        return self.bytes + (self.shape[0] * self.columns * width if self.coder == "codes" else 0)


def max_claimed_bytes(size: int) -> int:
    """The bytes that a file of `size` bytes may claim to unpack to."""
    return MOST_TIMES * size + _MOST_BEYOND


def find_packed_codes(plain: Path, layout: Layout | None) -> dict[str, tuple[int, int]]:
    """Bits and columns of the tensors that hold packed codes, by the names that they have after all steps."""
    found: dict[str, tuple[int, int]] = {}
    for step in read_steps(plain):
        if layout is not None:
            moved = ((step.rebase(name, layout), codes) for name, codes in found.items())
            found = {name: codes for name, codes in moved if name is not None}
        found |= step.list_packed_codes()
    return found


def encode_shortest(tensor: Tensor, codes: tuple[int, int] | None) -> tuple[bytes, list[Any]]:
    """The shortest stream of `tensor` of any shape and dtype, and the entry that tells how to read it."""
    raw, (_, entry) = tensor_bytes(tensor), encode_raw(tensor)
    name, more = entry[0], []
    coder, best = "raw", raw
    if codes is not None and codes[0] in _WIDTHS and _has_packed_codes(tensor, *codes):
        bits, columns = codes
        found = unpack_codes(tensor, bits, columns)
        stream = encode_tensor(found if bits <= 8 else found.to(torch.int16))
        if len(stream) < len(raw) and _repack_codes(stream, len(tensor), bits, columns).equal(tensor):
            coder, best, more = "codes", stream, [bits, columns]
    elif raw:
        stream = encode_tensor(tensor)
        if len(stream) < len(raw):
            coder, best = "tensor", stream
    return best, [name, list(tensor.shape), coder, len(best), zlib.crc32(raw), *more]


def encode_raw(tensor: Tensor) -> tuple[bytes, list[Any]]:
    """The bytes of `tensor`, of any shape and dtype, as they are, and the entry that says so.

    Raises:
        InputError: there is no name for its type.
    """
    raw, name = tensor_bytes(tensor), str(tensor.dtype).removeprefix("torch.")
    if name not in TYPES:
        raise InputError(f"a tensor of the type {name} cannot be entropy-coded; use plain weights")
    return raw, [name, list(tensor.shape), "raw", len(raw), zlib.crc32(raw)]


def _has_packed_codes(tensor: Tensor, bits: int, columns: int) -> bool:
    """Whether `tensor` has the form of packed codes."""
    expected = packed_columns(columns, bits)
    return tensor.dtype is torch.uint8 and tensor.dim() == 2 and tensor.shape[1] == expected and tensor.numel() > 0


def _repack_codes(stream: bytes, rows: int, bits: int, columns: int) -> Tensor:
    """The packed codes (rows, bytes per row) that `stream` holds."""
    codes = decode_tensor(stream, torch.uint8 if bits <= 8 else torch.int16, (rows, columns))
    found = torch.empty(rows, packed_columns(columns, bits), dtype=torch.uint8)
    step = max(1, _CHUNK // max(1, columns))
    for start in range(0, rows, step):
        part = codes[start : start + step]
        if bits < 8 and part.numel() and int(part.max()) >= 1 << bits:
            raise MalformedStreamError(f"holds codes above {bits} bits")
        found[start : start + step] = pack_codes(part if bits <= 8 else part.int() & 0xFFFF, bits)
    return found


def decode_stream(name: str, stream: bytes, entry: TensorEntry) -> Tensor:
    """The tensor in a `stream`, in its shape and dtype, with the checksum that is written down.

    Raises:
        MalformedStreamError: it is another.
    """
    try:
        if entry.coder == "raw":
            if len(stream) != entry.bytes:
                raise MalformedStreamError(f"holds {len(stream)} bytes for {entry.bytes}")
            found = torch.frombuffer(bytearray(stream or b"\0"), dtype=torch.uint8)[: len(stream)].view(entry.dtype)
            found = found.view(entry.shape)
        elif entry.coder == "codes":
            found = _repack_codes(stream, entry.shape[0], entry.bits, entry.columns)
        else:
            found = decode_tensor(stream, entry.dtype, entry.shape)
    except MalformedStreamError as reason:
        raise MalformedStreamError(f"is damaged: the stream of {name:.80} {reason}") from reason
    if zlib.crc32(tensor_bytes(found)) != entry.crc32:
        raise MalformedStreamError(f"is damaged: {name:.80} has another checksum than when it was written")
    return found.contiguous()


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of `tensor`, of any shape, as they lie in a file."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def parse_entry(name: str, what: Any) -> TensorEntry:
    """The entry of the tensor called `name` as a file has it.

    Raises:
        MalformedStreamError: it is no entry.
    """
    codes = isinstance(what, list) and len(what) == 7 and what[2] == "codes"
    if not isinstance(what, list) or (len(what) != 5 and not codes):
        raise MalformedStreamError(f"says of {name:.80} only {what!r:.60}")
    dtype, shape, coder, length, crc32 = what[:5]
    if not isinstance(shape, list) or not all(is_whole_number(n) for n in shape) or len(shape) > 16:
        raise MalformedStreamError(f"gives {name:.80} the shape {shape!r:.60}")
    if not isinstance(dtype, str) or dtype not in TYPES:
        raise MalformedStreamError(f"gives {name:.80} the type {dtype!r:.40}")
    if not (codes or coder in ("raw", "tensor")) or not is_whole_number(length) or not is_whole_number(crc32):
        raise MalformedStreamError(f"codes {name:.80} as {coder!r:.40} in {length!r:.20} bytes with the checksum {crc32!r:.20}")
    entry = TensorEntry(TYPES[dtype], tuple(shape), coder, length, crc32)
    if not codes:
        return entry
    bits, columns = what[5:]
    if not is_whole_number(columns) or not is_whole_number(bits) or bits not in _WIDTHS:
        raise MalformedStreamError(f"gives {name:.80} {columns!r:.20} columns of {bits!r:.20} bits")
    if dtype != "uint8" or len(shape) != 2 or packed_columns(columns, bits) != shape[1]:
        raise MalformedStreamError(f"packs {columns} codes of {bits} bits into rows of {name:.80} of the shape {shape}")
    return replace(entry, bits=bits, columns=columns)


def is_whole_number(value: Any) -> bool:
    """Whether a value from a file is a count: whole, not negative, below 2^48."""
    return type(value) is int and 0 <= value < 1 << 48
