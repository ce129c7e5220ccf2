"""Our codes, scales and ranges written into a traced float graph, in place of the weights they stand for.

    Transpose(W) → MatMul(x, ·)    becomes    [Mul(x, columns)] → [QuantizeLinear → DequantizeLinear] → MatMul(·, DequantizeLinear(codes))
    Conv(x, W), Gather(W, index)   likewise

which ONNX Runtime and OpenVINO turn into products of integers. What is not affine is decoded (`decoded_weights.py`); a rotation is
done to x and a low-rank correction added to the product, so that the codes stay (`beside_codes.py`). Weights are found by the names
of their initializers, which are the model's own (`float_graph.py`). Layers with one input and one range share its quantization. The
codes of a linear layer lie as the product wants them, (in, out), with a scale per output, or per block of inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from trimodal.exporting.layer_codes import InputCodes, LayerCodes
from trimodal.exporting.map_grids import MapGrids
from trimodal.exporting.onnx_graph.beside_codes import add_correction, rotate_input
from trimodal.exporting.onnx_graph.decoded_weights import WeightDecoder
from trimodal.exporting.onnx_graph.dequantizing import dequantize, dequantize_rows
from trimodal.exporting.onnx_graph.editing import GraphEditor
from trimodal.exporting.onnx_graph.integer_tensors import ScaledCodes, scale_codes
from trimodal.exporting.onnx_graph.weight_uses import WeightUse, find_uses
from trimodal.layers.affine import NotAffine


@dataclass
class WrittenCodes:
    """What became of the layers' codes in one graph: `coded` are those whose products a runtime may compute with integers or
    dequantize as it goes, `decoded` those that it turns into floats when it loads the file, with the reason, and `float_inputs` those
    whose input is quantized in the simulation and left as it is here. `parameters` are the model's own tensors that the graph used;
    `maps` those between convolutions that are bytes."""

    coded: set[str] = field(default_factory=set)
    decoded: dict[str, str] = field(default_factory=dict)
    float_inputs: dict[str, str] = field(default_factory=dict)
    parameters: set[str] = field(default_factory=set)
    maps: MapGrids = field(default_factory=dict)

    @property
    def all(self) -> set[str]:
        """Every layer whose codes are in the graph."""
        return self.coded | self.decoded.keys()


def write_codes_(
    model: ir.Model, names: Mapping[int, Sequence[str]], layers: Iterable[LayerCodes], unsigned: bool = False,
    kernels: Collection[str] | None = None,
) -> WrittenCodes:  # fmt: skip
    """Replace the weights of `layers` in the graph by their codes.

    Args:
        model: the float graph as it was traced.
        names: what the initializers may be called, by the `id` of the parameter.
        layers: what is stored of each layer; those that the graph does not use are left out.
        unsigned: write 8-bit codes as unsigned numbers around 128, for kernels that saturate with signed ones.
        kernels: the convolutions that the runtime computes with bytes, None for all. ONNX Runtime does only those whose sums become bytes
            at once, and would dequantize the kernels of others in every call.
    """
    editor, written = GraphEditor(model.graph), WrittenCodes(parameters=_used_parameters(model.graph))
    for codes in layers:
        known = (model.graph.initializers.get(name) for name in names.get(id(codes.parameter), ()))
        for value in [value for value in known if value is not None and value.uses()]:
            _write_layer(editor, value, codes, written, unsigned, kernels)
    editor.remove_unused_initializers_()
    model.graph.sort()  # a quantized input may be shared with a layer that runs earlier
    return written


def _used_parameters(graph: ir.Graph) -> set[str]:
    """The names that the model has for the tensors that the graph uses."""
    return {name.removeprefix("model.") for name, value in graph.initializers.items() if name.startswith("model.") and value.uses()}


def _write_layer(
    editor: GraphEditor, weight: ir.Value, codes: LayerCodes, written: WrittenCodes, unsigned: bool, kernels: Collection[str] | None
) -> None:  # fmt: skip
    """Put the codes in the place of `weight`, wherever it is used."""
    uses, decoder = find_uses(weight, codes), WeightDecoder(editor, codes, editor.start)
    reason = _find_reason(uses, codes, kernels)
    packed = scale_codes(codes, unsigned) if reason is None else None
    if packed is None:
        written.decoded[codes.path] = reason or decoder.reason
    else:
        written.coded.add(codes.path)
        packed = replace(packed, counted=kernels is not None, nibbles=all(use.kind != "lookup" for use in uses))
    form = _WeightForm(editor, codes, packed, decoder, all(use.transposed for use in uses))
    for use in uses:
        if use.kind == "shape":
            use.node.outputs[0].replace_all_uses_with(editor.constant(_read_shape(use.node, codes), "shape"))
        elif use.kind == "lookup":
            editor.replace_value(use.node.outputs[0], form.look_up(use.node))
        elif use.kind == "product":
            _write_product(editor, form, use, written)
        else:
            use.node.replace_input_with(use.place, form.whole())
            if codes.input is not None:
                written.float_inputs[codes.path] = "it is a recurrent layer, or one whose product the graph does not show"


def _find_reason(uses: Sequence[WeightUse], codes: LayerCodes, kernels: Collection[str] | None) -> str | None:
    """Why codes would be of no use to a runtime, whatever they are."""
    if others := [use.node.op_type for use in uses if use.kind == "other"]:
        return f"it is used otherwise than in a product ({others[0]}), as the weights of recurrent layers are"
    if len(codes.shape) > 2 and (codes.input is None or not codes.input.static):
        return "no runtime multiplies the codes of a convolution's kernel with floats"
    if len(codes.shape) > 2 and kernels is not None and codes.path not in kernels:
        return "this runtime convolves bytes only where sums go straight into the next convolution, as in a ResNet exported with --data"
    return None


def _read_shape(node: ir.Node, codes: LayerCodes) -> np.ndarray:
    """What a Shape of the weight gives."""
    start, end = (node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end"))
    return np.array(codes.shape[start:end], np.int64)


@dataclass
class _WeightForm:
    """One layer's weight as the graph has it, its codes in it once: as products want them if products are all that use it."""

    editor: GraphEditor
    codes: LayerCodes
    packed: ScaledCodes | None
    decoder: WeightDecoder
    only_transposed: bool

    def whole(self) -> ir.Value:
        """The weight in its own shape, with all that belongs to it."""
        return self.decoder.decode()

    def factor(self, transposed: bool, scaled: bool) -> ir.Value:
        """What a product takes: in its own shape or (in, out), without what is done to x: with `scaled` that is x · columns."""
        if self.packed is not None and transposed:
            return dequantize(self.editor, self.packed.transpose(stored=self.only_transposed))
        found = self.decoder.decode(("columns",) if scaled else ()) if self.packed is None else dequantize(self.editor, self.packed)
        return self.editor.add_shared("Transpose", [found], self.editor.start, perm=[1, 0]) if transposed else found

    def look_up(self, node: ir.Node) -> ir.Value:
        """The rows that a Gather takes; a vocabulary is large and a sentence short, so only those are decoded where that can be."""
        index = node.inputs[1]
        assert index is not None
        if self.packed is not None and self.packed.native and not isinstance(self.codes.weight, NotAffine):
            return dequantize_rows(self.editor, self.packed, index, node)
        if self.decoder.takes_rows:
            return replace(self.decoder, before=node).decode_rows(index)
        return self.editor.add_node("Gather", [self.decoder.decode(), index], node, axis=0)


def _write_product(editor: GraphEditor, form: _WeightForm, use: WeightUse, written: WrittenCodes) -> None:
    """Quantize what comes in as the simulation does, and multiply it with the codes."""
    codes, coded = form.codes, form.packed is not None
    quantized = use.quantized and codes.input is not None and codes.input.static
    if use.quantized and codes.input is not None and not codes.input.static:
        written.float_inputs[codes.path] = "its range is each token's own, which no standard operator computes with integers"
    factor = form.factor(use.transposed, scaled=coded or quantized)
    if use.node.op_type == "Gemm":
        use.node.attributes.pop("transB", None)
    for product in use.products:
        x = product.inputs[0]
        assert x is not None
        x = _scale_columns(editor, x, codes, product) if coded or quantized else x
        x = _quantize(editor, x, codes.input, product) if quantized and codes.input is not None else x
        product.replace_input_with(0, rotate_input(editor, x, codes, product) if coded else x)
        product.replace_input_with(1, factor)
        if coded:
            add_correction(editor, x, codes, product)


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
