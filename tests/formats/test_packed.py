"""Entropy-coded artifacts: the same bytes again, smaller on the way; and files that were damaged or made up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import trimodal
from trimodal import pipeline
from trimodal.core import Layout, Packing, Tower, Verdict
from trimodal.edits import DropBlocks, TreatWeight
from trimodal.edits.steps import STEPS, write_steps
from trimodal.errors import InputError, IntegrityError, ModelError, OutputError
from trimodal.formats import open_model, packed
from trimodal.formats.packed import HEADER, pack_file, unpack_file
from trimodal.formats.reload_check import collect_outputs, digest_decoded_weights
from trimodal.models.files import PACKED
from trimodal.networks.tiny import make_miniature, make_miniature_batch, write_miniature, write_miniature_data
from trimodal.writing.sums import sha256

MODEL = "trimodal.safetensors"
RECIPES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "resnet": ("image", [
        {"prune.magnitude": {"where": "image.0.*", "sparsity": 0.9}},
        {"quantize.rtn": {"where": "image.1.*", "bits": 16}},
        {"quantize.entropy": {"where": "*", "bits": 2.5}},
    ]),
    "bert": ("text", [
        {"prune.magnitude": {"where": "text.*", "sparsity": 0.9}},
        {"quantize.rtn": {"where": ["*embedding", "text.0.*"], "bits": 3, "grid": "kmeans", "group": "tensor"}},
        {"quantize.gptq": {"where": "text.1.*", "bits": 5, "group": 16}},
    ]),
    "llama": ("text", [
        {"factorize.eigen": {"where": "text.0.up", "rank": 4}},
        {"quantize.gptq": {"where": "text.0.*", "bits": 3, "group": 16, "outliers": 0.02}},
        {"quantize.rtn": {"where": "*", "bits": 4, "grid": "nf", "group": 16}},
    ]),
    "fusion": ("image audio text", [
        {"prune.heads": {"where": "*", "sparsity": 0.5}},
        {"quantize.rtn": {"where": "*embedding*", "bits": 5, "grid": "asymmetric"}},
        {"quantize.rtn": {"where": "image.*", "bits": 2, "grid": "kmeans"}},
        {"quantize.entropy": {"where": "text.*", "bits": 3}},
        {"quantize.rtn": {"where": "*", "bits": 6, "clip": "max"}},
    ]),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The artifact of a miniature after its recipe, made once."""
    made: dict[str, Path] = {}

    def artifact(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            modalities, steps = RECIPES[name]
            data = write_miniature_data(folder / "data", 12, modalities.split())
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
                pipeline.compress(write_miniature(name, folder / name), {"steps": steps}, data, folder / "out")
            made[name] = folder / "out"
        return made[name]

    return artifact


@pytest.fixture(scope="module")
def coded(plain: Callable[[str], Path]) -> Path:
    """An entropy-coded ResNet."""
    out = plain("resnet").with_name("coded")
    pipeline.pack(plain("resnet"), out)
    return out


@pytest.fixture
def copied(coded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(coded, tmp_path / "out")


def header_of(file: Path) -> dict[str, Any]:
    with safe_open(file, framework="pt") as opened:
        found: dict[str, Any] = json.loads(opened.metadata()[HEADER])
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_there_and_back_to_the_same_bytes(name: str, plain: Callable[[str], Path], tmp_path: Path) -> None:
    folder = plain(name)
    packing = pipeline.pack(folder, tmp_path / "coded", "entropy")
    assert isinstance(packing, Packing)
    assert packing.plain_bytes == (folder / MODEL).stat().st_size
    assert packing.entropy_bytes == (tmp_path / "coded" / PACKED).stat().st_size
    assert {p.name for p in (tmp_path / "coded").iterdir()} == {p.name for p in folder.iterdir()} - {MODEL} | {PACKED}
    coders = {what[2] for what in header_of(tmp_path / "coded" / PACKED)["tensors"].values()}
    assert {"codes", "tensor"} <= coders

    whole, again = open_model(folder), open_model(tmp_path / "coded")
    assert digest_decoded_weights(whole) == digest_decoded_weights(again) and whole.layout == again.layout
    assert again.folder == tmp_path / "coded" and again.name == "coded" and again.steps == whole.steps

    assert pipeline.pack(tmp_path / "coded", tmp_path / "plain", "plain") is None
    for file in (MODEL, "trimodal.json", "config.json", "plan.json", "record.jsonl"):
        assert sha256(folder / file) == sha256(tmp_path / "plain" / file), file
    before, after = (json.loads((f / "verdict.json").read_text()) for f in (folder, tmp_path / "plain"))
    assert before == after
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_compress_can_pack_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    source, recipe = write_miniature("resnet", tmp_path / "model"), {"steps": RECIPES["resnet"][1][2:]}
    data = write_miniature_data(tmp_path / "data", 12, ["image"])
    one = trimodal.compress(source, recipe, data, tmp_path / "plain")
    other = trimodal.compress(source, recipe, data, tmp_path / "coded", pack="entropy")
    assert one.verdict.packing is None and one.plan == other.plan
    found = other.verdict.packing
    assert found is not None and found.decode_seconds > 0
    assert found.plain_bytes == one.verdict.size.weights_after_bytes
    assert found.entropy_bytes == other.verdict.size.weights_after_bytes < 0.9 * found.plain_bytes
    assert header_of(tmp_path / "coded" / PACKED)["sha256"] == sha256(tmp_path / "plain" / MODEL)
    page, words = (tmp_path / "coded" / "report.html").read_text(), "entropy-coded ("
    assert words in page and words not in (tmp_path / "plain" / "report.html").read_text()
    assert Verdict.from_json(json.loads((tmp_path / "coded" / "verdict.json").read_text())) == other.verdict
    again = trimodal.verify(tmp_path / "coded", source, data)
    assert again.passed and again.size == other.verdict.size and again.packing is not None
    trimodal.compress(tmp_path / "coded", {"steps": [{"quantize.rtn": {"where": "*head*", "bits": 8}}]}, None, tmp_path / "more")
    assert (tmp_path / "more" / MODEL).is_file() and "pack" not in (tmp_path / "more" / "config.json").read_text()


def test_model_from_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bare() -> torch.nn.Module:
        return make_miniature("generic")

    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    pipeline.compress(bare, "int8", None, tmp_path / "plain")
    pipeline.compress(bare, "int8", None, tmp_path / "coded", pack="entropy")
    one, other = (open_model(tmp_path / name, bare) for name in ("plain", "coded"))
    assert digest_decoded_weights(one) == digest_decoded_weights(other)
    batch = make_miniature_batch("generic", 2)
    first, second = (collect_outputs(model.module, batch) for model in (one, other))
    assert first and all(torch.equal(first[key], second[key]) for key in first)


def test_stock_transformers_says_what_to_do(coded: Path) -> None:
    with pytest.raises(ModelError, match=r"use trimodal.load\(FOLDER\), or write plain ones with: trimodal pack"):
        transformers.AutoModel.from_pretrained(coded)


def test_what_cannot_be_packed(coded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="pack is 'zip', but must be one of plain, entropy"):
        pipeline.pack(coded, tmp_path / "new", "zip")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is no artifact"):
        pipeline.pack(tmp_path, tmp_path / "new")
    with pytest.raises(OutputError, match="is or holds the artifact"):
        pipeline.pack(coded, coded, force=True)

    def lacking() -> None:
        raise InputError("install constriction")

    monkeypatch.setattr(packed, "require_constriction", lacking)
    with pytest.raises(InputError, match="install constriction"):  # before anything is computed
        pipeline.compress("there is no such model", "int8", None, tmp_path / "new", pack="entropy")


def test_packing_twice_changes_nothing(coded: Path, tmp_path: Path) -> None:
    pipeline.pack(coded, tmp_path / "again", "entropy")
    assert sha256(coded / PACKED) == sha256(tmp_path / "again" / PACKED)


def test_no_room_to_unpack(coded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*rest: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed, "write_tensors", full)
    with pytest.raises(OutputError, match="set TMPDIR to a place with more room"):
        trimodal.load(coded)


# Files from elsewhere


@pytest.mark.parametrize("place", [0, 9, 5_000, -1])
def test_one_flipped_byte(copied: Path, tmp_path: Path, place: int) -> None:
    content = bytearray((copied / PACKED).read_bytes())
    content[place] ^= 1
    (copied / PACKED).write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model.trimodal has changed since it was written"):
        trimodal.load(copied)
    with pytest.raises(IntegrityError, match=r"model.trimodal"):
        unpack_file(copied / PACKED, tmp_path / "plain")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file(copied: Path, tmp_path: Path, share: float) -> None:
    content = (copied / PACKED).read_bytes()
    (copied / PACKED).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(IntegrityError, match="is damaged or cut short"):
        unpack_file(copied / PACKED, tmp_path / "plain")


def made_up(folder: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> Path:
    """The packed file of `folder` with another header and other streams."""
    file = folder / PACKED
    header, streams = header_of(file), load_file(file)
    change(header, streams)
    save_file(streams, file, {HEADER: json.dumps(header)})
    return file


def entry(header: dict[str, Any], coder: str = "") -> list[Any]:
    """An entry with that coder, or any."""
    found: list[Any] = next(what for what in header["tensors"].values() if coder in what[2])
    return found


def shifted(streams: dict[str, torch.Tensor]) -> None:
    streams["streams"] = streams["streams"].roll(5)


Made = Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]
HOSTILE: dict[str, tuple[Made, str]] = {
    "later format": (lambda h, s: h.update(format=2), "has the format 2, this version reads 1"),
    "no header": (lambda h, s: h.clear(), "a header without"),
    "no sum": (lambda h, s: h.update(sha256=5), "does not say what it unpacks to"),
    "another sum": (lambda h, s: h.update(sha256="0"), "does not unpack to the file"),
    "too few": (lambda h, s: h["tensors"].popitem(), "does not hold the streams that it lists"),
    "too many": (lambda h, s: s.update(extra=torch.zeros(1, dtype=torch.uint8)), "holds other things than streams"),
    "no bytes": (lambda h, s: s.update(streams=torch.zeros(2)), "holds other things than streams of bytes"),
    "a matrix": (lambda h, s: s.update(streams=s["streams"][:8].view(2, 4)), "does not hold the streams"),
    "bomb": (lambda h, s: entry(h).__setitem__(1, [1 << 40]), "claims to unpack to"),
    "overflow": (lambda h, s: entry(h).__setitem__(1, [1 << 40] * 9), "claims to unpack to"),
    "empty but long": (lambda h, s: entry(h, "tensor").__setitem__(1, [1 << 40, 0]), "the stream of"),
    "negative": (lambda h, s: entry(h).__setitem__(1, [-1]), "the shape"),
    "text": (lambda h, s: entry(h).__setitem__(1, "x"), "the shape"),
    "type": (lambda h, s: entry(h).__setitem__(0, "object"), "the type 'object'"),
    "coder": (lambda h, s: entry(h).__setitem__(2, "pickle"), "as 'pickle'|says of"),
    "length": (lambda h, s: entry(h).__setitem__(3, -1), "in -1 bytes"),
    "more": (lambda h, s: entry(h, "raw").append(1), "says of"),
    "no entry": (lambda h, s: h["tensors"].update({next(iter(h["tensors"])): 5}), "says of"),
    "checksum": (lambda h, s: entry(h).__setitem__(4, 7), "another checksum"),
    "bits": (lambda h, s: entry(h, "codes").__setitem__(5, 9), "columns of 9 bits"),
    "columns": (lambda h, s: entry(h, "codes").__setitem__(6, 1 << 30), "packs 1073741824 codes"),
    "codes bomb": (lambda h, s: entry(h, "codes").__setitem__(slice(0, 2), ["uint8", [1 << 36, 1]]), "packs|claims"),
    "other streams": (lambda h, s: shifted(s), "is damaged"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_made_up_files(copied: Path, tmp_path: Path, what: str) -> None:
    change, reason = HOSTILE[what]
    with pytest.raises(IntegrityError, match=reason):
        unpack_file(made_up(copied, change), tmp_path / "plain")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_header_that_is_none(copied: Path, tmp_path: Path, text: str) -> None:
    save_file(load_file(copied / PACKED), copied / PACKED, {HEADER: text})
    with pytest.raises(IntegrityError, match=r"no readable header|a header without"):
        unpack_file(copied / PACKED, tmp_path / "plain")


def test_codes_above_their_bits_are_refused(tmp_path: Path) -> None:
    """A stream of 4-bit codes that claims to hold 3-bit ones would spill over into its neighbours."""
    from trimodal.maths.entropy_coding import encode_tensor

    stream = encode_tensor(torch.randint(0, 16, (64, 64), dtype=torch.uint8))
    header = {"format": 1, "sha256": "", "tensors": {"a": ["uint8", [64, 24], "codes", len(stream), 0, 3, 64]}}
    save_file({"streams": torch.frombuffer(bytearray(stream), dtype=torch.uint8)}, tmp_path / "f", {HEADER: json.dumps(header)})
    with pytest.raises(IntegrityError, match="holds codes above 3 bits"):
        unpack_file(tmp_path / "f", tmp_path / "plain")


def test_every_type_of_tensor_and_steps_that_lie(tmp_path: Path) -> None:
    """Steps that tell of codes where there are none only cost size."""
    torch.manual_seed(0)
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
             torch.uint8, torch.bool, torch.float8_e4m3fn)  # fmt: skip
    tensors = {str(kind): (torch.randn(30, 40) * 3).to(kind) for kind in kinds}
    tensors |= {"empty": torch.zeros(0, 3), "one": torch.tensor(2.5), "a.stored.codes": torch.randn(8, 8)}
    tensors["b.stored.codes"] = torch.randint(0, 255, (16, 3), dtype=torch.uint8)
    options = {"shape": [16, 5], "dtype": "float32", "bits": 3, "group": 5, "exponent": 0, "zero": None, "shared": False}
    steps = [{"treat": {"path": path, "kind": "quantized", "options": options, "tied": [], "bias": None}} for path in "ab"]
    save_file(tensors, tmp_path / "plain", {"format": "pt", STEPS: json.dumps(steps)})
    packed.write_tensors(load_file(tmp_path / "plain"), {"format": "pt", STEPS: json.dumps(steps)}, tmp_path / "plain")
    pack_file(tmp_path / "plain", tmp_path / "coded")
    unpack_file(tmp_path / "coded", tmp_path / "again")
    assert sha256(tmp_path / "plain") == sha256(tmp_path / "again")


def test_codes_are_known_where_their_block_has_moved_to(tmp_path: Path) -> None:
    """Quantized as block 1, and block 0 then dropped: what was recorded of block 1 is true of block 0."""
    codes = torch.zeros(64, 12, dtype=torch.uint8)
    codes[:, ::4] = torch.randint(0, 2, (64, 3), dtype=torch.uint8)
    tower = Tower("image", "image", ("blocks.0",), whole_blocks="")
    options = {"shape": [64, 32], "dtype": "float32", "bits": 3, "group": 32, "exponent": 0, "zero": None, "shared": False}
    steps = write_steps([TreatWeight("blocks.1", "quantized", options, (), None), DropBlocks("image", (1,))])
    packed.write_tensors({"blocks.0.stored.codes": codes}, {"format": "pt", STEPS: steps}, tmp_path / "plain")
    pack_file(tmp_path / "plain", tmp_path / "coded", Layout((tower,), ()))
    (entry,) = header_of(tmp_path / "coded")["tensors"].values()
    assert entry[2] == "codes" and entry[5:] == [3, 32]
    unpack_file(tmp_path / "coded", tmp_path / "again")
    assert sha256(tmp_path / "plain") == sha256(tmp_path / "again")


@pytest.mark.parametrize("zeros", [[20_000_000], [3_000, 20_000], [5_000_000, 4, 3]])
def test_mostly_zeros(tmp_path: Path, zeros: list[int]) -> None:
    """What is written can be read, also where next to nothing stands for many bytes."""
    tensors = {"weight": torch.randn(16, 16), "buffer": torch.zeros(zeros), "other": torch.zeros(1_000_000)}
    packed.write_tensors(tensors, {"format": "pt", STEPS: "[]"}, tmp_path / "plain")
    found = pack_file(tmp_path / "plain", tmp_path / "coded")
    unpack_file(tmp_path / "coded", tmp_path / "again")
    assert sha256(tmp_path / "plain") == sha256(tmp_path / "again") and found.entropy_bytes <= 1.01 * found.plain_bytes
