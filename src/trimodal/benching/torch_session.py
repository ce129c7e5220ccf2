"""A model in PyTorch, as the other runtimes are used: arrays by name in, arrays by name out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trimodal.exporting.component import Component
from trimodal.exporting.components import split_components
from trimodal.formats import open_model
from trimodal.layers import set_dequantize_policy_
from trimodal.runtimes.example_inputs import Shape
from trimodal.runtimes.session import Arrays


class TorchSession:
    """One component of a model, eager, without gradients."""

    def __init__(self, component: Component) -> None:
        self._component = component
        self._types = {name: value.dtype for name, value in component.inputs.items()}
        self.input_names: Sequence[str] = list(component.inputs)
        self.input_types: Mapping[str, str] = {name: str(kind).removeprefix("torch.") for name, kind in self._types.items()}
        self.output_names: Sequence[str] = list(component.outputs)

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays (batch, …) by name -> arrays (batch, …) by name."""
        given = {name: torch.from_numpy(np.asarray(inputs[name])).to(kind) for name, kind in self._types.items() if name in inputs}
        with torch.inference_mode():
            found = self._component.call(self._component.module, given)
        return {name: found[name].float().numpy() for name in self.output_names}

    def list_integer_nodes(self) -> Sequence[str]:
        """None: eager PyTorch has no graph that could be asked."""
        return ()

    def close(self) -> None:
        """Let go of the model."""
        del self._component


def open_torch_components(source: str | Path) -> Mapping[str, Component]:
    """The components of the model, or the artifact, `source`, by name.

    Raises:
        InputError: it cannot be opened.
    """
    model = open_model(str(source), None)
    set_dequantize_policy_(model.module.eval().requires_grad_(False), "speed")  # as `trimodal.load` gives it to users
    return {component.name: component for component in split_components(model)}


def shapes_of(component: Component) -> dict[str, Shape]:
    """The component's inputs with words for the lengths that may vary."""
    return {
        name: [component.dynamic_of(name).get(dim, int(length)) for dim, length in enumerate(value.shape)]
        for name, value in component.inputs.items()
    }  # fmt: skip


def use_torch_threads(threads: int) -> None:
    """Let PyTorch compute with so many."""
    torch.set_num_threads(threads)
