"""An ONNX file as the checks walk through it: values are names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx.utils import Extractor


class OnnxFile:
    """The graph of an ONNX file."""

    def __init__(self, file: Path) -> None:
        model = onnx.load(str(file))
        self._extractor = Extractor(model)
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._users: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        self._constant = set(self._tensors) | {""}
        for node in model.graph.node:  # in an order in which each comes after what it takes
            for place, name in enumerate(node.input):
                self._users.setdefault(name, []).append((node, place))
            if set(node.input) <= self._constant:
                self._constant |= set(node.output)

    def find_tensor(self, name: str) -> str | None:
        """The constant of that name."""
        return name if name in self._tensors else None

    def read_tensor(self, name: str) -> NDArray[Any] | None:
        """The numbers of the constant of that name, of any shape."""
        return onnx.numpy_helper.to_array(self._tensors[name]) if name in self._tensors else None

    def list_users(self, value: str) -> Sequence[tuple[onnx.NodeProto, int]]:
        """The nodes that take `value`, and as which of their inputs."""
        return self._users.get(value, ())

    def list_sources(self, node: onnx.NodeProto) -> Sequence[str]:
        """What the node takes, in order."""
        return list(node.input)

    def get_output(self, node: onnx.NodeProto) -> str:
        """What the node gives, the first of it."""
        return str(node.output[0])

    def get_kind(self, node: onnx.NodeProto) -> str:
        """What the node does."""
        return str(node.op_type)

    def takes_transposed(self, node: onnx.NodeProto) -> bool:
        """Whether a product turns its second matrix round: a Gemm may."""
        return any(attribute.name == "transB" and attribute.i == 1 for attribute in node.attribute)

    def get_maker(self, value: str) -> onnx.NodeProto | None:
        """The node that gives `value`."""
        return self._makers.get(value)

    def get_name(self, value: str) -> str:
        """What the file calls `value`."""
        return value

    def is_constant(self, value: str) -> bool:
        """Whether it is made of constants alone."""
        return value in self._constant

    def find_quantized(self, value: str) -> str | None:
        """What was quantized and dequantized into `value`."""
        for kind in ("DequantizeLinear", "QuantizeLinear"):
            node = self._makers.get(value)
            if node is None or node.op_type != kind:
                return None
            value = node.input[0]
        return value

    def cut(self, starts: Mapping[str, tuple[str, Sequence[int]]], ends: Sequence[str], file: Path) -> Sequence[str]:
        """Write into `file` what leads from `starts` to `ends`; inputs keep their names, and may be of any shape."""
        names = [value for value, _ in starts.values()]
        model = self._extractor.extract_model(names, list(ends))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.ClearField("shape")
        del model.graph.value_info[:]
        onnx.save(model, str(file))
        return names
