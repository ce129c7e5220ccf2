"""OpenVINO sessions: the numbers of ONNX Runtime, integer nodes read from the execution graph, plain errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trimodal.errors import IntegrityError
from trimodal.runtimes import RUNTIMES
from trimodal.runtimes.openvino import describe_versions, open_openvino


def write_product(file: Path, quantized: bool) -> Path:
    """x (n, 64) times a matrix of whole numbers from −4 to 4, as floats or as their codes at scale 1, x quantized at scale 1/8."""
    weight = (np.arange(64 * 16).reshape(64, 16) % 9 - 4).astype(np.int8)
    constants = [
        numpy_helper.from_array(weight if quantized else weight.astype(np.float32), "w"),
        numpy_helper.from_array(np.ones(16, np.float32), "scale"),
        numpy_helper.from_array(np.array(0.125, np.float32), "x_scale"),
        numpy_helper.from_array(np.array(128, np.uint8), "x_zero"),
    ]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if quantized:
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "x_scale", "x_zero"], ["d"]),
            helper.make_node("DequantizeLinear", ["w", "scale"], ["v"], axis=1),
            helper.make_node("MatMul", ["d", "v"], ["y"]),
        ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", width]) for n, width in (("x", 64), ("y", 16)))
    used = constants if quantized else constants[:1]
    model = helper.make_model(helper.make_graph(nodes, "product", [x], [y], used), opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    onnx.save(model, file)
    return file


@pytest.mark.parametrize("quantized", [False, True])
def test_the_numbers_of_onnxruntime(tmp_path: Path, quantized: bool) -> None:
    file = write_product(tmp_path / "product.onnx", quantized)
    x = (np.arange(3 * 64).reshape(3, 64) % 17 - 8).astype(np.float64) / 8  # exact on the input's grid
    found = {}
    for name in ("onnxruntime", "openvino"):
        session = RUNTIMES[name](file, 1)
        assert list(session.input_names) == ["x"] and list(session.output_names) == ["y"]
        found[name] = session.run({"x": x, "unknown": x})["y"]
        session.close()
    weight = np.arange(64 * 16).reshape(64, 16) % 9 - 4
    assert found["openvino"] == pytest.approx(x @ weight, abs=1e-4)
    assert found["openvino"] == pytest.approx(found["onnxruntime"], abs=1e-4)


def test_integer_nodes_are_those_of_the_execution_graph(tmp_path: Path) -> None:
    coded = open_openvino(write_product(tmp_path / "coded.onnx", True), 1)
    assert len(coded.list_integer_nodes()) == 1  # before any inference: it makes one itself
    assert coded.list_integer_nodes()[0].split()[0] in ("FullyConnected", "MatMul")
    plain = open_openvino(write_product(tmp_path / "plain.onnx", False), 1)
    plain.run({"x": np.ones((2, 64))})
    assert list(plain.list_integer_nodes()) == []
    assert any(node["layerType"] in ("FullyConnected", "MatMul") for node in plain.list_nodes())


def test_outputs_outlive_the_next_run(tmp_path: Path) -> None:
    session = open_openvino(write_product(tmp_path / "plain.onnx", False), 1)
    first = session.run({"x": np.ones((1, 64))})["y"]
    kept = first.copy()
    session.run({"x": np.zeros((1, 64))})
    assert np.array_equal(first, kept)


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model at all")
    with pytest.raises(IntegrityError, match=r"OpenVINO cannot open .*broken\.onnx.*export it again"):
        open_openvino(broken, 1)
    assert "openvino" in describe_versions()
