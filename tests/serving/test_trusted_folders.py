"""Folders that are not served: changed, with strangers in them, or answering something else than when they were written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from trimodal.errors import IntegrityError, ModelError
from trimodal.exporting.export import export
from trimodal.networks.tiny import write_miniature
from trimodal.runtimes.recorded_answers import measure_distance
from trimodal.serving.served_model import open_served
from trimodal.writing.sums import sha256


def copy(folder: Path, place: Path) -> Path:
    return shutil.copytree(folder, place / "copy")


@pytest.mark.parametrize("name", ["weights.bin", "model.pkl", "other.onnx", "data.npy"])
def test_a_file_that_nobody_listed(served_folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = copy(served_folders["bert"], tmp_path)
    (folder / "onnx" / name).write_bytes(b"\x80\x04")
    with pytest.raises(IntegrityError, match="not listed"):
        open_served(folder)


def test_a_link_that_leads_out(served_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(served_folders["bert"], tmp_path)
    (folder / "onnx" / "away.txt").symlink_to("/etc/hostname")
    with pytest.raises(IntegrityError, match="leads out"):
        open_served(folder)


def test_data_that_is_a_hard_link(served_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(served_folders["bert"], tmp_path)
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "onnx" / "data.bin").hardlink_to(tmp_path / "secret")
    file = folder / "onnx" / "export.json"
    said = json.loads(file.read_text())
    said["files"]["data.bin"] = sha256(tmp_path / "secret")
    file.write_text(json.dumps(said))
    with pytest.raises(IntegrityError, match="hard link"):
        open_served(folder)
    (tmp_path / "secret").unlink()
    open_served(folder).runner.close()


def test_a_tensor_that_is_named_twice(served_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(served_folders["bert"], tmp_path)
    shutil.rmtree(folder / "onnx")
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    head = raw[8 : 8 + length].rstrip()
    name, said = next(pair for pair in json.loads(head).items() if pair[0] != "__metadata__")
    head = head[:-1] + f",{json.dumps(name)}:{json.dumps(said)}}}".encode()
    file.write_bytes(len(head).to_bytes(8, "little") + head + raw[8 + length :])
    with pytest.raises(ModelError, match="twice"):
        open_served(folder)


def test_a_file_that_has_changed(served_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(served_folders["bert"], tmp_path)
    file = next((folder / "onnx").rglob("*.onnx"))
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError, match="changed"):
        open_served(folder)


def test_another_answer_than_was_recorded(served_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copy(served_folders["bert"], tmp_path)
    file = folder / "onnx" / "export.json"
    said = json.loads(file.read_text())
    recorded = said["answers"]["components"]["model"]
    said["answers"]["components"]["model"] = {name: [value + 0.3 for value in sums] for name, sums in recorded.items()}
    file.write_text(json.dumps(said))
    with pytest.raises(IntegrityError, match="not what it was"):
        open_served(folder)


@pytest.mark.parametrize("name", ["fusion", pytest.param("whisper", marks=pytest.mark.slow), pytest.param("llava", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_what_was_just_exported_answers_as_recorded(tmp_path: Path, name: str, form: str) -> None:
    folder = write_miniature(name, tmp_path / name)
    export(str(folder), form, folder / form)
    assert json.loads((folder / form / "export.json").read_text())["answers"]["components"]
    model = open_served(folder)
    assert model.runner.runtime == {"onnx": "onnxruntime"}.get(form, form)
    model.runner.close()


def test_the_distance_of_answers() -> None:
    assert measure_distance([3.0, 4.0], [3.0, 4.0]) == 0
    assert measure_distance([3.0, 3.0], [3.0, 4.0]) == pytest.approx(0.2)
    assert measure_distance([float("nan")], [1.0]) == float("inf") and measure_distance([], [1.0]) == float("inf")
