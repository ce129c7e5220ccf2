"""Entropy-coded weights: `model.trimodal` in the place of `model.safetensors`, and back to the very same bytes.

The file is itself a safetensors file. Its one tensor, `streams`, holds end to end the streams of bytes that
`maths/entropy_coding.py` made of all tensors. Its metadata are those of the plain file, among them the steps, and one more:

    trimodal.packed    JSON: {"format": 1, "sha256": of the plain file, "tensors": ...}, with per name
                       [type, shape, coder, bytes of the stream, CRC-32 of the tensor], and with the coder `codes` also
                       bits and columns

    coder   raw        the tensor's bytes, which no stream is shorter than
            tensor     planes of its bytes
            codes      codes of `bits` bits, taken out of the bytes that they are packed into: a row has `columns` of them

The file may come from anybody. What it says is checked before any memory is taken: it can claim 256 times its own bytes
and 16 megabytes, no more. Where a model would need more (much of it is zeros), some tensors are written raw. A stream is
believed when the tensor has the checksum that was written with it, the whole when it has the plain file's sha256.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trimodal.core import Layout, Packing
from trimodal.core.record import PackName
from trimodal.core.storage import packed_columns
from trimodal.edits.steps import read_steps
from trimodal.errors import InputError, IntegrityError
from trimodal.formats.tensors import write_tensors
from trimodal.maths.entropy_coding import decode_tensor, encode_tensor
from trimodal.maths.packing import pack_codes, unpack_codes
from trimodal.maths.symbol_table import MalformedStreamError, require_constriction
from trimodal.writing import open_scratch_folder
from trimodal.writing.sums import sha256

HEADER, STREAMS = "trimodal.packed", "streams"
FORMAT = 1
_MOST_TIMES = 256
_MOST_BEYOND = 1 << 24
_CHUNK = 1 << 20
_WIDTHS = (*range(1, 9), 16)  # bits that codes may have to be coded as codes
_TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
        torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64,
        torch.uint16, torch.uint32, torch.uint64,
    )
}  # fmt: skip


def check_pack_name(how: str) -> None:
    """Refuse a way to pack that there is not, or that nothing is installed for.

    Raises:
        InputError: it says which there are, or what to install.
    """
    if how not in get_args(PackName):
        raise InputError(f"pack is {how!r:.40}, but must be one of {', '.join(get_args(PackName))}")
    if how == "entropy":
        require_constriction()


@dataclass(frozen=True)
class _TensorEntry:
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


def pack_file(plain: Path, packed: Path, layout: Layout | None = None) -> Packing:
    """Write the entropy-coded `packed` beside the `plain` file, read it back, and say what it saves. `layout` is that of the
    model; without it, codes in blocks that have moved since they were packed are not known as codes, which costs size.

    Raises:
        IntegrityError: reading it back does not give the plain file.
        InputError: the coding library is not installed.
    """
    require_constriction()
    places = _find_packed_codes(plain, layout)
    with safe_open(plain, framework="pt") as opened:
        metadata = opened.metadata() or {}
        coded = {name: _encode_tensor(opened.get_tensor(name), places.get(name)) for name in sorted(opened.keys())}
        for name in _choose_raw_tensors({name: _parse_entry(name, entry) for name, (_, entry) in coded.items()}):
            coded[name] = _encode_raw(opened.get_tensor(name))
    entries = {name: entry for name, (_, entry) in coded.items()}
    streams = bytearray(b"".join(stream for stream, _ in coded.values()))
    header = {"format": FORMAT, "sha256": sha256(plain), "tensors": entries}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    whole = torch.frombuffer(streams, dtype=torch.uint8) if streams else torch.empty(0, dtype=torch.uint8)
    write_tensors({STREAMS: whole}, {**metadata, HEADER: text}, packed)
    return measure_packing(packed)


def _choose_raw_tensors(entries: dict[str, _TensorEntry]) -> list[str]:
    """The tensors to write raw, so that the file claims no more than a reader believes of its size: those first that claim
    most for what they take."""
    left = sum(entry.claimed_bytes for entry in entries.values()) - _max_claimed_bytes(sum(entry.length for entry in entries.values()))
    found = []
    for name, entry in sorted(entries.items(), key=lambda item: _MOST_TIMES * item[1].length - item[1].claimed_bytes):
        if left <= 0:
            break
        found.append(name)
        left -= entry.claimed_bytes - entry.bytes + _MOST_TIMES * (entry.bytes - entry.length)
    return found


def _max_claimed_bytes(size: int) -> int:
    """The bytes that a file of `size` bytes may claim to unpack to."""
    return _MOST_TIMES * size + _MOST_BEYOND


def measure_packing(packed: Path) -> Packing:
    """Sizes of a packed file and of its plain form, and the seconds that unpacking takes."""
    with weights_scratch_folder() as folder:
        start = time.perf_counter()
        unpack_file(packed, folder / "plain")
        seconds = time.perf_counter() - start
        return Packing((folder / "plain").stat().st_size, packed.stat().st_size, round(seconds, 3))


def unpack_file(packed: Path, plain: Path) -> None:
    """Write the plain form of a `packed` file.

    Raises:
        IntegrityError: the file is damaged, or was not written by trimodal.
    """
    size = packed.stat().st_size
    try:
        with safe_open(packed, framework="pt") as opened:
            metadata = opened.metadata() or {}
            entries, expected = _parse_header(metadata.pop(HEADER, ""), size)
            if list(opened.keys()) != [STREAMS] or opened.get_slice(STREAMS).get_dtype() != "U8":
                raise MalformedStreamError("holds other things than streams of bytes")
            streams = opened.get_slice(STREAMS)
            if streams.get_shape() != [sum(entry.length for entry in entries.values())]:
                raise MalformedStreamError("does not hold the streams that it lists")
            tensors, start = {}, 0
            for name, entry in entries.items():
                stream = streams[start : start + entry.length].numpy().tobytes()
                tensors[name], start = _decode_tensor(name, stream, entry), start + entry.length
    except MalformedStreamError as reason:
        raise IntegrityError(f"{packed} {reason}; copy the folder again") from reason
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{packed} is damaged or cut short ({error}); copy the folder again") from error
    write_tensors(tensors, metadata, plain)
    if sha256(plain) != expected:
        raise IntegrityError(f"{packed} does not unpack to the file that it was made from; copy the folder again")


def weights_scratch_folder() -> AbstractContextManager[Path]:
    """A temporary folder for plain weights.

    Raises:
        OutputError: it cannot be written to.
    """
    return open_scratch_folder("the unpacked weights")


def _find_packed_codes(plain: Path, layout: Layout | None) -> dict[str, tuple[int, int]]:
    """Bits and columns of the tensors that hold packed codes, by the names that they have after all steps."""
    found: dict[str, tuple[int, int]] = {}
    for step in read_steps(plain):
        if layout is not None:
            moved = ((step.rebase(name, layout), codes) for name, codes in found.items())
            found = {name: codes for name, codes in moved if name is not None}
        found |= step.list_packed_codes()
    return found


def _encode_tensor(tensor: Tensor, codes: tuple[int, int] | None) -> tuple[bytes, list[Any]]:
    """The shortest stream of `tensor`, and the entry that tells how to read it."""
    raw, (_, entry) = _tensor_bytes(tensor), _encode_raw(tensor)
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


def _encode_raw(tensor: Tensor) -> tuple[bytes, list[Any]]:
    """The bytes of `tensor` as they are, and the entry that says so."""
    raw, name = _tensor_bytes(tensor), str(tensor.dtype).removeprefix("torch.")
    if name not in _TYPES:
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


def _decode_tensor(name: str, stream: bytes, entry: _TensorEntry) -> Tensor:
    """The tensor in a `stream`, with the checksum that is written down."""
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
    if zlib.crc32(_tensor_bytes(found)) != entry.crc32:
        raise MalformedStreamError(f"is damaged: {name:.80} has another checksum than when it was written")
    return found.contiguous()


def _tensor_bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def _parse_header(text: str, size: int) -> tuple[dict[str, _TensorEntry], str]:
    """The entries by name and the plain file's sha256, all of the right form."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedStreamError("has no readable header; it was not written by trimodal") from error
    if not isinstance(data, dict) or data.keys() != {"format", "sha256", "tensors"}:
        raise MalformedStreamError("has a header without format, sha256 and tensors")
    if data["format"] != FORMAT:
        raise MalformedStreamError(f"has the format {data['format']!r:.20}, this version reads {FORMAT}; update trimodal")
    if not isinstance(data["sha256"], str) or not isinstance(data["tensors"], dict):
        raise MalformedStreamError("does not say what it unpacks to")
    entries = {name: _parse_entry(name, what) for name, what in data["tensors"].items()}
    claimed, most = sum(entry.claimed_bytes for entry in entries.values()), _max_claimed_bytes(size)
    if claimed > most:
        raise MalformedStreamError(f"claims to unpack to {claimed:,} bytes, more than {most:,} for its size")
    return entries, data["sha256"]


def _parse_entry(name: str, what: Any) -> _TensorEntry:
    codes = isinstance(what, list) and len(what) == 7 and what[2] == "codes"
    if not isinstance(what, list) or (len(what) != 5 and not codes):
        raise MalformedStreamError(f"says of {name:.80} only {what!r:.60}")
    dtype, shape, coder, length, crc32 = what[:5]
    if not isinstance(shape, list) or not all(_is_whole_number(n) for n in shape) or len(shape) > 16:
        raise MalformedStreamError(f"gives {name:.80} the shape {shape!r:.60}")
    if not isinstance(dtype, str) or dtype not in _TYPES:
        raise MalformedStreamError(f"gives {name:.80} the type {dtype!r:.40}")
    if not (codes or coder in ("raw", "tensor")) or not _is_whole_number(length) or not _is_whole_number(crc32):
        raise MalformedStreamError(f"codes {name:.80} as {coder!r:.40} in {length!r:.20} bytes with the checksum {crc32!r:.20}")
    entry = _TensorEntry(_TYPES[dtype], tuple(shape), coder, length, crc32)
    if not codes:
        return entry
    bits, columns = what[5:]
    if not _is_whole_number(columns) or not _is_whole_number(bits) or bits not in _WIDTHS:
        raise MalformedStreamError(f"gives {name:.80} {columns!r:.20} columns of {bits!r:.20} bits")
    if dtype != "uint8" or len(shape) != 2 or packed_columns(columns, bits) != shape[1]:
        raise MalformedStreamError(f"packs {columns} codes of {bits} bits into rows of {name:.80} of the shape {shape}")
    return replace(entry, bits=bits, columns=columns)


def _is_whole_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48
