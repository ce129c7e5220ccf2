"""Entropy-coded weights: `model.trimodal` in the place of `model.safetensors`, and back to the very same bytes.

The file is itself a safetensors file. Its one tensor, `streams`, holds end to end the streams of bytes that
`maths/entropy_coding.py` made of all tensors. Its metadata are those of the plain file, among them the steps, and one more:

    trimodal.packed    JSON: {"format": 1, "sha256": of the plain file, "tensors": ...}, with per name the entry of
                       `formats/tensor_streams.py`, which says how its stream is read

The file may come from anybody. What it says is checked before any memory is taken: it can claim 256 times its own bytes
and 16 megabytes, no more. Where a model would need more (much of it is zeros), some tensors are written raw. A stream is
believed when the tensor has the checksum that was written with it, the whole when it has the plain file's sha256.
"""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError, safe_open

from trimodal.core import Layout, Packing
from trimodal.core.record import PackName
from trimodal.errors import InputError, IntegrityError
from trimodal.formats.tensor_streams import (
    MOST_TIMES,
    TensorEntry,
    decode_stream,
    encode_raw,
    encode_shortest,
    find_packed_codes,
    max_claimed_bytes,
    parse_entry,
)
from trimodal.formats.tensors import write_tensors
from trimodal.maths.symbol_table import MalformedStreamError, require_constriction
from trimodal.writing import open_scratch_folder
from trimodal.writing.sums import sha256

HEADER, STREAMS = "trimodal.packed", "streams"
FORMAT = 1


def check_pack_name(how: str) -> None:
    """Refuse a way to pack that there is not, or that nothing is installed for.

    Raises:
        InputError: it says which there are, or what to install.
    """
    if how not in get_args(PackName):
        raise InputError(f"pack is {how!r:.40}, but must be one of {', '.join(get_args(PackName))}")
    if how == "entropy":
        require_constriction()


def pack_file(plain: Path, packed: Path, layout: Layout | None = None) -> Packing:
    """Write the entropy-coded `packed` beside the `plain` file, read it back, and say what it saves. `layout` is that of the
    model; without it, codes in blocks that have moved since they were packed are not known as codes, which costs size.

    Raises:
        IntegrityError: reading it back does not give the plain file.
        InputError: the coding library is not installed.
    """
    require_constriction()
    places = find_packed_codes(plain, layout)
    with safe_open(plain, framework="pt") as opened:
        metadata = opened.metadata() or {}
        coded = {name: encode_shortest(opened.get_tensor(name), places.get(name)) for name in sorted(opened.keys())}
        for name in _choose_raw_tensors({name: parse_entry(name, entry) for name, (_, entry) in coded.items()}):
            coded[name] = encode_raw(opened.get_tensor(name))
    entries = {name: entry for name, (_, entry) in coded.items()}
    streams = bytearray(b"".join(stream for stream, _ in coded.values()))
    header = {"format": FORMAT, "sha256": sha256(plain), "tensors": entries}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    whole = torch.frombuffer(streams, dtype=torch.uint8) if streams else torch.empty(0, dtype=torch.uint8)
    write_tensors({STREAMS: whole}, {**metadata, HEADER: text}, packed)
    return measure_packing(packed)


def _choose_raw_tensors(entries: dict[str, TensorEntry]) -> list[str]:
    """The tensors to write raw, so that the file claims no more than a reader believes of its size: those first that claim
    most for what they take."""
    left = sum(entry.claimed_bytes for entry in entries.values()) - max_claimed_bytes(sum(entry.length for entry in entries.values()))
    found = []
    for name, entry in sorted(entries.items(), key=lambda item: MOST_TIMES * item[1].length - item[1].claimed_bytes):
        if left <= 0:
            break
        found.append(name)
        left -= entry.claimed_bytes - entry.bytes + MOST_TIMES * (entry.bytes - entry.length)
    return found


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
                tensors[name], start = decode_stream(name, stream, entry), start + entry.length
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


def _parse_header(text: str, size: int) -> tuple[dict[str, TensorEntry], str]:
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
    entries = {name: parse_entry(name, what) for name, what in data["tensors"].items()}
    claimed, most = sum(entry.claimed_bytes for entry in entries.values()), max_claimed_bytes(size)
    if claimed > most:
        raise MalformedStreamError(f"claims to unpack to {claimed:,} bytes, more than {most:,} for its size")
    return entries, data["sha256"]
