"""Convolutional networks in bytes throughout: every map between two convolutions, sums of residual streams included, is quantized once.

    x ─┬─ Q → DQ ─┬─ Conv → Relu ─ Q → DQ ─ Conv → Relu ─ Q → DQ ─ Conv ─ Q → DQ ┐
                  │                                                              Add → Relu ─ Q → DQ ─ …
                  └──────────────────────────────────────────────────────────────┘

ONNX Runtime convolves bytes only where the sums become bytes at once, and both runtimes add bytes only where both sides and the sum are.
A map that coded convolutions read has the range that these have. One that goes into a sum or a mean has that which was measured on real
samples (`samples.py`), as far as it makes a difference: below −(the other term's largest number) a ReLU behind the sum gives 0 anyway.
Which maps can be bytes is found in the graph as it was traced (`find_byte_maps`), since that says which codes a runtime can use; what
reads them is turned to them once the codes are in (`quantize_maps_`). Equal quantizations become one when the graph is tidied.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from trimodal.exporting.layer_codes import LayerCodes
from trimodal.exporting.map_grids import MapGrid
from trimodal.exporting.onnx_graph.editing import GraphEditor
from trimodal.exporting.onnx_graph.float_graph import SCOPES

_SUMS = ("Add", "MaxPool", "GlobalAveragePool", "AveragePool", "ReduceMean")
"""What takes bytes as they are, or as floats that are made of them."""

Ranges = Mapping[str, tuple[float, float]]
"""The least and the largest number that a layer gave on real samples, by its path."""


@dataclass
class ByteMaps:
    """The maps that are to be bytes: by value; by the layer that makes them and its call, as `map_grids` has it; and the paths of the
    convolutions whose sums become one of them at once."""

    grids: dict[ir.Value, MapGrid] = field(default_factory=dict)
    made: dict[str, dict[int, MapGrid]] = field(default_factory=dict)
    layers: set[str] = field(default_factory=set)


def find_byte_maps(
    graph: ir.Graph, names: Mapping[int, Sequence[str]], layers: Iterable[LayerCodes], makers: Collection[str], ranges: Ranges
) -> ByteMaps:
    """The maps that can be bytes in `graph`, which is as it was traced.

    Args:
        graph: the component's.
        names: what initializers are called, by the `id` of the parameter.
        layers: what is stored of each layer.
        makers: the paths of the layers that make maps. What others give cannot be rounded in the model, so that nobody knew the cost.
        ranges: what was measured; may be empty.
    """
    search = _MapSearch(_find_convolutions(graph, names, layers), _find_calls(graph, makers), ranges)
    for node in graph:
        search.visit(node)
    return search.found


def _find_convolutions(
    graph: ir.Graph, names: Mapping[int, Sequence[str]], layers: Iterable[LayerCodes]
) -> dict[ir.Node, LayerCodes]:
    """The convolutions that take 8-bit codes of a range that is known, and nothing that would have to be multiplied first."""
    found = {}
    for codes in layers:
        plain = codes.input is not None and codes.input.static and codes.input.bits == 8 and codes.columns is None
        if not plain or len(codes.shape) < 3 or codes.affine is None:
            continue
        weights = [graph.initializers[name] for name in names.get(id(codes.parameter), ()) if name in graph.initializers]
        uses = [use for weight in weights for use in weight.uses()]
        if len(uses) == 1 and uses[0].node.op_type == "Conv" and uses[0].idx == 1:
            found[uses[0].node] = codes
    return found


def _find_calls(graph: ir.Graph, makers: Collection[str]) -> dict[ir.Node, tuple[str, int]]:
    """By node, the layer that it was traced in, if that is one of `makers`, and the number of the call."""
    calls: Counter[str] = Counter()
    found = {}
    for node in graph:
        scopes: list[str] = ast.literal_eval(node.metadata_props.get(SCOPES, "[]")) if node.op_type in ("Conv", "Relu") else []
        path = scopes[-2].removeprefix("model.") if len(scopes) > 1 else ""
        if path in makers:
            found[node] = path, calls[path]
            calls[path] += 1
    return found


class _MapSearch:
    """Goes through a graph from front to back, and finds for each value whether it can be bytes, and on which grid."""

    def __init__(self, readers: Mapping[ir.Node, LayerCodes], calls: Mapping[ir.Node, tuple[str, int]], ranges: Ranges) -> None:
        self._readers, self._calls, self._ranges, self.found = readers, calls, ranges, ByteMaps()

    def visit(self, node: ir.Node) -> None:
        """Find what becomes of the output of `node`, whose inputs were found before."""
        if node in self._readers:
            if self._settle(node.outputs[0]):
                self.found.layers.add(self._readers[node].path)
        elif node.op_type == "Add":
            self._settle(node.outputs[0], self._has_bytes(node))
        elif node.op_type == "MaxPool" and self._has_bytes(node):
            self._settle(node.outputs[0])

    def _has_bytes(self, node: ir.Node) -> bool:
        return all(value in self.found.grids for value in node.inputs)

    def _settle(self, value: ir.Value, unread: bool = True) -> bool:
        """Whether `value`, or what a Relu makes of it, can be bytes; unless `unread`, only if convolutions read them."""
        uses = list(value.uses())
        behind = uses[0].node if len(uses) == 1 and uses[0].node.op_type == "Relu" else None
        place = value if behind is None else behind.outputs[0]
        grid = self._find_grid(place)
        if grid is None or not (unread or self._list_grids(place)):
            return False
        self.found.grids[place] = grid
        if (called := self._find_call(place)) is not None:
            path, call = called
            self.found.made.setdefault(path, {})[call] = grid
        return True

    def _find_call(self, value: ir.Value) -> tuple[str, int] | None:
        """The layer that makes `value`, and the number of its call; None where none does that can be rounded in the model."""
        maker = value.producer()
        return None if maker is None else self._calls.get(maker)

    def _list_grids(self, value: ir.Value) -> set[MapGrid]:
        """Those of the convolutions that read `value`."""
        return {_grid_of(self._readers[use.node]) for use in value.uses() if use.node in self._readers}

    def _find_grid(self, value: ir.Value) -> MapGrid | None:
        """That of the convolutions that read `value`, if they agree; without any that of a pooling behind it, or one that is made."""
        users, maker = [use.node for use in value.uses()], value.producer()
        if not users or value.is_graph_output() or not all(user in self._readers or user.op_type in _SUMS for user in users):
            return None
        wanted, pools = self._list_grids(value), all(user.op_type == "MaxPool" for user in users)
        if pools:
            wanted = {grid for user in users if (grid := self._find_grid(user.outputs[0])) is not None}
        rounded = pools or (maker is not None and maker.op_type == "MaxPool") or self._find_call(value) is not None
        if len(wanted) == 1 and (rounded or all(user in self._readers for user in users)):
            return wanted.pop()
        return None if wanted or pools or not rounded else self._make_grid(value, users)

    def _make_grid(self, value: ir.Value, users: Sequence[ir.Node]) -> MapGrid | None:
        """From what was measured, and what bounds it by the sum that it goes into: the narrower at either end."""
        called = self._find_call(value)
        measured = None if called is None else self._ranges.get(called[0])
        known = [ends for ends in (measured, self._bound_by_sum(value, users)) if ends is not None]
        return MapGrid.of_range(max(low for low, _ in known), min(high for _, high in known)) if known else None

    def _bound_by_sum(self, value: ir.Value, users: Sequence[ir.Node]) -> tuple[float, float] | None:
        """Beyond which `value` makes no difference to relu(value + other): the sum is cut off at 0 and where its range ends, and the
        other term has a range too."""
        node = users[0]
        others = [self.found.grids.get(term) for term in node.inputs if term is not value and term is not None]
        behind = [use.node for use in node.outputs[0].uses()]
        if len(users) > 1 or node.op_type != "Add" or len(others) != 1 or [one.op_type for one in behind] != ["Relu"]:
            return None
        other, total = others[0], self._find_grid(behind[0].outputs[0])
        return None if other is None or total is None else (-other.high, total.high - other.low)


def _grid_of(codes: LayerCodes) -> MapGrid:
    assert codes.input is not None and codes.input.scale is not None
    return MapGrid(codes.input.scale, codes.input.zero)


def quantize_maps_(graph: ir.Graph, maps: ByteMaps) -> None:
    """Let sums, poolings and means read the bytes of `maps`."""
    editor = GraphEditor(graph)
    for value, grid in maps.grids.items():
        uses = [use for use in value.uses() if use.node.op_type in _SUMS]
        if not uses:
            continue
        scale = editor.constant(np.array(grid.scale, np.float32), "map_scale")
        zero = editor.constant(np.array(grid.zero, np.uint8), "map_zero")
        coded = editor.add_node("QuantizeLinear", [value, scale, zero], uses[0].node)
        plain = editor.add_node("DequantizeLinear", [coded, scale, zero], uses[0].node)
        for use in uses:
            use.node.replace_input_with(use.idx, plain)
    graph.sort()
