"""Our codes, scales and ranges written into a traced float graph, in place of the weights they stand for.

    Transpose(W) → MatMul(x, ·)    becomes    [Mul(x, columns)] → [QuantizeLinear → DequantizeLinear] → MatMul(·, DequantizeLinear(codes))
    Conv(x, W), Gather(W, index)   likewise

which ONNX Runtime and OpenVINO turn into products of integers. Weights are found by the names of their initializers, which are
the model's own (`float_graph.py`). Layers with one input and one range share its quantization. The codes of a linear layer lie as
the product wants them, (in, out), with a scale per output, or per block of inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from trimodal.exporting.layer_codes import InputCodes, LayerCodes
from trimodal.exporting.onnx_graph.decoded_weights import build_decoded_weight
from trimodal.exporting.onnx_graph.editing import GraphEditor
from trimodal.exporting.onnx_graph.integer_tensors import ScaledCodes, scale_codes


@dataclass
class WrittenCodes:
    """What became of the layers' codes in one graph: `coded` are those whose products a runtime may compute with integers or
    dequantize as it goes, `decoded` those that it turns into floats when it loads the file, with the reason, and `float_inputs` those
    whose input is quantized in the simulation and left as it is here. `parameters` are the model's own tensors that the graph used."""

    coded: set[str] = field(default_factory=set)
    decoded: dict[str, str] = field(default_factory=dict)
    float_inputs: dict[str, str] = field(default_factory=dict)
    parameters: set[str] = field(default_factory=set)

    @property
    def all(self) -> set[str]:
        """Every layer whose codes are in the graph."""
        return self.coded | self.decoded.keys()


def write_codes_(model: ir.Model, names: Mapping[int, str], layers: Iterable[LayerCodes], unsigned: bool = False) -> WrittenCodes:
    """Replace the weights of `layers` in the graph by their codes.

    Args:
        model: the float graph as it was traced.
        names: what the initializers are called, by the `id` of the parameter.
        layers: what is stored of each layer; those that the graph does not use are left out.
        unsigned: write 8-bit codes as unsigned numbers around 128, for kernels that saturate with signed ones.
    """
    editor, written = GraphEditor(model.graph), WrittenCodes(parameters=_used_parameters(model.graph))
    for codes in layers:
        name = names.get(id(codes.parameter))
        value = model.graph.initializers.get(name) if name is not None else None
        if value is not None and value.uses():
            _write_layer(editor, value, codes, written, unsigned)
    editor.remove_unused_initializers_()
    return written


def _used_parameters(graph: ir.Graph) -> set[str]:
    """The names that the model has for the tensors that the graph uses."""
    return {name.removeprefix("model.") for name, value in graph.initializers.items() if name.startswith("model.") and value.uses()}


def _write_layer(editor: GraphEditor, weight: ir.Value, codes: LayerCodes, written: WrittenCodes, unsigned: bool) -> None:
    """Put the codes in the place of `weight`, wherever it is used."""
    uses = [(use.node, use.idx) for use in weight.uses()]
    packed = scale_codes(codes, unsigned)
    if packed is None:
        made = build_decoded_weight(editor, codes, before=uses[0][0])
        for node, place in uses:
            node.replace_input_with(place, made.value)
        written.decoded[codes.path] = made.reason
        return
    written.coded.add(codes.path)
    shared = _SharedCodes(editor, packed, alone=len(uses) == 1)
    for node, place in uses:
        _write_use(editor, shared, codes, node, place, written)


def _write_use(editor: GraphEditor, shared: _SharedCodes, codes: LayerCodes, node: ir.Node, place: int, written: WrittenCodes) -> None:
    if node.op_type == "Transpose" and place == 0 and len(codes.shape) == 2:
        products = [use.node for use in node.outputs[0].uses()]
        dequantized = shared.transposed(before=node)
        node.outputs[0].replace_all_uses_with(dequantized)
        for product in products:
            _quantize_input(editor, product, 0, codes, written)
    elif node.op_type == "Gather" and place == 0:
        _look_up_codes(editor, shared, node)
    elif node.op_type == "Gemm" and place == 1 and _flag(node, "transB"):
        node.attributes.pop("transB")
        node.replace_input_with(1, shared.transposed(before=node))
        _quantize_input(editor, node, 0, codes, written)
    else:
        node.replace_input_with(place, shared.upright(before=node))
        if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm") and place == 1:
            _quantize_input(editor, node, 0, codes, written)


def _flag(node: ir.Node, name: str) -> bool:
    attribute = node.attributes.get(name)
    return attribute is not None and bool(attribute.as_int())


@dataclass
class _SharedCodes:
    """One layer's codes, in the graph once: as the only use wants them, else upright."""

    editor: GraphEditor
    codes: ScaledCodes
    alone: bool

    def upright(self, before: ir.Node) -> ir.Value:
        """The dequantized weight in its own shape."""
        return self.editor.dequantize(self.codes, before)

    def transposed(self, before: ir.Node) -> ir.Value:
        """The dequantized weight (in, out)."""
        if self.alone:
            return self.editor.dequantize(self.codes.transpose(), before)
        return self.editor.add_node("Transpose", [self.upright(before)], before, perm=[1, 0])


def _look_up_codes(editor: GraphEditor, shared: _SharedCodes, node: ir.Node) -> None:
    """Take the rows' codes and scales, and dequantize those: a vocabulary is large and a sentence short."""
    index = node.inputs[1]
    assert index is not None
    rows = editor.dequantize_rows(shared.codes, index, node)
    node.outputs[0].replace_all_uses_with(rows)


def _quantize_input(editor: GraphEditor, node: ir.Node, place: int, codes: LayerCodes, written: WrittenCodes) -> None:
    """Scale and quantize what comes into `node` at `place` as the simulation does."""
    x = node.inputs[place]
    assert x is not None
    x = _scale_columns(editor, x, codes, node)
    if codes.input is not None:
        if codes.input.static:
            x = _quantize(editor, x, codes.input, node)
        else:
            written.float_inputs[codes.path] = "its range is each token's own, which no standard operator computes with integers"
    node.replace_input_with(place, x)


def _scale_columns(editor: GraphEditor, x: ir.Value, codes: LayerCodes, before: ir.Node) -> ir.Value:
    if codes.columns is None:
        return x
    factor = codes.columns.numpy()
    if len(codes.shape) > 2:
        factor = factor.reshape(-1, *(1 for _ in codes.shape[2:]))
    return editor.add_shared("Mul", [x, editor.constant(factor, f"{codes.path}.columns")], before)


def _quantize(editor: GraphEditor, x: ir.Value, how: InputCodes, before: ir.Node) -> ir.Value:
    scale = editor.constant(np.array(how.scale, np.float32), "input_scale")
    zero = editor.constant(np.array(how.zero, np.uint8), "input_zero")
    if how.bits < 8:  # the grid has fewer steps than the type: what lies beyond its end is held back first
        last = (2**how.bits - 1 - how.zero) * (how.scale or 1.0)
        x = editor.add_shared("Min", [x, editor.constant(np.array(last, np.float32), "input_last")], before)
    coded = editor.add_shared("QuantizeLinear", [x, scale, zero], before)
    return editor.add_shared("DequantizeLinear", [coded, scale, zero], before)
