"""Archives: the same bytes again, read once from front to back; and files that were damaged or made up."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from safetensors.torch import save_file

import trimodal
from trimodal import pipeline
from trimodal.errors import InputError, IntegrityError, ModelError
from trimodal.formats import archive, tensor_blocks
from trimodal.formats.archive import is_archive, list_archived_files, read_archive, write_archive
from trimodal.formats.chunks import END, SIGNATURE, ChunkReader, ChunkWriter
from trimodal.formats.reload_check import collect_outputs
from trimodal.networks.tiny import make_miniature_batch, write_miniature, write_miniature_data

RECIPES: dict[str, tuple[tuple[str, ...], list[dict[str, Any]]]] = {
    "resnet": (("image",), [
        {"prune.magnitude": {"where": "image.0.*", "sparsity": 0.9}},
        {"quantize.rtn": {"where": "image.1.*", "bits": 16}},
        {"quantize.entropy": {"where": "*", "bits": 2.5}},
    ]),
    "bert": (("text",), [
        {"prune.magnitude": {"where": "text.*", "sparsity": 0.9}},
        {"quantize.rtn": {"where": ["*embedding", "text.0.*"], "bits": 3, "grid": "kmeans", "group": "tensor"}},
        {"quantize.rtn": {"where": "text.1.*", "bits": 5, "group": 16}},
    ]),
}  # fmt: skip


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The artifact of a miniature after its recipe, made once."""
    made: dict[str, Path] = {}

    def artifact(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            modalities, steps = RECIPES[name]
            data = write_miniature_data(folder / "data", 12, modalities)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
                pipeline.compress(write_miniature(name, folder / name), {"steps": steps}, data, folder / "out")
            made[name] = folder / "out"
        return made[name]

    return artifact


@pytest.fixture(scope="module")
def whole(artifacts: Callable[[str], Path]) -> bytes:
    """The archive of a ResNet."""
    file = io.BytesIO()
    write_archive(artifacts("resnet"), file)
    return file.getvalue()


class Pipe:
    """Bytes that can be read once, a few at a time; `most` is the most that was asked for at once."""

    def __init__(self, data: bytes, step: int = 1000) -> None:
        self._data, self._at, self._step, self.most = data, 0, step, 0

    def read(self, size: int) -> bytes:
        self.most = max(self.most, size)
        part = self._data[self._at : self._at + min(size, self._step)]
        self._at += len(part)
        return part


def check_same_files(folder: Path, again: Path) -> None:
    names = {str(path) for path in list_archived_files(folder)}
    assert names == {path.relative_to(again).as_posix() for path in again.rglob("*") if path.is_file()}
    assert {"trimodal.json", "config.json", "plan.json", "record.jsonl", "verdict.json", "report.html", "checks.sha256"} <= names
    for name in names:
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name


def check(data: bytes) -> None:
    read_archive(io.BytesIO(data), "model.tri", None)


@pytest.mark.parametrize("name", RECIPES)
def test_there_and_back_to_the_same_bytes(name: str, artifacts: Callable[[str], Path], tmp_path: Path) -> None:
    folder, file = artifacts(name), tmp_path / "model.tri"
    found = trimodal.export(folder, "archive", file)
    assert (found.folder, found.format, found.result.components[0].files) == (tmp_path, "archive", ("model.tri",))
    assert is_archive(file) and file.stat().st_size < sum(p.stat().st_size for p in folder.iterdir() if p.is_file()) / 2
    check_same_files(folder, trimodal.unpack(file, tmp_path / "again"))
    pipeline.pack(folder, tmp_path / "packed", "entropy")
    trimodal.export(tmp_path / "packed", "archive", tmp_path / "packed.tri")
    check_same_files(tmp_path / "packed", trimodal.unpack(tmp_path / "packed.tri", tmp_path / "packed-again"))


def test_small_blocks_and_a_pipe(artifacts: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_blocks, "BLOCK_BYTES", 512)
    file = io.BytesIO()
    write_archive(artifacts("bert"), file)
    pipe = Pipe(file.getvalue())
    trimodal.unpack(pipe, tmp_path / "again")  # type: ignore[arg-type]
    check_same_files(artifacts("bert"), tmp_path / "again")
    assert pipe.most < 3 * 512 < len(file.getvalue()) / 40  # but for the list of files no chunk is larger than a block


def test_blocks_cover_the_file_and_know_their_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_blocks, "BLOCK_BYTES", 64)
    tensors = {
        "codes": torch.randint(0, 256, (3, 15), dtype=torch.uint8), "kept": torch.randint(0, 256, (1, 60), dtype=torch.uint8),
        "matrix": torch.randn(5, 7), "long": torch.randn(2, 40).half(), "none": torch.zeros(0, 4), "number": torch.tensor(3),
    }  # fmt: skip
    save_file(tensors, tmp_path / "m.safetensors")
    blocks = tensor_blocks.split_tensor_file(tmp_path / "m.safetensors", {"codes": (3, 40), "kept": (3, 160)})
    assert blocks is not None
    assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
    assert blocks[-1].stop == (tmp_path / "m.safetensors").stat().st_size
    assert all(block.stop - block.start <= 64 for block in blocks)
    assert [block.codes for block in blocks if block.codes] == [(3, 40)] * 3 + [(3, 64), (3, 64), (3, 32)]
    assert [block.shape for block in blocks if block.dtype is torch.float32] == [(2, 7), (2, 7), (1, 7)]
    assert [block.shape for block in blocks if block.dtype is torch.float16] == [(32,), (32,), (16,)]


def test_a_file_that_is_no_weights_is_kept_as_bytes(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    for content in (b"", b"no", (8).to_bytes(8, "little") + b"[1, 2, 3", (2).to_bytes(8, "little") + b"{}" + b"behind"):
        file.write_bytes(content)
        assert tensor_blocks.split_tensor_file(file, {}) is None


def test_where_much_is_zero_blocks_are_raw(artifacts: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "max_claimed_bytes", lambda size: size + 4096)
    file = io.BytesIO()
    write_archive(artifacts("bert"), file)
    trimodal.unpack(io.BytesIO(file.getvalue()), tmp_path / "again")
    check_same_files(artifacts("bert"), tmp_path / "again")


def test_load(artifacts: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "model"  # known by its first bytes
    trimodal.export(artifacts("bert"), "archive", file)
    batch = make_miniature_batch("bert", 2)
    for dequantize in (False, True):
        module = trimodal.load(file, dequantize=dequantize)
        wanted, found = (collect_outputs(m, batch) for m in (trimodal.load(artifacts("bert")), module))
        assert all(torch.equal(found[name], value) for name, value in wanted.items()) and found
        assert module.name_or_path == str(file)
    with pytest.raises(ModelError, match="is an archive; write its folder first: trimodal unpack"):
        trimodal.inspect(str(file))


def test_from_a_pipe_on_the_command_line(artifacts: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "model.tri"
    trimodal.export(artifacts("resnet"), "archive", file)
    for data, code in ((file.read_bytes(), 0), (file.read_bytes()[:-1], 1)):
        command = [sys.executable, "-m", "trimodal", "unpack", "-", "-o", str(tmp_path / str(code))]
        done = subprocess.run(command, input=data, capture_output=True, timeout=900, check=False)
        assert done.returncode == code, done.stderr
    assert b"standard input ends within a chunk's checksum" in done.stderr
    check_same_files(artifacts("resnet"), tmp_path / "0")
    assert not (tmp_path / "1").exists()


def test_a_place_that_is_taken(artifacts: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "model.tri"
    file.write_text("old")
    with pytest.raises(InputError, match="is there already; give --force"):
        trimodal.export(artifacts("resnet"), "archive", file)
    assert file.read_text() == "old"
    trimodal.export(artifacts("resnet"), "archive", file, force=True)
    check(file.read_bytes())
    assert {path.name for path in tmp_path.iterdir()} == {"model.tri"}


def test_what_is_no_artifact(tmp_path: Path, artifacts: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match="is no artifact"):
        trimodal.export(tmp_path, "archive", tmp_path / "m.tri")
    with pytest.raises(InputError, match="is a folder; an archive is one file"):
        trimodal.export(artifacts("bert"), "archive", tmp_path)
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(InputError, match="is no archive; expected a file"):
        trimodal.unpack(tmp_path / "text", tmp_path / "out")


# Damage


def test_every_flipped_byte_is_seen(whole: bytes) -> None:
    for at in range(0, len(whole), 97):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        with pytest.raises(IntegrityError, match=r"near byte [\d,]+\); copy or download it again"):
            check(bytes(data))


def test_every_cut_is_seen_and_nothing_is_kept(whole: bytes, tmp_path: Path) -> None:
    for at in range(0, len(whole), 97):
        with pytest.raises(IntegrityError, match=r"(ends within|does not begin)"):
            check(whole[:at])
    with pytest.raises(IntegrityError):
        trimodal.unpack(io.BytesIO(whole[: len(whole) // 2]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_put_behind_or_between_is_seen(whole: bytes) -> None:
    for more in (b"\0", whole):
        with pytest.raises(IntegrityError, match="goes on after its end"):
            check(whole + more)
    chunks = list(ChunkReader(io.BytesIO(whole), "").read_chunks())
    for n in (1, len(chunks) // 2, len(chunks) - 1):
        with pytest.raises(IntegrityError):
            check(write_chunks(chunks[:n] + chunks[n + 1 :]))
        with pytest.raises(IntegrityError):
            check(write_chunks([*chunks[:n], chunks[n - 1], *chunks[n:]]))


def write_chunks(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A file whose checksums are all right."""
    file = io.BytesIO()
    writer = ChunkWriter(file)
    for kind, content in chunks:
        writer.write_chunk(kind, content)
    writer.finish()
    return file.getvalue()


def make_chunks(files: dict[str, Any], *data: tuple[Any, bytes], **other: Any) -> list[tuple[bytes, bytes]]:
    head = json.dumps({"format": 1, "trimodal": "0", "files": files} | other).encode()
    name, size = next(iter(files.items()))
    begin = json.dumps({"name": name, "bytes": size, "sha256": "0" * 64}).encode()
    blocks = [(json.dumps(entry).encode(), stream) for entry, stream in data]
    return [(b"HEAD", head), (b"FILE", begin), *((b"DATA", len(said).to_bytes(2, "little") + said + stream) for said, stream in blocks)]


def zeros(count: int) -> tuple[Any, bytes]:
    return ["zlib", count], zlib.compress(bytes(count), 9)


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([], "does not begin with a list of its files"),
        ([(b"HEAD", b"[" * 100_000)], "cannot be read"),
        ([(b"HEAD", b"{}")], "does not say what it holds"),
        (make_chunks({"a": 1}, format=2), "has the format 2, this version reads 1; update trimodal"),
        (make_chunks({"../a": 1}), "no name of a file in a folder"),
        (make_chunks({"/etc/a": 1}), "no name of a file in a folder"),
        (make_chunks({"a\\..\\b": 1}), "no name of a file in a folder"),
        (make_chunks({".hidden": 1}), "no name of a file in a folder"),
        (make_chunks({"a": 1, "a/b": 1}), "no name of a file in a folder"),
        (make_chunks({"a": 1, "A": 1}), "two of one name"),
        (make_chunks({str(n): 1 for n in range(10_001)}), "lists too many files"),
        (make_chunks({"a": -1}), "gives a -1 bytes"),
        (make_chunks({"a": 1})[:1], "lacks a, which it lists"),
        (make_chunks({"a": 1}), "does not hold a as it was written"),
        (make_chunks({"a": 1}, zeros(1)), "does not hold a as it was written"),
        (make_chunks({"a": 1}, zeros(2)), "holds more of a than it says"),
        (make_chunks({"a": 1 << 40}, zeros(1 << 25)), "claims to unpack to 33,554,432 bytes"),
        (make_chunks({"a": 1 << 40}, *[zeros(1 << 23)] * 4), "claims to unpack to"),
        (make_chunks({"a": 9}, (["zlib", 3], zlib.compress(bytes(9)))), "is not the 3 bytes it says"),
        (make_chunks({"a": 9}, (["zlib", 9], b"nonsense")), "zlib cannot read"),
        (make_chunks({"a": 9}, (["zlib", 9], zlib.compress(bytes(9)) + b"x")), "is not the 9 bytes it says"),
        (make_chunks({"a": 9}, (["uint8", [1 << 40], "tensor", 2, 0], b"\1\0")), "claims to unpack to"),
        (make_chunks({"a": 9}, (["uint8", [9], "raw", 8, 0], bytes(8))), "holds 8 bytes for 9"),
        (make_chunks({"a": 9}, (["uint8", [9], "raw", 9, 0], bytes(9))), "has another checksum"),
        (make_chunks({"a": 9}, (["uint8", [9], "raw", 8, 0], bytes(9))), "a stream of 9 bytes where 8 are said"),
        (make_chunks({"a": 9}, (None, b"")), "says of a only None"),
        ([*make_chunks({"a": 1}), (b"EXEC", b"")], "unknown kind b'EXEC'"),
        ([*make_chunks({"a": 1})[:1], (b"DATA", b"\2\0[]")], "says of"),
    ],
)  # fmt: skip
def test_made_up_files(chunks: list[tuple[bytes, bytes]], said: str, tmp_path: Path) -> None:
    data = write_chunks(chunks)
    for folder in (None, tmp_path):
        with pytest.raises(IntegrityError, match=said):
            read_archive(io.BytesIO(data), "model.tri", folder)
    assert {path.name for path in tmp_path.iterdir()} <= {"a"}


def test_a_chunk_that_claims_more_than_a_chunk_may_hold() -> None:
    pipe = Pipe(SIGNATURE + b"DATA" + (0xFFFFFFFF).to_bytes(4, "little") + bytes(100))
    with pytest.raises(IntegrityError, match="impossible head"):
        list(ChunkReader(pipe, "model.tri").read_chunks())  # type: ignore[arg-type]
    assert pipe.most == len(SIGNATURE)


def test_the_form_by_hand() -> None:
    file: IO[bytes] = io.BytesIO()
    writer = ChunkWriter(file)
    writer.write_chunk(b"DATA", b"ab")
    writer.finish()
    data = file.getvalue()  # type: ignore[attr-defined]
    assert data[:13] == b"\x93TRIMODAL\r\n\x1a\n" and data[13:23] == b"DATA\2\0\0\0ab"
    assert data[23:27] == zlib.crc32(b"DATA\2\0\0\0ab").to_bytes(4, "little")
    assert data[27:31] == END and len(data) == 27 + 8 + 32 + 4

