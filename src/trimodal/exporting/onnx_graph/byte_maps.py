"""Convolutional networks in bytes throughout: every map between two convolutions, the sums of residual streams included, is quantized once.

    x ─┬─ Q → DQ ─┬─ Conv → Relu ─ Q → DQ ─ Conv → Relu ─ Q → DQ ─ Conv ─ Q → DQ ┐
                  │                                                              Add → Relu ─ Q → DQ ─ …
                  └──────────────────────────────────────────────────────────────┘

ONNX Runtime convolves bytes only where the sums become bytes at once, and both runtimes add bytes only where both sides and the sum are.
A map that coded convolutions read has the range that these have; one that goes into a sum or a mean has that which was measured on
real samples (`samples.py`). Which maps can be bytes is found in the graph as it was traced (`find_byte_maps`), since that says which
codes a runtime can use; what reads them is turned to them once the codes are in (`quantize_maps_`). Equal quantizations become one when
the graph is tidied.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import torch

from trimodal.exporting.layer_codes import LayerCodes
from trimodal.exporting.onnx_graph.editing import GraphEditor
from trimodal.exporting.onnx_graph.float_graph import SCOPES
from trimodal.maths.observers import grid_from_range

_SUMS = ("Add", "MaxPool", "GlobalAveragePool", "AveragePool", "ReduceMean")
"""What takes bytes as they are, or as floats that are made of them."""

Ranges = Mapping[str, tuple[float, float]]
"""The least and the largest number that a module gave on real samples, by its path."""


@dataclass(frozen=True)
class ByteGrid:
    """round(x / `scale`) + `zero`, a byte without a sign."""

    scale: float
    zero: int


@dataclass
class ByteMaps:
    """The maps that are to be bytes, by value, and the convolutions whose sums become one of them at once, by path."""

    grids: dict[ir.Value, ByteGrid] = field(default_factory=dict)
    layers: set[str] = field(default_factory=set)


def find_byte_maps(graph: ir.Graph, names: Mapping[int, Sequence[str]], layers: Iterable[LayerCodes], ranges: Ranges) -> ByteMaps:
    """The maps that can be bytes in `graph`, which is as it was traced; `names` are those of initializers by the `id` of the parameter."""
    readers = _find_convolutions(graph, names, layers)
    search = _MapSearch(readers, ranges)
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


class _MapSearch:
    """Goes through a graph from front to back, and finds for each value whether it can be bytes, and on which grid."""

    def __init__(self, readers: Mapping[ir.Node, LayerCodes], ranges: Ranges) -> None:
        self._readers, self._ranges, self.found = readers, ranges, ByteMaps()

    def visit(self, node: ir.Node) -> None:
        """Find what becomes of the output of `node`, whose inputs were found before."""
        if node in self._readers:
            if self._settle(node.outputs[0]):
                self.found.layers.add(self._readers[node].path)
        elif node.op_type in ("Add", "MaxPool") and all(value in self.found.grids for value in node.inputs):
            self._settle(node.outputs[0])

    def _settle(self, value: ir.Value) -> bool:
        """Whether `value`, or what a Relu makes of it, can be bytes."""
        uses = list(value.uses())
        behind = uses[0].node if len(uses) == 1 and uses[0].node.op_type == "Relu" else None
        place = value if behind is None else behind.outputs[0]
        grid = self._find_grid(place)
        if grid is None:
            return False
        self.found.grids[place] = grid
        return True

    def _find_grid(self, value: ir.Value) -> ByteGrid | None:
        """That of the convolutions that read `value`, if they agree; without any that of a pooling behind it, or what was measured."""
        users = [use.node for use in value.uses()]
        if value.is_graph_output() or not all(user in self._readers or user.op_type in _SUMS for user in users):
            return None
        wanted = {_grid_of(self._readers[user]) for user in users if user in self._readers}
        if wanted:
            return wanted.pop() if len(wanted) == 1 else None
        if users and all(user.op_type == "MaxPool" for user in users):
            behind = {self._find_grid(user.outputs[0]) for user in users}
            return behind.pop() if len(behind) == 1 else None
        return self._measure(value) if users else None

    def _measure(self, value: ir.Value) -> ByteGrid | None:
        maker = value.producer()
        known = self._ranges.get(_path_of(maker)) if maker is not None else None
        if known is None:
            return None
        scale, zero = grid_from_range(torch.tensor(known[0]), torch.tensor(known[1]), 8)
        return ByteGrid(float(scale), int(zero))


def _grid_of(codes: LayerCodes) -> ByteGrid:
    assert codes.input is not None and codes.input.scale is not None
    return ByteGrid(codes.input.scale, codes.input.zero)


def _path_of(node: ir.Node) -> str:
    """The module in which `node` was traced, by its path in the model."""
    scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    return str(scopes[-2]).removeprefix("model.") if len(scopes) > 1 else ""


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
