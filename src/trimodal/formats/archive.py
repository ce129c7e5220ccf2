"""An archive: an artifact as one file that is read once from front to back, block by block, and gives the same folder again.

The file is a row of chunks (`formats/chunks.py`):

    HEAD   JSON: {"format": 1, "trimodal": version, "files": {name: bytes, ...}}
    FILE   JSON: {"name", "bytes", "sha256"}: the next file of the list begins
    DATA   a block of it: 2 bytes with the length of the entry, the entry as JSON, a stream
    ENDS   SHA-256 of everything before

The entry of a block of a weight file is that of `formats/tensor_streams.py`: entropy-coded numbers or codes, or raw bytes. That of any
other file is ["zlib", bytes]. A block is at most 4 MiB of a file, so that many are all that is ever held, however large the model is.

The file may come from anybody. Names that lead out of the folder are refused, and what a block claims is checked before it is decoded:
at most 16 MiB, and all blocks together 256 times what was read so far and 16 MiB. Where a model would need more (much of it is zeros),
blocks are written raw.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch

from trimodal import errors
from trimodal.formats.chunks import SIGNATURE, ChunkReader, ChunkWriter
from trimodal.formats.folder_files import list_running_files
from trimodal.formats.packed import weights_scratch_folder
from trimodal.formats.tensor_blocks import Block, split_bytes, split_tensor_file
from trimodal.formats.tensor_streams import (
    decode_stream,
    encode_raw,
    encode_shortest,
    find_packed_codes,
    is_whole_number,
    max_claimed_bytes,
    parse_entry,
    tensor_bytes,
)
from trimodal.manifest import TELLERS, read_manifest
from trimodal.maths.symbol_table import MalformedStreamError, require_constriction
from trimodal.models.files import find_licence_files
from trimodal.writing.sums import sha256

SUFFIX = ".tri"
FORMAT = 1
_HEAD, _FILE, _DATA = b"HEAD", b"FILE", b"DATA"
_LARGEST_BLOCK = 1 << 24
_LARGEST_JSON = 1 << 20
_MOST_FILES = 10_000
_PART = re.compile(r"[^./\\:\x00-\x1f\x7f][^/\\:\x00-\x1f\x7f]{0,199}")
_ZLIB = "zlib"


def is_archive(path: str | Path) -> bool:
    """Whether `path` is a file that is an archive by its first bytes or by its name."""
    path = Path(path)
    try:
        if not path.is_file():
            return False
        with path.open("rb") as opened:
            return path.suffix == SUFFIX or opened.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def list_archived_files(folder: Path) -> list[Path]:
    """What an archive of the artifact in `folder` holds: all that runs it, all that tells of it, licences."""
    tellers = [Path(name) for name in TELLERS if (folder / name).is_file()]
    return sorted({*list_running_files(folder), *find_licence_files(folder), *tellers})


def write_archive(folder: Path, file: IO[bytes]) -> None:
    """Write the artifact in `folder` into `file`.

    Raises:
        InputError: the coding library is not installed.
    """
    require_constriction()
    manifest, paths = read_manifest(folder), list_archived_files(folder)
    writer, claimed = ChunkWriter(file), 0
    sizes = {path.as_posix(): (folder / path).stat().st_size for path in paths}
    writer.write_chunk(_HEAD, _to_json({"format": FORMAT, "trimodal": manifest.trimodal, "files": sizes}))
    for name, size in sizes.items():
        place = folder / name
        writer.write_chunk(_FILE, _to_json({"name": name, "bytes": size, "sha256": sha256(place)}))
        packed = find_packed_codes(place, manifest.layout) if place.suffix == ".safetensors" else {}
        blocks = split_tensor_file(place, packed) if place.suffix == ".safetensors" else None
        with place.open("rb") as opened:
            for block in split_bytes(size) if blocks is None else blocks:
                data = opened.read(block.stop - block.start)
                stream, entry = _encode_block(data, block)
                if claimed + _count_claimed(name, entry) > max_claimed_bytes(writer.position + len(stream)):
                    stream, entry = encode_raw(torch.frombuffer(bytearray(data), dtype=torch.uint8))
                claimed += _count_claimed(name, entry)
                said = _to_json(entry)
                writer.write_chunk(_DATA, len(said).to_bytes(2, "little") + said + stream)
    writer.finish()


def read_archive(stream: IO[bytes], name: str, folder: Path | None) -> None:
    """Write what the archive `stream`, called `name` in messages, holds into the empty `folder`; with None it is only checked.

    Raises:
        IntegrityError: it is no archive, or not as it was written.
    """
    reader = ChunkReader(stream, name)
    chunks = reader.read_chunks()
    kind, content = next(chunks, (b"", b""))
    if kind != _HEAD:
        raise reader.fail("does not begin with a list of its files")
    unpacking = _Unpacking(reader, _parse_head(reader, content), folder)
    try:
        for kind, content in chunks:
            if kind == _FILE:
                unpacking.begin_file(content)
            elif kind == _DATA:
                unpacking.add_block(content)
            else:
                raise reader.fail(f"has a chunk of the unknown kind {kind!r}")
        unpacking.finish()
    finally:
        unpacking.close()


@contextmanager
def open_archive(file: Path) -> Iterator[Path]:
    """A temporary folder with what the archive in `file` holds.

    Raises:
        IntegrityError: it is not as it was written.
        OutputError: there is no room for the folder.
    """
    with weights_scratch_folder() as folder:
        with file.open("rb") as stream:
            read_archive(stream, str(file), folder)
        yield folder


class _Unpacking:
    """The files of an archive, one after the other: which is being written, and how much was claimed so far."""

    def __init__(self, reader: ChunkReader, listed: Mapping[str, int], folder: Path | None) -> None:
        self._reader, self._waiting, self._folder = reader, list(listed.items()), folder
        self._name, self._left, self._expected, self._claimed = "", 0, "", 0
        self._sum = hashlib.sha256()
        self._file: IO[bytes] | None = None

    def begin_file(self, content: bytes) -> None:
        """Begin the next file of the list."""
        self._finish_file()
        said = _parse_json(self._reader, content)
        listed = self._waiting.pop(0) if self._waiting else None
        right = isinstance(said, dict) and said.keys() == {"name", "bytes", "sha256"}
        if not right or (said["name"], said["bytes"]) != listed or not isinstance(said["sha256"], str):
            raise self._reader.fail(f"begins {said!r:.80} where it lists {listed!r:.80}")
        self._name, self._left, self._expected, self._sum = said["name"], said["bytes"], said["sha256"], hashlib.sha256()
        if self._folder is not None:
            place = self._folder / self._name
            place.parent.mkdir(parents=True, exist_ok=True)
            self._file = place.open("xb")

    def add_block(self, content: bytes) -> None:
        """Decode a block and write it behind what the file has."""
        length = 2 + int.from_bytes(content[:2], "little")
        entry, stream = _parse_json(self._reader, content[2:length]), content[length:]
        try:
            claimed = _count_claimed(self._name, entry)
            self._claimed += claimed
            most = max_claimed_bytes(self._reader.position)
            if claimed > _LARGEST_BLOCK or self._claimed > most:
                raise self._reader.fail(f"claims to unpack to {self._claimed:,} bytes, more than {most:,} for its size")
            data = _decode_block(self._name, stream, entry)
        except MalformedStreamError as reason:
            raise self._reader.fail(str(reason)) from reason
        self._left -= len(data)
        if self._left < 0:
            raise self._reader.fail(f"holds more of {self._name:.80} than it says")
        self._sum.update(data)
        if self._file is not None:
            self._file.write(data)

    def finish(self) -> None:
        """Check the last file, and that none is missing."""
        self._finish_file()
        if self._waiting:
            raise self._reader.fail(f"lacks {self._waiting[0][0]:.80}, which it lists")

    def close(self) -> None:
        """Close the file that is being written."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _finish_file(self) -> None:
        self.close()
        if self._left or (self._name and self._sum.hexdigest() != self._expected):
            raise self._reader.fail(f"does not hold {self._name:.80} as it was written")


def _encode_block(data: bytes, block: Block) -> tuple[bytes, list[Any]]:
    """The shortest stream of a block, and its entry."""
    plain = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if block.dtype is torch.uint8 and len(block.shape) == 1:
        stream = zlib.compress(data, 9)
        return (stream, [_ZLIB, len(data)]) if len(stream) < len(data) else encode_raw(plain)
    return encode_shortest(plain.view(block.dtype).view(block.shape), block.codes)


def _decode_block(name: str, stream: bytes, entry: Any) -> bytes:
    """The bytes of a block whose entry was checked."""
    if entry[0] != _ZLIB:
        parsed = parse_entry(name, entry)
        if parsed.length != len(stream):
            raise MalformedStreamError(f"has a stream of {len(stream)} bytes where {parsed.length} are said, in {name:.80}")
        return tensor_bytes(decode_stream(name, stream, parsed))
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(stream, entry[1] + 1)
    except zlib.error as error:
        raise MalformedStreamError(f"has a block of {name:.80} that zlib cannot read ({error})") from error
    if len(data) != entry[1] or not unpacker.eof or unpacker.unused_data:
        raise MalformedStreamError(f"has a block of {name:.80} that is not the {entry[1]} bytes it says")
    return data


def _count_claimed(name: str, entry: Any) -> int:
    """The bytes that a block claims to take when it is read."""
    if isinstance(entry, list) and len(entry) == 2 and entry[0] == _ZLIB and is_whole_number(entry[1]):
        return int(entry[1])
    return parse_entry(name, entry).claimed_bytes


def _parse_head(reader: ChunkReader, content: bytes) -> dict[str, int]:
    """The files and their sizes, all with names that stay in the folder."""
    said = _parse_json(reader, content)
    if not isinstance(said, dict) or said.keys() != {"format", "trimodal", "files"} or not isinstance(said["files"], dict):
        raise reader.fail("does not say what it holds")
    if said["format"] != FORMAT:
        raise errors.IntegrityError(f"{reader.name} has the format {said['format']!r:.20}, this version reads {FORMAT}; update trimodal")
    files = said["files"]
    if len(files) > _MOST_FILES or len({name.casefold() for name in files}) != len(files):
        raise reader.fail("lists too many files, or two of one name")
    parents = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    for name, size in files.items():
        if not all(_PART.fullmatch(part) for part in name.split("/")) or len(name) > 500 or name in parents:
            raise reader.fail(f"lists {name!r:.80}, which is no name of a file in a folder; do not use it")
        if not is_whole_number(size):
            raise reader.fail(f"gives {name:.80} {size!r:.20} bytes")
    return files


def _parse_json(reader: ChunkReader, content: bytes) -> Any:
    try:
        if len(content) > _LARGEST_JSON:
            raise ValueError(f"{len(content)} bytes of JSON")
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise reader.fail("has a chunk that cannot be read") from error


def _to_json(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
