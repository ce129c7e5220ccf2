"""Convolutional networks run in bytes throughout, by the runtimes' own graphs, and the model with its maps rounded gives the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import trimodal
from trimodal.exporting.map_grids import MapGrid, round_maps
from trimodal.exporting.onnx_graph.integer_biases import code_biases_
from trimodal.networks.tiny import write_miniature, write_miniature_data
from trimodal.runtimes.exported_folder import read_exported
from trimodal.runtimes.onnxruntime import open_onnxruntime
from trimodal.runtimes.openvino import open_openvino

CONVOLUTIONS = {"resnet": 15, "resnet-basic": 11}  # the stem's, three or two a block, and a shortcut where the width changes
FAMILIES = sorted(CONVOLUTIONS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """ResNets with the recipe `int8-full`, exported with data, one of them in all ways."""
    root, found = tmp_path_factory.mktemp("maps"), {}
    data = write_miniature_data(root / "data", 16, ("image",))
    for family in FAMILIES:
        out = found[family] = root / f"{family}-out"
        trimodal.compress(write_miniature(family, root / family), "int8-full", data, out)
        trimodal.export(out, "onnx", data=data)
    trimodal.export(found["resnet"], "openvino", data=data)
    trimodal.export(found["resnet"], "onnx", root / "bare")
    return found


def count_integer_nodes(folder: Path) -> Counter[str]:
    """By kind, the nodes that ONNX Runtime computes with integers, by its own graph."""
    session = open_onnxruntime(read_exported(folder).path_of("model"), 1)
    try:
        return Counter(node.split()[0] for node in session.list_integer_nodes())
    finally:
        session.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_runtime_computes_all_convolutions_and_sums_with_integers(made: Mapping[str, Path], family: str) -> None:
    counts = count_integer_nodes(made[family] / "onnx")
    assert counts == {"QLinearConv": CONVOLUTIONS[family], "QLinearAdd": 4, "QGemm": 1}
    graph = onnx.load(str(read_exported(made[family] / "onnx").path_of("model"))).graph
    assert Counter(node.op_type for node in graph.node)["Conv"] == CONVOLUTIONS[family]


def test_openvino_has_no_convolution_in_float(made: Mapping[str, Path]) -> None:
    session = open_openvino(made["resnet"] / "openvino" / "openvino_model.xml", 1)
    session.run({"pixel_values": np.zeros((2, 3, 32, 32), np.float32)})
    kinds = [node["primitiveType"] for node in session.list_nodes() if node["layerType"] == "Convolution"]
    session.close()
    assert len(kinds) == CONVOLUTIONS["resnet"] and all("I8" in kind for kind in kinds), kinds


def test_without_data_only_sums_of_unknown_size_stay_float(made: Mapping[str, Path]) -> None:
    """The two blocks that change the width add two maps of which neither bounds the other, and nothing reads the last sum."""
    bare = made["resnet"].with_name("bare")
    said = json.loads((bare / "export.json").read_text(encoding="utf-8"))
    assert len(said["decoded"]) == 2 * 2 + 1 and all("--data" in reason for reason in said["decoded"].values())
    assert count_integer_nodes(bare) == {"QLinearConv": CONVOLUTIONS["resnet"] - 5, "QLinearAdd": 1, "QGemm": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_map_is_quantized_once_and_all_that_read_it_agree(made: Mapping[str, Path], family: str) -> None:
    graph = onnx.load(str(read_exported(made[family] / "onnx").path_of("model"))).graph
    quantized = Counter(node.input[0] for node in graph.node if node.op_type == "QuantizeLinear")
    assert set(quantized.values()) == {1}
    outputs, image, pooled, sums, head = CONVOLUTIONS[family], 1, 1, 4, 1
    assert len(quantized) == outputs + image + pooled + sums + head


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shortcut_with_another_stride_has_the_range_of_what_stands_beside_it(made: Mapping[str, Path], family: str) -> None:
    module = trimodal.load(made[family])
    block = module.resnet.encoder.stages[1].layers[0]
    first, shortcut = block.layer[0].convolution, block.shortcut.convolution
    assert shortcut.stride == (2, 2) and (family != "resnet" or first.stride == (1, 1))
    assert torch.equal(first.stored.input_scale, shortcut.stored.input_scale) and first.stored.input_zero == shortcut.stored.input_zero
    stores = [layer.stored for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    assert len(stores) == CONVOLUTIONS[family] and not any("columns" in store._buffers for store in stores)


@pytest.mark.parametrize(("family", "form"), [("resnet", "onnx"), ("resnet", "openvino"), ("resnet-basic", "onnx")])
def test_the_check_knows_of_the_bytes(made: Mapping[str, Path], family: str, form: str) -> None:
    said = json.loads((made[family] / form / "export.json").read_text(encoding="utf-8"))
    checks = {check["name"]: check for check in said["checks"]}
    whole = checks["model: outputs as near as the simulation's"]
    assert whole["status"] == "passed" and "the one with maps of bytes" in whole["detail"]
    assert len(said["coded"]) == CONVOLUTIONS[family] + 1 and not said["decoded"]


def test_a_grid_holds_its_range_and_zero() -> None:
    grid = MapGrid.of_range(-1.0, 1.55)
    assert (grid.scale, grid.zero) == (pytest.approx(0.01), 100) and (grid.low, grid.high) == (pytest.approx(-1.0), pytest.approx(1.55))
    given = torch.tensor([-3.0, 0.0, 0.004, 0.006, 1.0, 9.0])
    assert grid.round_map(given) == pytest.approx(torch.tensor([-1.0, 0.0, 0.0, 0.01, 1.0, 1.55]))


def test_one_call_of_a_layer_is_rounded_and_the_next_is_not() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([self.act(x), self.act(x)])

    module, x = Twice(), torch.tensor([0.26, -1.0])
    with round_maps(module, {"act": {1: MapGrid(0.5, 0)}}):
        found = module(x)
    assert found.tolist() == [[pytest.approx(0.26), 0.0], [0.5, 0.0]]
    assert module(x).tolist() == [[pytest.approx(0.26), 0.0]] * 2


def make_product(bias: np.ndarray) -> ir.Model:
    """Gemm of bytes with scale 0.5 and codes with scales 0.25 and 2, and `bias` (2,)."""
    parts = {
        "x": np.array([[3]], np.uint8), "sx": np.array(0.5, np.float32), "zx": np.array(1, np.uint8),
        "w": np.array([[4, -4]], np.int8), "sw": np.array([0.25, 2.0], np.float32), "b": bias.astype(np.float32),
    }  # fmt: skip
    tensors = {name: ir.tensor(array, name=name) for name, array in parts.items()}
    values = {
        name: ir.Value(name=name, const_value=tensor, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype))
        for name, tensor in tensors.items()
    }  # fmt: skip
    taken = ir.node("DequantizeLinear", [values["x"], values["sx"], values["zx"]])
    weight = ir.node("DequantizeLinear", [values["w"], values["sw"]], attributes={"axis": 1})
    product = ir.node("Gemm", [taken.outputs[0], weight.outputs[0], values["b"]])
    product.outputs[0].name, product.outputs[0].type, product.outputs[0].shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, 2])
    nodes = [taken, weight, product]
    graph = ir.Graph([], product.outputs, nodes=nodes, initializers=list(values.values()), opset_imports={"": 21}, name="g")
    return ir.Model(graph, ir_version=10)


def test_biases_are_whole_numbers_of_their_sums_steps() -> None:
    model = make_product(np.array([1.03, -7.6]))
    code_biases_(model.graph)
    product = next(node for node in model.graph if node.op_type == "Gemm")
    codes, scale = product.inputs[2].producer().inputs
    assert codes.const_value.numpy().tolist() == [8, -8] and codes.dtype == ir.DataType.INT32  # 1.03 / 0.125 and −7.6 / 1
    assert scale.const_value.numpy().tolist() == [0.125, 1.0]
    zeros = product.inputs[1].producer().inputs[2]
    assert zeros.dtype == ir.DataType.INT8 and zeros.const_value.numpy().tolist() == [0, 0]


def test_a_bias_of_too_many_steps_stays_float() -> None:
    model = make_product(np.array([1.0, 1e11]))
    code_biases_(model.graph)
    product = next(node for node in model.graph if node.op_type == "Gemm")
    assert product.inputs[2].name == "b"
