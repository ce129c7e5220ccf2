"""Weights whose stored form no integer kernel takes: kept small in the file, and decoded by standard operators.

All that a weight is decoded from is constant, so runtimes decode it once, when they load the file, and compute with floats from then
on. Rows of an embedding are decoded as they are looked up. What is done is what the store does (`layers/stored.py`), in its order:

    codes      unpacked (`packed_codes.py`), for a sparse weight spread over the places that its mask names
    levels     (code − zero) · scale, table[code] · scale, or code · step
    rotation   (Ŵ H) · signs, H in blocks, as two products with H_a and H_b where H = H_a ⊗ H_b
    columns    Ŵ · columns
    rank       Ŵ + left right
    outliers   Ŵ[places] ← outliers
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from trimodal.exporting.layer_codes import LayerCodes
from trimodal.exporting.onnx_graph.editing import GraphEditor
from trimodal.exporting.onnx_graph.packed_codes import expand_kept, unpack_codes, unpack_mask
from trimodal.layers.affine import NotAffine
from trimodal.layers.stored import CodedWeight, SparseWeight
from trimodal.maths.codebook import Codebook
from trimodal.maths.grid import Grid
from trimodal.maths.integers import IntegerGrid
from trimodal.maths.packing import unpack_codes as unpack_stored
from trimodal.maths.transform import hadamard

_LARGEST_FACTOR = 16  # of a rotation: a block of 4096 is 64 ⊗ 64 and not a matrix of 64 MB, one of 64 is 8 ⊗ 8


@dataclass(frozen=True)
class WeightDecoder:
    """Puts what decodes one layer's weight into a graph, before the node `before`; equal constants are there once."""

    editor: GraphEditor
    codes: LayerCodes
    before: ir.Node

    @property
    def reason(self) -> str:
        """Why the weight is no codes to a runtime."""
        found = self.codes.weight
        return found.reason if isinstance(found, NotAffine) else "its blocks or zero-points are not those that integer kernels take"

    @property
    def takes_rows(self) -> bool:
        """Whether single rows can be decoded without the others."""
        options = self.codes.store.options
        return isinstance(self.codes.store, CodedWeight) and not {"kept", "outliers"} & options.keys()

    def decode(self, without: Collection[str] = ()) -> ir.Value:
        """The float32 weight in its own shape, `without` some of the parts by the names of their storage options."""
        shape = list(self.codes.shape)
        found = self._decode_sparse() if isinstance(self.codes.store, SparseWeight) else self._decode_coded(None, without)
        return found if len(shape) == 2 else self.editor.reshape(found, shape, self.before)

    def decode_rows(self, index: ir.Value) -> ir.Value:
        """The rows at `index`, of any shape: (…, columns)."""
        flat = self.editor.reshape(index, [-1], self.before)
        rows = self._decode_coded(flat, ())
        shape = self.editor.add_node("Shape", [index], self.before)
        last = self.editor.constant(np.array([self._columns], np.int64), "length")
        return self.editor.add_node("Reshape", [rows, self.editor.add_node("Concat", [shape, last], self.before, axis=0)], self.before)

    @property
    def _columns(self) -> int:
        return math.prod(self.codes.shape[1:])

    def _decode_sparse(self) -> ir.Value:
        store = self.codes.store
        assert isinstance(store, SparseWeight)
        values = self._floats(store.values, "values")
        mask = unpack_mask(self.editor, store.kept_mask.numpy(), self.codes.path, self.before)
        zero = self.editor.constant(np.array(0, np.float32), "zero")
        return expand_kept(self.editor, values, len(store.values), mask, zero, (store.shape[0], self._columns), self.before)

    def _decode_coded(self, index: ir.Value | None, without: Collection[str]) -> ir.Value:
        store = self.codes.store
        assert isinstance(store, CodedWeight)
        value, parts = self._decode_levels(store, index), store._buffers
        if "rotation" not in without and (signs := parts.get("signs")) is not None:
            value = self._unrotate(value, unpack_stored(signs, 1, self._columns).float() * 2 - 1, store.options["rotation"])
        if "columns" not in without and (factor := parts.get("columns")) is not None:
            value = self._add("Mul", value, self._floats(factor, "columns"))
        if "kept" in store.options:
            return value
        left, right = parts.get("left"), parts.get("right")
        if "rank" not in without and left is not None and right is not None:
            taken = self._take(self._floats(left, "left"), index)
            value = self._add("Add", value, self._add("MatMul", taken, self._floats(right, "right")))
        values, places = parts.get("outliers"), parts.get("places")
        if values is not None and places is not None:
            value = self._insert_outliers(value, values, places)
        return value

    def _decode_levels(self, store: CodedWeight, index: ir.Value | None) -> ir.Value:
        levels, codes = store.levels_and_codes
        if isinstance(levels, IntegerGrid):
            return self._decode_integers(levels, codes, index)
        if "kept" not in store.options:
            numbers = unpack_codes(self.editor, codes.numpy(), levels.bits, self.codes.path, self.before, index)
            return self._decode_grid(levels, numbers, index) if isinstance(levels, Grid) else self._decode_table(levels, numbers, index)
        numbers, mask = self._spread_codes(store, levels.bits)
        value = self._decode_grid(levels, numbers, None) if isinstance(levels, Grid) else self._decode_table(levels, numbers, None)
        zero = self.editor.constant(np.array(0, np.float32), "zero")
        return self.editor.add_node("Where", [self.editor.cast(mask, ir.DataType.BOOL, self.before), value, zero], self.before)

    def _spread_codes(self, store: CodedWeight, bits: int) -> tuple[ir.Value, ir.Value]:
        """The kept weights' codes in their places, and the mask, both int32 (rows, columns)."""
        shape = (store.shape[0], self._columns)
        mask = unpack_mask(self.editor, unpack_stored(store.get_buffer("mask"), 1, shape[1]).numpy(), self.codes.path, self.before)
        kept = unpack_stored(store.get_buffer("codes"), bits, store.options["kept"])
        packed = unpack_codes(self.editor, kept.numpy(), bits, self.codes.path, self.before)
        zero = self.editor.constant(np.array(0, np.int32), "int0")
        flat = self.editor.reshape(packed, [-1], self.before)
        return expand_kept(self.editor, flat, store.options["kept"], mask, zero, shape, self.before), mask

    def _decode_grid(self, grid: Grid, numbers: ir.Value, index: ir.Value | None) -> ir.Value:
        scale = self._per_group(self._scales(grid.float_scales()), index, len(grid.scale), grid.group)
        if grid.zero is None:
            zero = self.editor.constant(np.array(2.0 ** (grid.bits - 1), np.float32), "middle")
        else:
            zero = self._per_group(self._floats(grid.zero, "zero"), index, len(grid.zero), grid.group)
        return self._add("Mul", self._add("Sub", self._to_float(numbers), zero), scale)

    def _decode_table(self, book: Codebook, numbers: ir.Value, index: ir.Value | None) -> ir.Value:
        levels = self._floats(book.levels, "levels", 0 if book.scale is not None else book.exponent)
        found = self._look_up(book, levels, numbers, index)
        if book.scale is None:
            return found
        scale = self._per_group(self._floats(book.scale, "scale", book.exponent), index, len(book.scale), book.group)
        return self._add("Mul", found, scale)

    def _look_up(self, book: Codebook, levels: ir.Value, numbers: ir.Value, index: ir.Value | None) -> ir.Value:
        """table[code] with one table in all, or one for each row or group: a row's tables lie one after the other."""
        count = len(book.levels)
        if count == 1:
            return self.editor.add_node("Gather", [self.editor.reshape(levels, [-1], self.before), numbers], self.before, axis=0)
        each = count // self.codes.shape[0] * 2**book.bits
        row = self._count_rows() if index is None else self.editor.cast(index, ir.DataType.INT32, self.before)
        first = self._add("Mul", self.editor.reshape(row, [-1, 1], self.before), self.editor.constant(np.array(each, np.int32), "each"))
        place = self._add("Add", numbers, first)
        if book.per == "group":
            starts = (np.arange(book.columns) // book.group * 2**book.bits).astype(np.int32)
            place = self._add("Add", place, self.editor.constant(starts, "starts"))
        return self.editor.add_node("Gather", [self.editor.reshape(levels, [-1], self.before), place], self.before, axis=0)

    def _count_rows(self) -> ir.Value:
        ends = (self.editor.constant(np.array(n, np.int32), f"int{n}") for n in (0, self.codes.shape[0], 1))
        return self.editor.add_node("Range", list(ends), self.before)

    def _decode_integers(self, grid: IntegerGrid, codes: Tensor, index: ir.Value | None) -> ir.Value:
        """With as many bits as the range of the codes needs."""
        least = int(codes.min()) if codes.numel() else 0
        moved = (codes.int() - least).numpy()
        bits = max(1, int(moved.max(initial=0)).bit_length())
        numbers = unpack_codes(self.editor, moved, bits, self.codes.path, self.before, index)
        whole = self._add("Add", numbers, self.editor.constant(np.array(least, np.int32), "least"))
        return self._add("Mul", self._to_float(whole), self._floats(grid.scale, "step", grid.exponent))

    def _unrotate(self, value: ir.Value, signs: Tensor, block: int) -> ir.Value:
        value = rotate_blocks(self.editor, value, self._columns, block, self.before)
        return self._add("Mul", value, self._to_float(self.editor.constant(signs.to(torch.int8).numpy(), f"{self.codes.path}.signs")))

    def _insert_outliers(self, value: ir.Value, values: Tensor, places: Tensor) -> ir.Value:
        if not len(places):
            return value
        where = self.editor.constant(places.numpy(), f"{self.codes.path}.places")
        flat = self.editor.reshape(value, [-1], self.before)
        put = self.editor.add_node("ScatterElements", [flat, where, self._floats(values, "outliers")], self.before, axis=0)
        return self.editor.reshape(put, [self.codes.shape[0], self._columns], self.before)

    def _per_group(self, part: ir.Value, index: ir.Value | None, rows: int, group: int) -> ir.Value:
        """(rows, groups), or one for all of them, repeated along the columns."""
        taken = part if rows == 1 else self._take(part, index)
        if group >= self._columns:
            return taken
        groups = self.editor.constant((np.arange(self._columns) // group).astype(np.int32), f"groups_of_{group}")
        return self.editor.add_node("Gather", [taken, groups], self.before, axis=1)

    def _floats(self, tensor: Tensor, name: str, exponent: int = 0) -> ir.Value:
        """A stored tensor as float32, kept in the file in its own type, times a power of two."""
        kept = tensor.detach()
        kept = kept.float() if kept.dtype in (torch.float64, torch.bfloat16) else kept
        value = self._to_float(self.editor.constant(kept.numpy(), f"{self.codes.path}.{name}"))
        return self._add("Mul", value, self.editor.constant(np.array(2.0**exponent, np.float32), "power")) if exponent else value

    def _scales(self, scale: Tensor) -> ir.Value:
        """Scales float32, kept as those of a DequantizeLinear are, so that both are one tensor."""
        return self._to_float(self.editor.half_if_exact(scale.numpy(), f"{self.codes.path}.scale"))

    def _to_float(self, value: ir.Value) -> ir.Value:
        return value if value.dtype == ir.DataType.FLOAT else self.editor.cast(value, ir.DataType.FLOAT, self.before)

    def _take(self, table: ir.Value, index: ir.Value | None) -> ir.Value:
        return table if index is None else self.editor.add_node("Gather", [table, index], self.before, axis=0)

    def _add(self, kind: str, first: ir.Value, second: ir.Value) -> ir.Value:
        return self.editor.add_node(kind, [first, second], self.before)


def rotate_blocks(editor: GraphEditor, value: ir.Value, columns: int, block: int, before: ir.Node) -> ir.Value:
    """value H (…, columns), H Hadamard's matrix on every `block` columns: symmetric, so that it is its own inverse."""
    outer = 2 ** ((block.bit_length() - 1) // 2) if block > _LARGEST_FACTOR else 1
    inner = block // outer
    blocks = editor.split_last(value, [columns // block, outer, inner], before)
    turned = editor.add_node("MatMul", [blocks, _hadamard_matrix(editor, inner)], before)
    if outer > 1:
        turned = editor.add_node("MatMul", [_hadamard_matrix(editor, outer), turned], before)
    return editor.join_last(turned, columns, 3, before)


def _hadamard_matrix(editor: GraphEditor, size: int) -> ir.Value:
    return editor.constant(hadamard(torch.eye(size), size).numpy(), f"hadamard_{size}")
