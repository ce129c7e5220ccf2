"""No file that decides the result can change, go or come unnoticed, and `verify` notices those that only tell."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers

import trimodal
from trimodal import pipeline
from trimodal.core.stored_site import StoredSite
from trimodal.errors import IntegrityError
from trimodal.manifest import find_changed_side_files, read_manifest, write_checksums, write_manifest
from trimodal.networks.tiny import write_miniature, write_miniature_data


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP in 8 bits."""
    folder = tmp_path_factory.mktemp("manifest")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
        trimodal.compress(write_miniature("clip", folder / "clip"), "int8", None, folder / "out")
        write_miniature_data(folder / "data", 8, ["image", "text"])
    return folder / "out"


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "out")


def refused(folder: Path, words: str) -> None:
    """Both ours and, after the import, Transformers' own loader."""
    for door in (trimodal.load, transformers.AutoModel.from_pretrained, transformers.CLIPVisionModel.from_pretrained):
        with pytest.raises(IntegrityError, match=words):
            door(folder)


def test_a_whole_one_loads_and_tells_the_truth(copied: Path) -> None:
    assert trimodal.load(copied) and transformers.AutoModel.from_pretrained(copied)
    assert find_changed_side_files(copied) == [] and read_manifest(copied).format == 3


@pytest.mark.parametrize("place", [0, 10, 200, -100, -70, -20, -1])
def test_every_byte_of_the_manifest_counts(copied: Path, place: int) -> None:
    content = bytearray((copied / "trimodal.json").read_bytes())
    content[place] ^= 1
    (copied / "trimodal.json").write_bytes(content)
    with pytest.raises(IntegrityError):
        trimodal.load(copied)


@pytest.mark.parametrize("change", [
    lambda text: text + " ", lambda text: text + "\n", lambda text: " " + text, lambda text: text.replace('"format":3', '"format":2'),
    lambda text: text.replace('"text"', '"test"'), lambda text: text[: text.rindex(',"sha256"')] + "}",
    lambda text: json.dumps(json.loads(text)),
])  # fmt: skip
def test_an_edited_manifest(copied: Path, change: object) -> None:
    file = copied / "trimodal.json"
    file.write_text(change(file.read_text()))  # type: ignore[operator]
    refused(copied, r"trimodal.json has changed since it was written")


@pytest.mark.parametrize("name", [
    "model.safetensors", "model.safetensors.index.json", "model.trimodal", "adapter_config.json", "adapter_model.safetensors",
    "chat_template.jinja", "additional_chat_templates/tools.jinja", "special_tokens_map.json", "generation_config.json",
    "modules.json", "2_Dense/config.json", "video_preprocessor_config.json", "vocab.txt", "pytorch_model.bin", "code.py",
    "consolidated.00.pth",
])  # fmt: skip
def test_no_other_files_may_lie_beside(copied: Path, name: str) -> None:
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).write_text("{}")
    words = "does not list model.trimodal" if name == "model.trimodal" else "was not there when the artifact was written"
    with pytest.raises(IntegrityError, match=words):
        trimodal.load(copied)


def test_a_link_to_a_folder_may_not_lie_beside(copied: Path, tmp_path: Path) -> None:
    (copied / "2_Dense").symlink_to(tmp_path)
    with pytest.raises(IntegrityError, match="2_Dense was not there"):
        trimodal.load(copied)


@pytest.mark.parametrize("name", ["README.md", "LICENSE", ".gitattributes", "onnx/model.onnx", "picture.png"])
def test_what_no_loader_reads_may(copied: Path, name: str) -> None:
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).write_text("x")
    assert trimodal.load(copied)


def test_two_files_may_not_change_places(copied: Path) -> None:
    one, other = copied / "tokenizer_config.json", copied / "preprocessor_config.json"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    refused(copied, "has changed since it was written")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "trimodal.safetensors", "preprocessor_config.json"])
def test_stock_loaders_check_after_the_import_too(copied: Path, name: str) -> None:
    with (copied / name).open("ab") as file:
        file.write(b" ")
    refused(copied, f"{name} has changed")


@pytest.mark.parametrize("name", ["plan.json", "record.jsonl", "verdict.json", "report.html", "checks.sha256"])
def test_verify_notices_what_only_tells(copied: Path, whole: Path, name: str) -> None:
    text = (copied / name).read_text()
    (copied / name).write_text(text.replace("0", "1", 1))
    assert trimodal.load(copied)
    assert find_changed_side_files(copied)
    (copied / name).unlink()
    assert find_changed_side_files(copied) == [f"{name} is missing"]


def test_verify_says_so_and_writes_new_sums(copied: Path, whole: Path) -> None:
    source, data, name = whole.parent / "clip", whole.parent / "data", "plan, record and report as they were written"
    assert {c.name: c.status for c in trimodal.verify(copied, source, data).checks}[name] == "passed"
    assert find_changed_side_files(copied) == []
    with (copied / "record.jsonl").open("a") as file:
        file.write("{}\n")
    (check,) = (c for c in trimodal.verify(copied, source, data).checks if c.name == name)
    assert check.failed and check.detail == "record.jsonl has changed"


def test_sums_are_such_as_sha256sum_reads(copied: Path) -> None:
    lines = (copied / "checks.sha256").read_text().splitlines()
    assert {line[66:] for line in lines} == {path.name for path in copied.iterdir()} - {"checks.sha256"}
    assert all(len(line.split("  ")[0]) == 64 for line in lines)
    before = (copied / "checks.sha256").read_bytes()
    write_checksums(copied)
    assert (copied / "checks.sha256").read_bytes() == before


def test_a_person_can_read_it(tmp_path: Path) -> None:
    """A line for each key, and for each item of a list."""
    sites = [StoredSite(name, (2, 3), "float32", "dense", 24).to_json() for name in ("a", "b")]
    write_manifest(tmp_path, {"factory": None, "files": {}, "towers": [], "stored": sites})
    lines = (tmp_path / "trimodal.json").read_text().splitlines()
    items = [json.dumps(site, separators=(",", ":")) for site in sites]
    assert lines[2:7] == ['"towers":[],', '"stored":[', items[0] + ",", items[1], "],"]
