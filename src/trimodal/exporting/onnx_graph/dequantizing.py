"""Codes with scales as one DequantizeLinear, and rows of them looked up."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from trimodal.exporting.onnx_graph.editing import GraphEditor
from trimodal.exporting.onnx_graph.integer_tensors import ScaledCodes
from trimodal.exporting.onnx_graph.packed_codes import expand_kept, spread_kept, unpack_codes, unpack_mask


def dequantize(editor: GraphEditor, codes: ScaledCodes) -> ir.Value:
    """The weight that the codes stand for."""
    before = editor.start
    parts: list[ir.Value] = [_make_numbers(editor, codes), _make_scales(editor, codes)]
    if codes.zero is not None:
        parts.append(editor.constant(codes.zero, f"{codes.name}.zero", codes.dtype))
    blocks = {"block_size": codes.block} if codes.block else {}
    return editor.add_shared("DequantizeLinear", parts, before, axis=codes.axis, **blocks)


def dequantize_rows(editor: GraphEditor, codes: ScaledCodes, index: ir.Value, before: ir.Node) -> ir.Value:
    """The rows at `index` of any shape: (…, columns), of codes with a scale per row or per block of a row, stored in a type of ONNX."""
    wide = ir.DataType.UINT8 if codes.zero is not None else ir.DataType.INT8
    stored = editor.constant(codes.codes, f"{codes.name}.codes", codes.dtype)
    value = editor.cast(_gather(editor, stored, index, before), ir.DataType.FLOAT, before)
    blocks, columns = (codes.scale.shape[1] if codes.block else 1), codes.codes.shape[1]
    scale = codes.scale.reshape(len(codes.scale), blocks, 1)
    value = editor.split_last(value, [blocks, columns // blocks], before)
    if codes.zero is not None:
        zero = editor.constant(codes.zero.reshape(scale.shape), f"{codes.name}.zeros", codes.dtype if codes.dtype != wide else None)
        taken = editor.cast(_gather(editor, zero, index, before), ir.DataType.FLOAT, before)
        value = editor.add_node("Sub", [value, taken], before)
    table = editor.half_if_exact(scale, f"{codes.name}.scales")
    taken = _gather(editor, table, index, before)
    if table.dtype != ir.DataType.FLOAT:
        taken = editor.cast(taken, ir.DataType.FLOAT, before)
    return editor.join_last(editor.add_node("Mul", [value, taken], before), columns, 2, before)


def _make_numbers(editor: GraphEditor, codes: ScaledCodes) -> ir.Value:
    """The codes in the type that they are dequantized from: stored so, or unpacked from fewer bits, which a runtime does once."""
    if codes.turned:
        there = codes.transpose()
        found = editor.constant(there.codes, f"{codes.name}.codes", codes.dtype) if codes.native else _unpack_numbers(editor, there)
        turned = editor.add_shared("Transpose", [found], editor.start, perm=[1, 0])
        return turned if codes.native else editor.cast(turned, codes.dtype, editor.start)
    if codes.native:
        return editor.constant(codes.codes, f"{codes.name}.codes", codes.dtype)
    return editor.cast(_unpack_numbers(editor, codes), codes.dtype, editor.start)


def _unpack_numbers(editor: GraphEditor, codes: ScaledCodes) -> ir.Value:
    """The codes as int32, in their shape."""
    before, least = editor.start, codes.least
    numbers = codes.codes.astype(np.int32) - least
    if codes.mask is None:
        found = unpack_codes(editor, numbers.reshape(len(numbers), -1), codes.bits, codes.name, before)
    else:
        mask = codes.mask.reshape(len(codes.mask), -1)
        flat = numbers.reshape(mask.shape)[mask]
        kept = editor.reshape(unpack_codes(editor, flat[None], codes.bits, codes.name, before), [-1], before)
        rest = editor.constant(np.array(codes.rest - least, np.int32), "pruned")
        bits = unpack_mask(editor, mask, codes.name, before)
        if codes.counted:
            found = spread_kept(editor, kept, bits, rest, mask.shape, before)
        else:
            found = expand_kept(editor, kept, len(flat), bits, rest, mask.shape, before)
    if least:
        found = editor.add_node("Add", [found, editor.constant(np.array(least, np.int32), "least")], before)
    return found if codes.codes.ndim == 2 else editor.reshape(found, codes.codes.shape, before)


def _make_scales(editor: GraphEditor, codes: ScaledCodes) -> ir.Value:
    """As float32; scales by block are many, and kept in half of the bytes where that is exact."""
    if not codes.block:
        return editor.constant(codes.scale, f"{codes.name}.scale")
    table = editor.half_if_exact(codes.scale, f"{codes.name}.scale")
    return table if table.dtype == ir.DataType.FLOAT else editor.add_shared("Cast", [table], editor.start, to=ir.DataType.FLOAT)


def _gather(editor: GraphEditor, table: ir.Value, index: ir.Value, before: ir.Node) -> ir.Value:
    return editor.add_node("Gather", [table, index], before, axis=0)
