"""What belongs to a coded weight and is done beside its product, so that the codes themselves are all that is multiplied.

    rotation   x (Ŵ H diag(signs))ᵀ = ((x · signs) H) Ŵᵀ                     two small products more, on x
    rank       x (Ŵ + left right)ᵀ  = x Ŵᵀ + (x rightᵀ) leftᵀ                two narrow products more
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import torch

from trimodal.exporting.layer_codes import LayerCodes
from trimodal.exporting.onnx_graph.decoded_weights import rotate_blocks
from trimodal.exporting.onnx_graph.editing import GraphEditor
from trimodal.maths.packing import unpack_codes


def rotate_input(editor: GraphEditor, x: ir.Value, codes: LayerCodes, before: ir.Node) -> ir.Value:
    """`x` (…, in) in the coordinates in which the weight was coded."""
    signs = codes.store._buffers.get("signs")
    if signs is None:
        return x
    columns = math.prod(codes.shape[1:])
    small = editor.constant((unpack_codes(signs, 1, columns).to(torch.int8) * 2 - 1).numpy(), f"{codes.path}.signs")
    factor = editor.cast(small, ir.DataType.FLOAT, editor.start)
    return rotate_blocks(editor, editor.add_shared("Mul", [x, factor], before), columns, codes.store.options["rotation"], before)


def add_correction(editor: GraphEditor, x: ir.Value, codes: LayerCodes, product: ir.Node) -> None:
    """Add the low-rank part of `x` (…, in), which is scaled by `columns` already, to the product."""
    left, right = codes.store._buffers.get("left"), codes.store._buffers.get("right")
    if left is None or right is None:
        return
    factor = np.float32(1.0) if codes.columns is None else codes.columns.numpy()
    narrow = editor.half_if_exact(np.ascontiguousarray((right.float().numpy() / factor).T), f"{codes.path}.right")
    wide = editor.half_if_exact(np.ascontiguousarray(left.float().numpy().T), f"{codes.path}.left")
    parts = [part if part.dtype == ir.DataType.FLOAT else editor.cast(part, ir.DataType.FLOAT, editor.start) for part in (narrow, wide)]
    small = editor.add_node("MatMul", [editor.add_node("MatMul", [x, parts[0]], product), parts[1]], product)
    editor.add_to_output(product, small)
