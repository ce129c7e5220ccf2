"""What profiles say of ONNX Runtime and of the simulation is what both do. Nothing is timed, and no signed product that a
processor might saturate is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from trimodal.core.stored_site import StoredInput, StoredSite, StoredWeight
from trimodal.layers import Affine, CodedWeight
from trimodal.maths.grid import fit_grid
from trimodal.maths.observers import fake_quantize, grid_from_range, quantize_to_codes
from trimodal.targets import list_targets, read_target

ROWS, COLUMNS = 64, 128
INTEGERS = {"MatMulIntegerToFloat", "MatMulNBits"}


def _weight(bits: int, group: int | str) -> tuple[CodedWeight, Affine]:
    weight = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))
    grid = fit_grid(weight, bits, group)
    options = {"shape": [ROWS, COLUMNS], "dtype": "float32", **grid.storage_options()}
    coded = CodedWeight("quantized", options, grid.storage_tensors(grid.encode(weight)))
    affine = coded.affine()
    assert isinstance(affine, Affine)
    return coded, affine


def _make_file(affine: Affine, group: int | str, signed: bool, scale: float | None, zero: int) -> bytes:
    """x (n, COLUMNS) times the dequantized weight, the input quantized too where there is a `scale`."""
    half = 2 ** (affine.bits - 1)
    kinds = {4: (TensorProto.INT4, TensorProto.UINT4), 8: (TensorProto.INT8, TensorProto.UINT8)}
    codes, kind = (affine.codes - half * signed).T, kinds[affine.bits][not signed]
    scales = affine.scale.numpy()
    where: dict[str, Any] = {"axis": 0, "block_size": group} if isinstance(group, int) else {"axis": 1}
    scales = scales.T if isinstance(group, int) else scales[:, 0]
    middle = np.full(scales.size, 0 if signed else half)
    nodes = [helper.make_node("DequantizeLinear", ["codes", "scales", "zeros"], ["weight"], **where)]
    values = [
        helper.make_tensor("codes", kind, codes.shape, codes.flatten().tolist()), numpy_helper.from_array(scales.copy(), "scales"),
        helper.make_tensor("zeros", kind, scales.shape, middle.tolist()),
    ]  # fmt: skip
    if scale is not None:
        values += [numpy_helper.from_array(np.array(scale, np.float32), "s"), numpy_helper.from_array(np.array(zero, np.uint8), "z")]
        nodes += [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["xq"])]
    nodes.append(helper.make_node("MatMul", ["x" if scale is None else "xq", "weight"], ["y"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", COLUMNS), ("y", ROWS))]
    graph = helper.make_graph(nodes, "layer", ends[:1], ends[1:], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()


def _open(file: bytes, optimised: Path) -> tuple[Any, set[str]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.optimized_model_filepath = 4, str(optimised)
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return session, {node.op_type for node in onnx.load(str(optimised)).graph.node}


@pytest.mark.parametrize("name", ["onnxruntime-avx2", "onnxruntime-vnni"])
@pytest.mark.parametrize(
    ("bits", "group", "static"),
    [(8, "channel", True), (8, "channel", False), (8, 64, False), (4, 32, False), (4, 64, False), (4, "channel", False), (4, 8, False),
     (4, "channel", True), (4, 64, True)],
)  # fmt: skip
def test_levels_are_what_onnx_runtime_makes_of_them(name: str, bits: int, group: int | str, static: bool, tmp_path: Path) -> None:
    inputs = StoredInput(8, "static", (-1.0, 1.0)) if static else None
    stored = StoredWeight(bits, group, "positive", False, "float16")
    answer = read_target(name).answer_site("linear", StoredSite("x", (ROWS, COLUMNS), "float32", "quantized", 0, stored, inputs))
    signed = str(answer.weight_type).startswith("s")
    _, nodes = _open(_make_file(_weight(bits, group)[1], group, signed, 0.02 if static else None, 120), tmp_path / "o.onnx")
    assert (answer.level == "native") == bool(nodes & INTEGERS)
    assert answer.level == ("decoded" if group == 8 or (static and bits == 4) else "native")


def test_unsigned_codes_give_the_simulations_output(tmp_path: Path) -> None:
    target = read_target("onnxruntime-avx2")
    assert target.unsigned and target.simulation.equal and target.simulation.sums == "int32"
    coded, affine = _weight(8, "channel")
    x = torch.randn(5, COLUMNS, generator=torch.Generator().manual_seed(1))
    scale, zero = grid_from_range(torch.tensor(-2.0), torch.tensor(2.5), 8)
    session, nodes = _open(_make_file(affine, "channel", False, float(scale), int(zero)), tmp_path / "o.onnx")
    assert "MatMulIntegerToFloat" in nodes
    simulated = fake_quantize(x, scale, zero, 8) @ coded().T
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), simulated, rtol=1e-5, atol=1e-5)


def test_groups_beside_quantized_inputs_are_refused_since_they_fail(tmp_path: Path) -> None:
    stored, inputs = StoredWeight(8, 64, "positive", False, "float16"), StoredInput(8, "static", (-1.0, 1.0))
    for name in ("onnxruntime-avx2", "onnxruntime-vnni", "transformersjs"):
        assert "fail when they are run" in str(read_target(name).refuse_storage("linear", stored, inputs))


@pytest.mark.parametrize("name", list_targets())
def test_what_profiles_say_of_scales_and_inputs(name: str) -> None:
    simulation = read_target(name).simulation
    coded, affine = _weight(8, "channel")
    if simulation.scale_type == "float32":  # float16 · 2^e is a float32, exactly
        assert affine.scale.dtype == torch.float32 and torch.equal(affine.decode(), coded())
    else:
        assert not simulation.equal and simulation.differs
    scale, zero = grid_from_range(torch.tensor(-2.0), torch.tensor(2.5), 8)
    codes = quantize_to_codes(torch.linspace(-9, 9, 100), scale, zero, 8)
    shift = {"u8": 0, "s8": 128, "none": 0}[simulation.input_type]
    assert float((codes - shift).min()) == -shift and float((codes - shift).max()) == 255 - shift
    assert simulation.equal or simulation.differs


def test_two_signed_products_do_not_fit_into_sixteen_bits() -> None:
    largest = 2 * 255 * 127  # what AVX2 adds up first, u8 × s8
    assert largest > 2**15 - 1
    assert read_target("openvino-avx2").simulation.sums == "int16"
    assert not read_target("openvino-avx2").simulation.equal
