"""Codes of any number of bits in a file that takes no more: bytes full of codes, and the operators that take them apart.

ONNX has types of 4 and 8 bits. Codes of 2, 3, 5, 6 or 7 are cut into parts of 4, 2 and 1 bits, each of which fills bytes, the first
code in the lowest bits. 3 bits, codes (6, 1, 4, 7): parts of 2 bits (2, 1, 0, 3) in one byte, 2 + 4·1 + 16·0 + 64·3 = 198, and
of 1 bit (1, 0, 1, 1) in half a byte, 1 + 4 + 8 = 13.

    code = Σ (byte div 2^place mod 2^width) · 2^shift

Divisions and remainders of int32 and no shifts, since OpenVINO folds those when it loads the file and computes with 4-bit weights
afterwards; its own left shift of bytes saturates. Of a sparse weight only the codes of the kept weights are there, and one
bit per weight says which those are: the n-th kept one takes the n-th code.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from trimodal.exporting.onnx_graph.editing import GraphEditor

_PARTS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}


def unpack_codes(
    editor: GraphEditor, codes: np.ndarray, bits: int, name: str, before: ir.Node, index: ir.Value | None = None
) -> ir.Value:  # fmt: skip
    """The `codes` (rows, columns), whole numbers in [0, 2^`bits`), as an int32 value; with `index` (n,) only the rows there."""
    if bits >= 8:
        stored = editor.constant(codes.astype(np.uint8 if bits == 8 else np.uint16), f"{name}.codes")
        return editor.cast(_take_rows(editor, stored, index, before), ir.DataType.INT32, before)
    shift, found = 0, None
    for width in _PARTS[bits]:
        part = _unpack_part(editor, pack_part(codes, width, shift), width, codes.shape[1], name, before, index)
        if shift:
            part = editor.add_node("Mul", [part, _integer(editor, 2**shift)], before)
        found = part if found is None else editor.add_node("Add", [found, part], before)
        shift += width
    assert found is not None
    return found


def pack_part(codes: np.ndarray, width: int, shift: int) -> np.ndarray:
    """Bits `shift` to `shift` + `width` of the codes (rows, columns), as bytes (rows, ⌈columns · `width` / 8⌉)."""
    each = 8 // width
    part = (codes.astype(np.uint16) >> shift) & (2**width - 1)
    padded = np.pad(part, ((0, 0), (0, -codes.shape[1] % each))).reshape(len(codes), -1, each)
    places: np.ndarray = (padded << (np.arange(each) * width)).sum(axis=2)
    return places.astype(np.uint8)


def unpack_mask(editor: GraphEditor, mask: np.ndarray, name: str, before: ir.Node) -> ir.Value:
    """The bool `mask` (rows, columns) as int32 zeros and ones, from one bit each."""
    return _unpack_part(editor, pack_part(mask, 1, 0), 1, mask.shape[1], f"{name}.mask", before, None)


def expand_kept(
    editor: GraphEditor, kept: ir.Value, count: int, mask: ir.Value, rest: ir.Value, shape: tuple[int, int], before: ir.Node
) -> ir.Value:  # fmt: skip
    """What is `kept` (`count`,) of a matrix of `shape`, one after the other, where `mask` int32 is 1, and `rest` elsewhere."""
    found = editor.add_node("NonZero", [editor.reshape(mask, [-1], before)], before)
    places = editor.reshape(found, [count], before)
    length = editor.constant(np.array([math.prod(shape)], np.int64), "length")
    empty = editor.add_node("Expand", [rest, length], before)
    return editor.reshape(editor.add_node("ScatterElements", [empty, places, kept], before, axis=0), list(shape), before)


def spread_kept(
    editor: GraphEditor, kept: ir.Value, mask: ir.Value, rest: ir.Value, shape: tuple[int, int], before: ir.Node
) -> ir.Value:  # fmt: skip
    """The same as `expand_kept` by counting along the mask, after which ONNX Runtime still finds 4-bit codes that it can multiply;
    OpenVINO does not compute this beforehand, and multiplies floats."""
    flat = editor.reshape(mask, [-1], before)
    count = editor.add_node("CumSum", [flat, _integer(editor, 0)], before)
    place = editor.add_node("Max", [editor.add_node("Sub", [count, _integer(editor, 1)], before), _integer(editor, 0)], before)
    spread = editor.add_node("Gather", [kept, place], before, axis=0)
    chosen = editor.add_node("Where", [editor.cast(flat, ir.DataType.BOOL, before), spread, rest], before)
    return editor.reshape(chosen, list(shape), before)


def _unpack_part(
    editor: GraphEditor, packed: np.ndarray, width: int, columns: int, name: str, before: ir.Node, index: ir.Value | None
) -> ir.Value:  # fmt: skip
    """Numbers of `width` bits, int32 (rows, columns), from bytes (rows, bytes)."""
    each = 8 // width
    stored = editor.constant(packed[:, :, None], f"{name}.bits{width}")
    whole = editor.cast(_take_rows(editor, stored, index, before), ir.DataType.INT32, before)
    places = editor.constant((2 ** (np.arange(each) * width)).astype(np.int32), f"places{width}")
    moved = editor.add_node("Div", [whole, places], before)
    numbers = editor.add_node("Mod", [moved, _integer(editor, 2**width)], before)
    rows = editor.reshape(numbers, [-1, packed.shape[1] * each], before)
    return rows if packed.shape[1] * each == columns else editor.take_first_columns(rows, columns, before)


def _take_rows(editor: GraphEditor, table: ir.Value, index: ir.Value | None, before: ir.Node) -> ir.Value:
    return table if index is None else editor.add_node("Gather", [table, index], before, axis=0)


def _integer(editor: GraphEditor, number: int) -> ir.Value:
    return editor.constant(np.array(number, np.int32), f"int{number}")
