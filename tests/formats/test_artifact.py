"""An artifact that was damaged, edited or made up: told apart from a whole one before anything is built from it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from trimodal import load, pipeline
from trimodal.edits.steps import STEPS
from trimodal.errors import IntegrityError, ModelError, OutputError
from trimodal.formats import open_model, write_artifact
from trimodal.formats.artifact import read_manifest
from trimodal.manifest import read_manifest_content, write_manifest
from trimodal.networks.tiny import make_miniature, write_miniature
from trimodal.writing.sums import sha256


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT in 8 bits."""
    folder = tmp_path_factory.mktemp("artifact")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
        pipeline.compress(write_miniature("bert", folder / "bert"), "int8", None, folder / "out")
    return folder / "out"


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "out")


def edit(folder: Path, rehash: bool = True, **values: Any) -> None:
    """Set keys of the manifest; with `rehash` all sums are made to fit, as somebody with intent would do."""
    manifest = {**read_manifest_content(folder), **values}
    if rehash and isinstance(manifest["files"], dict):
        manifest["files"] = {name: sha256(folder / name) for name in manifest["files"] if (folder / name).is_file()}
    write_manifest(folder, manifest)
    if "format" in values:
        text = (folder / "trimodal.json").read_text()
        (folder / "trimodal.json").write_text(text.replace('"format":3', f'"format":{values["format"]}'))


def test_same_model_same_bytes(whole: Path, tmp_path: Path) -> None:
    """safetensors shuffles its metadata anew each time it writes; of two keys, half of all files would differ."""
    model, plan = open_model(whole), pipeline.read_plan(whole)
    for number in range(8):
        (tmp_path / str(number)).mkdir()
        write_artifact(model, plan, tmp_path / str(number), None)
    assert len({sha256(tmp_path / str(number) / "trimodal.safetensors") for number in range(8)}) == 1
    with safe_open(tmp_path / "0" / "trimodal.safetensors", framework="pt") as opened:
        assert opened.metadata().keys() == {"format", STEPS}


def test_whole_artifact_loads(whole: Path) -> None:
    assert open_model(whole).layout == read_manifest(whole).layout
    assert isinstance(load(whole), nn.Module)


@pytest.mark.parametrize("place", [0, 9, 5_000, -1])
def test_one_flipped_byte(copied: Path, place: int) -> None:
    content = bytearray((copied / "trimodal.safetensors").read_bytes())
    content[place] ^= 1
    (copied / "trimodal.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"trimodal.safetensors has changed since it was written"):
        load(copied)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "trimodal.safetensors"])
def test_missing_and_edited_files(copied: Path, name: str) -> None:
    with (copied / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(IntegrityError, match=f"{name} has changed"):
        load(copied)
    (copied / name).unlink()
    with pytest.raises(IntegrityError, match=f"lacks {name}"):
        load(copied)


def test_later_format(copied: Path) -> None:
    edit(copied, format=99)
    with pytest.raises(IntegrityError, match="has format 99, this version reads up to 2; update trimodal"):
        load(copied)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '{"format": 1}',
        '{"format": "x"}',
        "[" * 100_000,
        '{"format": 1, "files": []}',
        "\x00",
    ],
)
def test_manifest_that_is_none(copied: Path, text: str) -> None:
    (copied / "trimodal.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"trimodal.json cannot be read"):
        load(copied)


@pytest.mark.parametrize(
    "values",
    [
        {"sites": ["x"]},
        {"sites": [{"path": "a"}]},
        {"towers": 5},
        {"files": [1]},
        {"size_attributes": [{"run": 1}]},
        {"sites": [[]]},
    ],
)
def test_manifest_with_odd_parts(copied: Path, values: dict[str, Any]) -> None:
    edit(copied, **values)
    with pytest.raises(IntegrityError, match=r"trimodal.json cannot be read"):
        load(copied)


def test_manifest_that_leaves_the_model_out(copied: Path) -> None:
    files = json.loads((copied / "trimodal.json").read_text())["files"]
    for name in ("trimodal.safetensors", "config.json"):
        edit(copied, files={key: value for key, value in files.items() if key != name})
        with pytest.raises(IntegrityError, match=f"does not list {name}"):
            load(copied)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret"])
def test_manifest_that_points_outside(copied: Path, name: str) -> None:
    (copied.parent / "secret").write_text("secret")
    files = json.loads((copied / "trimodal.json").read_text())["files"]
    edit(copied, rehash=False, files={**files, name: "0"})
    with pytest.raises(IntegrityError, match="outside of the folder"):
        load(copied)


def test_manifest_with_layers_that_are_not_there(copied: Path) -> None:
    sites = json.loads((copied / "trimodal.json").read_text())["sites"]
    edit(copied, sites=[{**sites[0], "path": "__class__"}, *sites[1:]])
    with pytest.raises(IntegrityError, match="tells of __class__, which the model has not"):
        load(copied)


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor], list[dict[str, Any]]], None]) -> None:
    """Change tensors and steps, and make the sums fit."""
    file = folder / "trimodal.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    tensors, steps = load_file(file), json.loads(metadata[STEPS])
    change(tensors, steps)
    save_file(tensors, file, {**metadata, STEPS: json.dumps(steps)})
    edit(folder)


def test_hostile_steps_stop_the_load(copied: Path) -> None:
    def point_outside(tensors: Any, steps: Any) -> None:
        steps[0]["treat"]["path"] = "__class__"

    rewritten(copied, point_outside)
    with pytest.raises(IntegrityError, match="treats __class__"):
        load(copied)


def test_lacking_and_misfitting_tensors(copied: Path) -> None:
    def leave_out(tensors: Any, steps: Any) -> None:
        del tensors["pooler.dense.stored.codes"]

    def reshape(tensors: Any, steps: Any) -> None:
        tensors["pooler.dense.stored.codes"] = torch.zeros(3, 3, dtype=torch.uint8)

    rewritten(copied, leave_out)
    with pytest.raises(IntegrityError, match=r"lacks pooler.dense.stored.codes"):
        load(copied)
    rewritten(copied, reshape)
    with pytest.raises(ModelError, match="cannot be loaded as BertModel"):
        load(copied)


def bare() -> nn.Module:
    """What an artifact without a configuration is built on."""
    return make_miniature("generic")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pipeline, "run_fresh_checks", lambda *rest: [])
    pipeline.compress(bare, "int8", None, tmp_path / "made")
    return tmp_path / "made"


def test_factory_in_a_manifest_is_never_imported(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\ndef make(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("trap:make", "os:abort"):
        edit(made, factory=name)
        with pytest.raises(ModelError, match=f"came from the function {name}.*give it as factory="):
            load(made)
    assert not (tmp_path / "sprung").exists() and "trap" not in sys.modules


def test_function_that_does_not_fit(made: Path) -> None:
    assert isinstance(load(made, factory=bare), nn.Module)
    with pytest.raises(IntegrityError, match="recorded step 1 treats"):
        load(made, factory=lambda: nn.Linear(2, 2))
    rewritten(made, lambda tensors, steps: tensors.__delitem__("text_recurrent.input.0.bias"))
    with pytest.raises(IntegrityError, match=r"does not fit what the function returns: text_recurrent.input.0.bias"):
        load(made, factory=bare)
    rewritten(made, lambda tensors, steps: tensors.update({"text_recurrent.input.0.bias": torch.zeros(1)}))
    with pytest.raises(IntegrityError, match="does not fit what the function returns"):
        load(made, factory=bare)


def test_nothing_is_written_inside_of_an_artifact(copied: Path, tmp_path: Path) -> None:
    """It lists its files, and would no longer load."""
    source = write_miniature("bert", tmp_path / "bert")
    for write_there in (
        lambda: pipeline.compress(source, "int8", None, copied / "sub" / "out"),
        lambda: pipeline.pack(copied, copied / "packed"),
    ):
        with pytest.raises(OutputError, match=r"inside of the artifact .*; give a folder beside it"):
            write_there()
    load(copied)
