"""Attention scores from integers: what query and key projections give is quantized too, so that their product runs on bytes.

    query → [QuantizeLinear → DequantizeLinear] → Reshape → Transpose → · scaling ┐
                                                                               MatMul → scores
    key   → [QuantizeLinear → DequantizeLinear] → Reshape → Transpose ─────────┘

with int8 around 0 and one step, the largest magnitude that was seen over 127. NNCF does the same; values and weights of attention stay
floats, where bytes cost much and gain nothing. Only where nothing but shapes and factors stand between projection and product: rotary
positions are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from trimodal.exporting.onnx_graph.editing import GraphEditor

_SCOPES = "pkg.torch.onnx.name_scopes"
_BETWEEN = ("Reshape", "Transpose", "Mul", "Identity", "Expand", "Unsqueeze")


def quantize_scores_(model: ir.Model, ranges: Mapping[str, tuple[float, float]]) -> int:
    """Quantize what the layers named in `ranges` give, from the least to the largest number, each to its largest magnitude, wherever two of
    them meet in a product. The graph must be as it was traced.

    Returns:
        The number of products.
    """
    given = {path: value for path in ranges if (value := _find_output(model.graph, path)) is not None}
    products: dict[ir.Node, list[str]] = {}
    for path, value in given.items():
        product = _find_product(value)
        if product is not None:
            products.setdefault(product, []).append(path)
    editor, met = GraphEditor(model.graph), [paths for paths in products.values() if len(paths) == 2]
    for path in {path for paths in met for path in paths}:
        _quantize_output(editor, given[path], max(map(abs, ranges[path])))
    return len(met)


def _find_output(graph: ir.Graph, path: str) -> ir.Value | None:
    """What the layer at `path` gives: the output of the last node that was traced in it."""
    scope = f"'model.{path}'"
    nodes = [node for node in graph if scope in node.metadata_props.get(_SCOPES, "")]
    return nodes[-1].outputs[0] if nodes else None


def _find_product(value: ir.Value) -> ir.Node | None:
    """The product that `value` goes into by shapes and factors alone."""
    while True:
        uses = list(value.uses())
        if len(uses) != 1:
            return None
        node = uses[0].node
        if node.op_type == "MatMul":
            return node
        if node.op_type not in _BETWEEN:
            return None
        value = node.outputs[0]


def _quantize_output(editor: GraphEditor, value: ir.Value, largest: float) -> None:
    uses = [(use.node, use.idx) for use in value.uses()]
    scale = editor.constant(np.array(max(largest, 1e-12) / 127, np.float32), "score_scale")
    zero = editor.constant(np.array(0, np.int8), "score_zero")
    coded = editor.add_node("QuantizeLinear", [value, scale, zero], uses[0][0])
    plain = editor.add_node("DequantizeLinear", [coded, scale, zero], uses[0][0])
    for node, place in uses:
        node.replace_input_with(place, plain)
