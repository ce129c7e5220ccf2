"""A graph being edited: nodes put in before others, constants that are there once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

OURS = "trimodal_"
"""What the names of nodes begin with that were put in: what they compute from constants is never computed beforehand."""



class GraphEditor:
    """Adds nodes and initializers to `graph`; equal constants and equal shared nodes are made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._shared: dict[tuple[Any, ...], ir.Value] = {}
        self._count = 0
        self._start: ir.Node = graph[0]

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
        node = ir.node(kind, inputs, attributes=attributes, name=f"{OURS}{kind}_{self._count}")
        node.outputs[0].name = f"{OURS}{kind.lower()}_{self._count}"
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def add_shared(self, kind: str, inputs: Sequence[ir.Value], before: ir.Node, **attributes: Any) -> ir.Value:
        """As `add_node`, but the node of an earlier call with the same inputs if there is one: it must come before in the graph, as
        that of an earlier user of the same value does."""
        key = (kind, *(id(value) for value in inputs), *sorted((name, str(value)) for name, value in attributes.items()))
        if key not in self._shared:
            self._shared[key] = self.add_node(kind, inputs, before, **attributes)
        return self._shared[key]

    def add_to_output(self, node: ir.Node, more: ir.Value) -> None:
        """Let all that takes the output of `node` take its sum with `more`."""
        output = node.outputs[0]
        found = self.add_node("Add", [more, more], node)
        total = found.producer()
        assert total is not None
        self.replace_value(output, found)
        total.replace_input_with(0, output)
        self.graph.remove(total)
        self.graph.insert_after(node, total)

    def replace_value(self, old: ir.Value, new: ir.Value) -> None:
        """Let `new` be what `old` was, also where it is one of the graph's outputs, which keep their names, types and shapes."""
        if old.is_graph_output():
            new.name, old.name = old.name, f"{OURS}inner_{self._count}"
            new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def cast(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        """`value` as numbers of another type."""
        found = self.add_node("Cast", [value], before, to=dtype)
        found.type = ir.TensorType(dtype)
        return found

    def reshape(self, value: ir.Value, shape: Sequence[int], before: ir.Node) -> ir.Value:
        """`value` in a shape known beforehand, -1 for what is left."""
        found = self.add_node("Reshape", [value, self.constant(np.array(shape, np.int64), "shape")], before)
        found.type = value.type
        return found

    def split_last(self, value: ir.Value, lengths: Sequence[int], before: ir.Node) -> ir.Value:
        """(…, a·b) -> (…, a, b)."""
        shape = self.add_node("Shape", [value], before, end=-1)
        whole = self.add_node("Concat", [shape, self.constant(np.array(lengths, np.int64), "lengths")], before, axis=0)
        return self.add_node("Reshape", [value, whole], before)

    def join_last(self, value: ir.Value, length: int, count: int, before: ir.Node) -> ir.Value:
        """(…, a, b) -> (…, a·b), `length` in all, of the last `count` dimensions."""
        shape = self.add_node("Shape", [value], before, end=-count)
        whole = self.add_node("Concat", [shape, self.constant(np.array([length], np.int64), "length")], before, axis=0)
        return self.add_node("Reshape", [value, whole], before)

    def take_first_columns(self, value: ir.Value, columns: int, before: ir.Node) -> ir.Value:
        """(rows, more) -> (rows, `columns`)."""
        start, end, axis = (self.constant(np.array([n], np.int64), f"at_{n}") for n in (0, columns, 1))
        return self.add_node("Slice", [value, start, end, axis], before)

    def half_if_exact(self, numbers: np.ndarray, name: str) -> ir.Value:
        """float32 `numbers`, kept as float16 where that is what they are."""
        with np.errstate(over="ignore"):
            half = numbers.astype(np.float16)
        return self.constant(half if np.array_equal(half.astype(np.float32), numbers) else numbers, name)

    @property
    def start(self) -> ir.Node:
        """The first node, before which what is made of constants alone has its place. None of ours comes before the graph's own."""
        return self._start

    def remove_unused_initializers_(self) -> None:
        """Drop tensors and nodes that nothing uses any longer."""
        for node in reversed(list(self.graph)):
            if all(not out.uses() and not out.is_graph_output() for out in node.outputs):
                self.graph.remove(node, safe=True)
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]

    def _free_name(self, name: str) -> str:
        free, number = name, 1
        while free in self.graph.initializers:
            free, number = f"{name}_{number}", number + 1
        return free
