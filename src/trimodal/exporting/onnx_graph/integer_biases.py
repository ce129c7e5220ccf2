"""Biases of 32 bits in steps of their sums, without which ONNX Runtime computes a Conv or Gemm of codes in float.

    Conv(DQ(x), DQ(W), b)    becomes    Conv(DQ(x), DQ(W), DequantizeLinear(round(b / s), s)),  s = scale of x · scale of the row

A MatMul has its bias added behind it, where it may be float. Rounding loses half of what one step of the input times one of the weight
makes. A Gemm's weight needs its zero-points too, though all are 0.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trimodal.exporting.onnx_graph.editing import GraphEditor

_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)
_LARGEST = 2**31 - 1


def code_biases_(graph: ir.Graph) -> None:
    """Code the bias of every product of bytes in `graph`; those stay float that have more steps than 32 bits can count."""
    editor = GraphEditor(graph)
    for node in [node for node in graph if node.op_type in ("Conv", "Gemm")]:
        scale, rows = _find_scale(node.inputs[0]), _find_scale(node.inputs[1])
        if scale is None or rows is None:
            continue
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and bias.const_value is not None:
            _code_bias(editor, node, bias, bias.const_value.numpy(), scale * rows)
        if node.op_type == "Gemm":
            _add_zeros(editor, node.inputs[1])
    editor.remove_unused_initializers_()


def _code_bias(editor: GraphEditor, node: ir.Node, bias: ir.Value, numbers: np.ndarray, step: np.ndarray) -> None:
    """`numbers` (out,) in steps (out,) or (1,), as the third input of `node`."""
    step = np.broadcast_to(step.astype(np.float32), numbers.shape).copy()
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.round(numbers.astype(np.float64) / step)
    if not np.all(np.abs(codes) <= _LARGEST):
        return
    parts = [editor.constant(codes.astype(np.int32), f"{bias.name}.codes"), editor.constant(step, f"{bias.name}.scale")]
    node.replace_input_with(2, editor.add_node("DequantizeLinear", parts, node, axis=0))


def _add_zeros(editor: GraphEditor, weight: ir.Value | None) -> None:
    """Zero-points for the DequantizeLinear that gives `weight`, where it has none, which means that its codes are signed."""
    maker = None if weight is None else weight.producer()
    scale = None if maker is None else maker.inputs[1]
    if maker is not None and len(maker.inputs) == 2 and scale is not None and scale.const_value is not None:
        zeros = np.zeros(scale.const_value.numpy().shape, np.int8)
        maker.resize_inputs(3)
        maker.replace_input_with(2, editor.constant(zeros, f"{scale.name}.zeros"))


def _find_scale(value: ir.Value | None) -> np.ndarray | None:
    """The scales, float64 (n,) or (1,), with which `value` is dequantized from bytes."""
    maker = None if value is None else value.producer()
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    codes, scale = maker.inputs[:2]
    zero = maker.inputs[2] if len(maker.inputs) > 2 else None
    known = next((part.dtype for part in (zero, codes) if part is not None and part.dtype is not None), None)
    if scale is None or scale.const_value is None or known not in _BYTES:
        return None
    found = scale.const_value.numpy().astype(np.float64)
    return found.reshape(-1) if found.ndim < 2 else None
