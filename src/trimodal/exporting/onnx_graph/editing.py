"""A graph being edited: nodes put in before others, constants that are there once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from trimodal.exporting.onnx_graph.integer_tensors import ScaledCodes


class GraphEditor:
    """Adds nodes and initializers to `graph`; equal constants and equal shared nodes are made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._shared: dict[tuple[Any, ...], ir.Value] = {}
        self._count = 0

    def constant(self, array: np.ndarray, name: str, dtype: ir.DataType | None = None) -> ir.Value:
        """An initializer with the numbers of `array`, stored as `dtype` if that is not its own; an equal one if there is one."""
        key = (array.tobytes(), array.shape, str(array.dtype), dtype)
        if key not in self._constants:
            tensor = ir.tensor(array, dtype=dtype, name=self._free_name(name))
            value = ir.Value(name=tensor.name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
            self.graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def add_node(self, kind: str, inputs: Sequence[ir.Value | None], before: ir.Node, **attributes: Any) -> ir.Value:
        """A node of `kind` put in before another: its output."""
        self._count += 1
        node = ir.node(kind, inputs, attributes=attributes, name=f"trimodal_{kind}_{self._count}")
        node.outputs[0].name = f"trimodal_{kind.lower()}_{self._count}"
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def add_shared(self, kind: str, inputs: Sequence[ir.Value], before: ir.Node, **attributes: Any) -> ir.Value:
        """As `add_node`, but the node of an earlier call with the same inputs if there is one: it must come before in the graph, as
        that of an earlier user of the same value does."""
        key = (kind, *(id(value) for value in inputs), *sorted(attributes.items()))
        if key not in self._shared:
            self._shared[key] = self.add_node(kind, inputs, before, **attributes)
        return self._shared[key]

    def dequantize(self, codes: ScaledCodes, before: ir.Node) -> ir.Value:
        """The weight that the codes stand for."""
        scale = self._scales(codes, before)
        parts: list[ir.Value] = [self.constant(codes.codes, f"{codes.name}.codes", codes.dtype), scale]
        if codes.zero is not None:
            parts.append(self.constant(codes.zero, f"{codes.name}.zero", codes.dtype))
        blocks = {"block_size": codes.block} if codes.block else {}
        return self.add_shared("DequantizeLinear", parts, before, axis=codes.axis, **blocks)

    def dequantize_rows(self, codes: ScaledCodes, index: ir.Value, before: ir.Node) -> ir.Value:
        """The rows at `index` of any shape: (…, columns), of codes with a scale per row or per block of a row."""
        wide = ir.DataType.UINT8 if codes.zero is not None else ir.DataType.INT8
        numbers = self._gather(self.constant(codes.codes, f"{codes.name}.codes", codes.dtype), index, before)
        value = self.add_node("Cast", [numbers], before, to=ir.DataType.FLOAT)
        blocks, columns = (codes.scale.shape[1] if codes.block else 1), codes.codes.shape[1]
        scale = codes.scale.reshape(len(codes.scale), blocks, 1)
        value = self._split_last(value, [blocks, columns // blocks], before)
        if codes.zero is not None:
            zero = self.constant(codes.zero.reshape(scale.shape), f"{codes.name}.zeros", codes.dtype if codes.dtype != wide else None)
            taken = self.add_node("Cast", [self._gather(zero, index, before)], before, to=ir.DataType.FLOAT)
            value = self.add_node("Sub", [value, taken], before)
        table = self._half_if_exact(scale, f"{codes.name}.scales")
        taken = self._gather(table, index, before)
        if table.dtype != ir.DataType.FLOAT:
            taken = self.add_node("Cast", [taken], before, to=ir.DataType.FLOAT)
        value = self.add_node("Mul", [value, taken], before)
        return self._join_last(value, columns, before)

    def remove_unused_initializers_(self) -> None:
        """Drop tensors and nodes that nothing uses any longer."""
        for node in reversed(list(self.graph)):
            if all(not out.uses() and not out.is_graph_output() for out in node.outputs):
                self.graph.remove(node, safe=True)
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]

    def _scales(self, codes: ScaledCodes, before: ir.Node) -> ir.Value:
        if not codes.block:
            return self.constant(codes.scale, f"{codes.name}.scale")
        table = self._half_if_exact(codes.scale, f"{codes.name}.scale")
        return table if table.dtype == ir.DataType.FLOAT else self.add_shared("Cast", [table], before, to=ir.DataType.FLOAT)

    def _half_if_exact(self, scale: np.ndarray, name: str) -> ir.Value:
        """Scales by block are many: float16 where that is what they are."""
        with np.errstate(over="ignore"):
            half = scale.astype(np.float16)
        return self.constant(half if np.array_equal(half.astype(np.float32), scale) else scale, name)

    def _gather(self, table: ir.Value, index: ir.Value, before: ir.Node) -> ir.Value:
        return self.add_node("Gather", [table, index], before, axis=0)

    def _split_last(self, value: ir.Value, lengths: Sequence[int], before: ir.Node) -> ir.Value:
        """(…, a·b) -> (…, a, b)."""
        return self._reshape_last(value, lengths, before)

    def _join_last(self, value: ir.Value, length: int, before: ir.Node) -> ir.Value:
        """(…, a, b) -> (…, a·b)."""
        shape = self.add_node("Shape", [value], before, end=-2)
        whole = self.add_node("Concat", [shape, self.constant(np.array([length], np.int64), "length")], before, axis=0)
        return self.add_node("Reshape", [value, whole], before)

    def _reshape_last(self, value: ir.Value, lengths: Sequence[int], before: ir.Node) -> ir.Value:
        shape = self.add_node("Shape", [value], before, end=-1)
        whole = self.add_node("Concat", [shape, self.constant(np.array(lengths, np.int64), "lengths")], before, axis=0)
        return self.add_node("Reshape", [value, whole], before)

    def _free_name(self, name: str) -> str:
        free, number = name, 1
        while free in self.graph.initializers:
            free, number = f"{name}_{number}", number + 1
        return free
