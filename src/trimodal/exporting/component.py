"""A part of a model that becomes one file: what goes in, what comes out, under the names that Transformers gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Call = Callable[[nn.Module, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""(module, inputs by name) -> outputs by name."""

DYNAMIC: Mapping[str, Mapping[int, str]] = {
    "input_ids": {0: "batch_size", 1: "sequence_length"},
    "attention_mask": {0: "batch_size", 1: "sequence_length"},
    "token_type_ids": {0: "batch_size", 1: "sequence_length"},
    "position_ids": {0: "batch_size", 1: "sequence_length"},
    "inputs_embeds": {0: "batch_size", 1: "sequence_length"},
    "pixel_values": {0: "batch_size"},
    "input_features": {0: "batch_size"},
    "input_values": {0: "batch_size"},
    "audio_mask": {0: "batch_size"},
}
"""Which dimensions of well-known inputs may have any length, and what they are called."""


@dataclass(frozen=True)
class Component:
    """One file's worth of a model.

    Attributes:
        name: the file's stem where Transformers.js and Optimum look for it: `model`, `vision_model`, `encoder_model`, …
        module: the whole model; `call` runs the part of it.
        inputs: an example of each input by name, in order, with at least two samples and no two dynamic lengths alike.
        call: runs the part.
        outputs: the names of what `call` returns, in order.
        dynamic: per input, the dimensions of any length and their names; those of `DYNAMIC` where nothing is said.
        switches: a further input, bool (1,), by name, and the input (batch, length, …) that has length 0 for this call where it is true.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    call: Call
    outputs: Sequence[str]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    switches: Mapping[str, str] = field(default_factory=dict)

    def dynamic_of(self, name: str) -> Mapping[int, str]:
        """The dimensions of input `name` that may have any length, and what they are called."""
        return self.dynamic.get(name, DYNAMIC.get(name, {0: "batch_size"}))


class ComponentModule(nn.Module):
    """A component as a module of its own: tensors in the order of `inputs` -> a tuple in the order of `outputs`. All of the model is
    below `model`, so that a weight's name is `model.` and its path."""

    def __init__(self, component: Component) -> None:
        super().__init__()
        self.model = component.module
        self.component = component
        self.eval()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors in the order of the component's inputs -> its outputs in order, each (batch, …)."""
        found = self.component.call(self.model, dict(zip(self.component.inputs, tensors, strict=True)))
        return tuple(found[name] for name in self.component.outputs)


def call_forward(module: nn.Module, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The model's own forward: inputs (batch, …) -> every tensor (batch, …) that it returns, by name; `output` where it returns but one."""
    options: dict[str, Any] = {"return_dict": True} if hasattr(module, "config") else {}
    return collect_outputs(module(**inputs, **options))


def collect_outputs(result: Any) -> Mapping[str, Tensor]:
    """The tensors, of any shape, in what a forward pass returned, by name: those of its fields that are tensors, `output` where it is
    one, `output_0` and so on of a tuple."""
    if isinstance(result, Tensor):
        return {"output": result}
    if isinstance(result, Mapping):
        return {name: value for name, value in result.items() if isinstance(value, Tensor)}
    tensors = [value for value in result if isinstance(value, Tensor)]
    return {"output": tensors[0]} if len(tensors) == 1 else {f"output_{n}": value for n, value in enumerate(tensors)}
