"""What the checks ask of a written graph, whoever's file it is: values, nodes, and pieces cut out.

Nodes are called as ONNX calls them. A value is what the file's own library has for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

Value = Any
Node = Any
Open = Callable[[Path], "WrittenGraph"]


class WrittenGraph(Protocol):
    """One file's graph."""

    def find_tensor(self, name: str) -> Value | None:
        """The constant of that name."""

    def read_tensor(self, name: str) -> NDArray[Any] | None:
        """The numbers of the constant of that name, of any shape."""

    def list_users(self, value: Value) -> Sequence[tuple[Node, int]]:
        """The nodes that take `value`, and as which of their inputs."""

    def list_sources(self, node: Node) -> Sequence[Value]:
        """What the node takes, in order."""

    def get_output(self, node: Node) -> Value:
        """What the node gives, the first of it."""

    def get_kind(self, node: Node) -> str:
        """What the node does, as ONNX calls it."""

    def takes_transposed(self, node: Node) -> bool:
        """Whether a product turns its second matrix round before it multiplies, so that this one is (out, in)."""

    def get_maker(self, value: Value) -> Node | None:
        """The node that gives `value`; None of an input or a constant."""

    def get_name(self, value: Value) -> str:
        """What the file calls `value`."""

    def is_constant(self, value: Value) -> bool:
        """Whether it is made of constants alone."""

    def find_quantized(self, value: Value) -> Value | None:
        """What was quantized and dequantized into `value`; None where it was not."""

    def cut(self, starts: Mapping[str, tuple[Value, Sequence[int]]], ends: Sequence[Value], file: Path) -> Sequence[str]:
        """Write into `file` what leads from `starts`, which become inputs of these shapes, to `ends`, its outputs in
        order; what the inputs are called."""


def find_product(graph: WrittenGraph, path: str, kinds: Sequence[str]) -> Node | None:
    """The node of one of `kinds` that the codes of the layer at `path` go into."""
    waiting = list(graph.list_users(value)) if (value := find_codes(graph, path)) is not None else []
    while waiting:
        node, place = waiting.pop()
        if graph.get_kind(node) in kinds and place == 1:
            return node
        if graph.is_constant(graph.get_output(node)):
            waiting += graph.list_users(graph.get_output(node))
    return None


def find_codes(graph: WrittenGraph, path: str) -> Value | None:
    """The constant with the codes of the layer at `path`, or with the upper bits of them."""
    names = (f"{path}.{end}" for end in ("codes", "bits4", "bits2", "bits1"))
    return next((value for name in names if (value := graph.find_tensor(name)) is not None), None)
