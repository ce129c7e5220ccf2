"""An OpenVINO file as the checks walk through it: values are outputs of its nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.runtimes.openvino import open_core

_KINDS = {"Multiply": "Mul", "Subtract": "Sub", "Convert": "Cast", "Minimum": "Min", "Convolution": "Conv", "GroupConvolution": "Conv",
          "ShapeOf": "Shape"}  # fmt: skip


class OpenVinoFile:
    """The graph of an OpenVINO file. Pieces are cut out of the one that was read, which is put together again afterwards."""

    def __init__(self, file: Path) -> None:
        import openvino

        self._model = open_core(openvino).read_model(str(file))
        self._constants: dict[str, bool] = {}
        self._tensors = {}
        for node in self._model.get_ordered_ops():
            sources = node.input_values()
            self._constants[node.get_name()] = node.get_type_name() == "Constant" or (
                bool(sources) and all(self.is_constant(value) for value in sources)
            )  # fmt: skip
            if node.get_type_name() == "Constant":
                self._tensors[node.get_friendly_name()] = node.output(0)

    def find_tensor(self, name: str) -> Any | None:
        """The constant of that name."""
        return self._tensors.get(name)

    def read_tensor(self, name: str) -> NDArray[Any] | None:
        """The numbers of the constant of that name, of any shape."""
        value = self._tensors.get(name)
        return None if value is None else np.array(value.get_node().get_data())

    def list_users(self, value: Any) -> Sequence[tuple[Any, int]]:
        """The nodes that take `value`, and as which of their inputs."""
        return [(target.get_node(), target.get_index()) for target in value.get_target_inputs()]

    def list_sources(self, node: Any) -> Sequence[Any]:
        """What the node takes, in order."""
        return list(node.input_values())

    def get_output(self, node: Any) -> Any:
        """What the node gives, the first of it."""
        return node.output(0)

    def get_kind(self, node: Any) -> str:
        """What the node does, as ONNX calls it."""
        kind = str(node.get_type_name())
        return _KINDS.get(kind, kind)

    def takes_transposed(self, node: Any) -> bool:
        """Whether a product turns its second matrix round."""
        return bool(node.get_attributes().get("transpose_b", False))

    def get_maker(self, value: Any) -> Any | None:
        """The node that gives `value`."""
        node = value.get_node()
        return None if node.get_type_name() in ("Constant", "Parameter") else node

    def get_name(self, value: Any) -> str:
        """What the file calls `value`."""
        return str(value.get_node().get_friendly_name())

    def is_constant(self, value: Any) -> bool:
        """Whether it is made of constants alone."""
        return self._constants[value.get_node().get_name()]

    def find_quantized(self, value: Any) -> Any | None:
        """What was quantized and dequantized into `value`: above scale, zero-point and types stands a FakeQuantize."""
        node = value.get_node()
        while node.get_type_name() in ("Multiply", "Subtract", "Convert"):
            node = node.input_value(0).get_node()
        return node.input_value(0) if node.get_type_name() == "FakeQuantize" else None

    def cut(self, starts: Mapping[str, tuple[Any, Sequence[int]]], ends: Sequence[Any], file: Path) -> Sequence[str]:
        """Write into `file` what leads from `starts` to `ends`; inputs are called as `starts` has them."""
        import openvino

        inputs, moved = [], []
        for name, (value, shape) in starts.items():
            made = openvino.opset13.parameter(list(shape), value.get_element_type(), name=name)
            inputs.append(made)
            for target in value.get_target_inputs():
                moved.append((target, value))
                target.replace_source_output(made.output(0))
            made.output(0).get_tensor().set_names({name})  # now, for it took over what the value was called
        try:
            openvino.serialize(openvino.Model([openvino.opset13.result(end) for end in ends], inputs, file.stem), str(file))
        finally:
            for target, value in moved:
                target.replace_source_output(value)
        return list(starts)
