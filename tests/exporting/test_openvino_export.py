"""The same graph in OpenVINO: its own files, its own runtime."""

from __future__ import annotations

import json
from pathlib import Path

import openvino
import pytest
import torch

import trimodal
from trimodal.networks.tiny import make_miniature_batch, write_miniature, write_miniature_data

RECIPE = {"steps": [{"quantize.rtn": {"where": "*embedding*", "bits": 8, "group": "channel"}}, {"quantize.smooth": {"mode": "static"}}]}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("openvino")
    trimodal.compress(write_miniature("bert", root / "bert"), RECIPE, write_miniature_data(root / "data", 16, ("text",)), root / "out")
    trimodal.export(root / "out", "openvino")
    return root / "out"


def test_weights_stay_bytes_on_disk(out: Path) -> None:
    model = openvino.Core().read_model(out / "openvino" / "openvino_model.xml")
    kinds = [op.get_element_type().get_type_name() for op in model.get_ops() if op.get_type_name() == "Constant" and len(op.shape) == 2]
    assert kinds.count("i8") >= 12


def test_outputs_are_the_simulations(out: Path) -> None:
    module, batch = trimodal.load(out), make_miniature_batch("bert", 2)
    with torch.no_grad():
        wanted = module(**batch).last_hidden_state
    compiled = openvino.Core().compile_model(out / "openvino" / "openvino_model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    taken = {value.get_any_name() for value in compiled.inputs}
    found = compiled({name: value.numpy() for name, value in batch.items() if name in taken})["last_hidden_state"]
    real = batch["attention_mask"].bool()
    distance = (torch.from_numpy(found)[real] - wanted[real]).norm() / wanted[real].norm()
    assert distance < 0.05  # a code may flip; without AVX-512 VNNI sums saturate


def test_what_was_written_is_listed(out: Path) -> None:
    said = json.loads((out / "openvino" / "export.json").read_text(encoding="utf-8"))
    assert said["to"] == "openvino" and {"openvino_model.xml", "openvino_model.bin", "config.json"} <= said["files"].keys()
