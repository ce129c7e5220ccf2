"""Where a traced graph uses a weight, and as what: in a product, as a table that rows are looked up in, for its shape, or otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from trimodal.exporting.layer_codes import LayerCodes
from trimodal.exporting.onnx_graph.float_graph import SCOPES

_PRODUCTS = ("MatMul", "Gemm")
_CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class WeightUse:
    """One use: `node` takes the weight at `place`. The `products` are x · W, `transposed` where they want it (in, out); what
    comes into a layer that only borrows the weight is not `quantized`."""

    node: ir.Node
    place: int
    kind: Literal["product", "lookup", "shape", "other"]
    products: Sequence[ir.Node] = ()
    transposed: bool = False
    quantized: bool = True


def find_uses(weight: ir.Value, codes: LayerCodes) -> Sequence[WeightUse]:
    """All uses of `weight`, which is that of the layers in `codes`."""
    return [_describe_use(use.node, use.idx, codes) for use in weight.uses()]


def _describe_use(node: ir.Node, place: int, codes: LayerCodes) -> WeightUse:
    quantized = _is_own_use(node, codes)
    if node.op_type == "Gather" and place == 0 and _read_flag(node, "axis") == 0:
        return WeightUse(node, place, "lookup")
    if node.op_type == "Shape":
        return WeightUse(node, place, "shape")
    if node.op_type == "Transpose" and place == 0 and len(codes.shape) == 2:
        products = [use.node for use in node.outputs[0].uses()]
        right = all(use.node.op_type in _PRODUCTS and use.idx == 1 for use in node.outputs[0].uses())
        if products and right and not any(_read_flag(product, "transB") for product in products):
            return WeightUse(node, place, "product", products, True, quantized)
    if node.op_type == "Gemm" and place == 1 and not _read_flag(node, "transA"):
        return WeightUse(node, place, "product", [node], bool(_read_flag(node, "transB")), quantized)
    if node.op_type == "MatMul" and place == 1:
        return WeightUse(node, place, "product", [node], False, quantized)
    if node.op_type in _CONVOLUTIONS and place == 1 and _factors_fit_channels(node, codes):
        return WeightUse(node, place, "product", [node], False, quantized)
    return WeightUse(node, place, "other")


def _is_own_use(node: ir.Node, codes: LayerCodes) -> bool:
    """Whether `node` is of a layer that has the codes, and not of one that only uses the weight."""
    scopes = node.metadata_props.get(SCOPES)
    return scopes is None or any(f"'model.{path}{end}" in scopes for path in (codes.path, *codes.tied) for end in ("'", "@"))


def _factors_fit_channels(node: ir.Node, codes: LayerCodes) -> bool:
    """Whether factors of the kernel's columns can be the input channels' own: alike in all of a channel's window."""
    factors = codes.store._buffers.get("columns")
    if factors is None:
        return True
    by_channel = factors.view(codes.shape[1], -1)
    return _read_flag(node, "group", 1) == 1 and bool((by_channel == by_channel[:, :1]).all())


def _read_flag(node: ir.Node, name: str, default: int = 0) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()
