"""Weights whose stored form no integer kernel takes: decoded to floats by the runtime when it loads the file, or stored as floats."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from trimodal.exporting.layer_codes import LayerCodes
from trimodal.exporting.onnx_graph.editing import GraphEditor
from trimodal.layers.affine import NotAffine


@dataclass(frozen=True)
class DecodedWeight:
    """The weight as a value of the graph, in its own shape, and why it is no codes."""

    value: ir.Value
    reason: str


def build_decoded_weight(editor: GraphEditor, codes: LayerCodes, before: ir.Node) -> DecodedWeight:
    """The weight in its own shape, from the smallest form that standard operators decode."""
    reason = codes.weight.reason if isinstance(codes.weight, NotAffine) else "its blocks or zero-points are not those of an ONNX type"
    weight = codes.parameter.detach().float().numpy()
    return DecodedWeight(editor.constant(weight, f"{codes.path}.weight"), f"stored as floats: {reason}")
