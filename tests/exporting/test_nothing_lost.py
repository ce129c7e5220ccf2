"""An export replaces neither its model nor its data; what it says of distances holds for every output, and for numbers that are none."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import trimodal
from trimodal.errors import InputError, IntegrityError
from trimodal.exporting.layer_probes import LayerProbe, check_layers
from trimodal.exporting.self_check import Probe, ProbeFile, RunFile, check_modalities, check_outputs, measure_distance
from trimodal.networks.tiny import write_miniature, write_miniature_data


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature("bert", tmp_path_factory.mktemp("model") / "bert")


@pytest.mark.parametrize("to", ["onnx", "openvino", "compressed-tensors"])
def test_the_model_is_never_replaced(model: Path, to: str) -> None:
    before = {path: path.read_bytes() for path in model.iterdir() if path.is_file()}
    for out in (model, model.parent):
        with pytest.raises(InputError, match="is or holds the model"):
            trimodal.export(model, to, out, force=True)
    assert {path: path.read_bytes() for path in model.iterdir() if path.is_file()} == before


def test_the_data_are_never_replaced(model: Path, tmp_path: Path) -> None:
    data = write_miniature_data(tmp_path / "data", 4, ("text",))
    with pytest.raises(InputError, match="is or holds the data"):
        trimodal.export(model, "onnx", tmp_path / "data", data=data, force=True)
    assert data.exists()


def test_an_archive_replaces_archives_only_and_is_not_unpacked_over_itself(model: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "out"
    trimodal.compress(model, "int8", None, artifact)
    with pytest.raises(InputError, match="is no archive"):
        trimodal.export(artifact, "archive", model / "config.json", force=True)
    (tmp_path / "place").mkdir()
    made = trimodal.export(artifact, "archive", tmp_path / "place" / "model.tri")
    assert made.place == tmp_path / "place" / "model.tri"
    assert trimodal.export(artifact, "archive", made.place, force=True).place.is_file()
    with pytest.raises(InputError, match="is or holds the archive"):
        trimodal.unpack(made.place, made.place.parent, force=True)
    assert made.place.is_file()


def test_a_damaged_file_is_not_timed(model: Path, tmp_path: Path) -> None:
    made = trimodal.export(model, "onnx", tmp_path / "onnx")
    file = made.folder / made.result.components[0].files[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.onnx has changed"):
        trimodal.bench(made.folder, rounds=1)


def run_of(**outputs: torch.Tensor) -> dict[str, RunFile]:
    return {"model": RunFile({name: np.array(value) for name, value in outputs.items()}, ())}


def test_every_output_is_held_to_its_own_distance() -> None:
    plain = {"a": torch.ones(4), "b": torch.ones(4)}
    probe = Probe("model", {}, {"a": torch.full((4,), 1.6), "b": torch.full((4,), 1.001)}, plain)
    (right,) = check_outputs([probe], run_of(a=torch.full((4,), 1.6), b=torch.full((4,), 1.001)))
    (zeros,) = check_outputs([probe], run_of(a=torch.full((4,), 1.6), b=torch.zeros(4)))
    assert right.passed and zeros.failed


def test_numbers_that_are_none_are_infinitely_far() -> None:
    nothing = torch.full((4,), torch.nan)
    for found in ({"a": torch.ones(4), "b": nothing}, {"a": nothing, "b": torch.ones(4)}):
        assert measure_distance(found, {"a": torch.ones(4), "b": torch.ones(4)}) == math.inf
        probe = Probe("model", {"input_ids": torch.ones(1)}, {"a": torch.ones(4), "b": torch.ones(4)})
        assert check_outputs([probe], run_of(**found))[0].failed and check_modalities([probe], run_of(**found))[0].failed


def test_a_distance_within_which_zeros_would_be_is_no_check_that_passed() -> None:
    probe = Probe("model", {"pixel_values": torch.ones(1)}, {"y": torch.tensor([0.0, 1.0])}, {"y": torch.tensor([1.0, 0.0])})
    found = run_of(y=torch.tensor([0.0, 1.0]))
    (whole,), (image,) = check_outputs([probe], found), check_modalities([probe], found)
    assert whole.status == image.status == "not run" and "shows nothing" in whole.detail


def test_a_layer_of_zeros_is_not_off() -> None:
    probe = LayerProbe("fc", ProbeFile("fc", Path("fc.onnx"), {}), torch.zeros(3), allowed=0.0)
    assert check_layers([probe], {"fc": RunFile({"y": np.zeros(3, np.float32)}, ())})[0].passed
    assert check_layers([probe], {"fc": RunFile({"y": np.full(3, 0.1, np.float32)}, ())})[0].failed
    assert check_layers([probe], {"fc": RunFile({"y": np.full(3, np.nan, np.float32)}, ())})[0].failed
