"""What export.json says is held to the files before one is opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trimodal.errors import IntegrityError
from trimodal.runtimes.exported_folder import EXPORT_FILE, FORMAT, read_exported
from trimodal.runtimes.exported_model import open_export
from trimodal.writing.sums import sha256


def write_folder(folder: Path, opened: str) -> Path:
    (folder / "model.onnx").write_bytes(b"graph")
    said = {
        "format": FORMAT, "to": "onnx", "family": "bert", "runtime": "onnxruntime", "files": {"model.onnx": sha256(folder / "model.onnx")},
        "components": [{"name": "model", "files": [opened], "inputs": {}, "outputs": {}}],
    }  # fmt: skip
    (folder / EXPORT_FILE).write_text(json.dumps(said))
    return folder


def test_a_file_with_its_sum_is_opened(tmp_path: Path) -> None:
    assert read_exported(write_folder(tmp_path, "model.onnx")).components["model"].files == ("model.onnx",)


@pytest.mark.parametrize("name", ["../model.onnx", "other.onnx"])
def test_a_file_without_a_sum_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="for which it lists no sum"):
        read_exported(write_folder(tmp_path, name))


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (write_folder(tmp_path, "model.onnx") / EXPORT_FILE).write_text("{")
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_exported(tmp_path)


def test_a_component_without_a_file_is_refused(tmp_path: Path) -> None:
    place = write_folder(tmp_path, "model.onnx") / EXPORT_FILE
    said = json.loads(place.read_text())
    said["components"][0]["files"] = []
    place.write_text(json.dumps(said))
    with pytest.raises(IntegrityError, match="lists no file for model"):
        read_exported(tmp_path)


def test_a_folder_without_components_is_not_opened(tmp_path: Path) -> None:
    place = write_folder(tmp_path, "model.onnx") / EXPORT_FILE
    place.write_text(json.dumps({**json.loads(place.read_text()), "components": []}))
    with pytest.raises(IntegrityError, match="no component"):
        open_export(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "../model"}, {"name": "a\nb"}, {"name": ""}, {"name": 3}, {"inputs": {"ids": [-7, 3]}},
        {"inputs": {"ids": ["batch_size", 2**70]}},
        {"outputs": {"sum": [1.5]}}, {"outputs": {"sum": [True]}}, {"outputs": {"sum": 3}}, {"inputs": []},
    ],
)  # fmt: skip
def test_a_component_with_a_name_or_lengths_that_cannot_be_is_refused(changed: dict[str, object], tmp_path: Path) -> None:
    place = write_folder(tmp_path, "model.onnx") / EXPORT_FILE
    said = json.loads(place.read_text())
    said["components"][0] |= changed
    place.write_text(json.dumps(said))
    with pytest.raises(IntegrityError):
        read_exported(tmp_path)
