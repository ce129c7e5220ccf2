"""What an export is held to: recorded on the compressed model before it is made plain, run on the files afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimodal.core import Check
from trimodal.exporting.component import Component
from trimodal.exporting.components import split_components
from trimodal.exporting.exporter import ExportResult, ExportSource
from trimodal.exporting.layer_probes import LayerProbe, check_layers, cut_layer_probes, record_layer_calls
from trimodal.exporting.self_check import (
    ROUNDING,
    Probe,
    ProbeFile,
    check_integer_products,
    check_outputs,
    check_size,
    find_vocabulary_size,
    make_probe_inputs,
    run_files,
)
from trimodal.layers import is_weight_parametrized
from trimodal.layers.parametrization import quantizes_inputs
from trimodal.models.model import Batch, Model
from trimodal.models.tensors import unique_tensors
from trimodal.writing import open_scratch_folder

Calls = Mapping[str, tuple[Tensor, Tensor]]
"""What a layer took and gave, by path; of any shape."""


@dataclass(frozen=True)
class Trial:
    """The components' inputs, and what the compressed model makes of them: outputs by component, calls of its static layers by
    component, and the bytes of its tensors."""

    components: Sequence[Component]
    inputs: Mapping[str, Mapping[str, Tensor]]
    outputs: Mapping[str, Mapping[str, Tensor]]
    calls: Mapping[str, Calls]
    tensor_bytes: int


def begin_trial(model: Model, batch: Batch | None = None) -> Trial:
    """Run the compressed model on `batch`, and where that lacks an input on seeded ones, before it is made plain.

    Raises:
        ModelError: nobody can say what its inputs look like.
    """
    components = split_components(model)
    words = find_vocabulary_size(model.module)
    inputs = {part.name: make_probe_inputs(part, words, batch) for part in components}
    static = [path for path, layer in model.module.named_modules() if is_weight_parametrized(layer) and quantizes_inputs(layer.stored)]
    outputs, calls = {}, {}
    for part in components:
        with torch.no_grad(), record_layer_calls(model.module, static) as seen:
            outputs[part.name] = _to_float(part.call(part.module, inputs[part.name]), part)
        calls[part.name] = seen
    size = sum(tensor.nbytes for tensor in unique_tensors(model.module).values())
    return Trial(components, inputs, outputs, calls, size)


def run_trial(
    trial: Trial, source: ExportSource, result: ExportResult, runtime: str, folder: Path, rounding: float = ROUNDING
) -> list[Check]:
    """Run what was written into `folder` in a fresh process: the checks. `rounding` is what outputs may be off by in any case.

    Raises:
        IntegrityError: it does not run.
    """
    probes = [_make_probe(trial, part) for part in trial.components]
    places = {part.name: folder / part.files[0] for part in result.components}
    files = [ProbeFile(p.component, places[p.component], _to_arrays(p, part)) for p, part in zip(probes, trial.components, strict=True)]
    with open_scratch_folder("the layers of the export check") as scratch:
        layers = _cut_layers(trial, source, places, scratch)
        runs = run_files(runtime, [*files, *(probe.file for probe in layers)])
    sizes = {file: (folder / file).stat().st_size for part in result.components for file in part.files}
    return [
        *check_outputs(probes, runs, rounding), *check_layers(layers, runs), *check_integer_products(result.components, runs),
        check_size(sizes, trial.tensor_bytes, sum(part.nodes for part in result.components)),
    ]  # fmt: skip


def _make_probe(trial: Trial, part: Component) -> Probe:
    """The component's inputs and the simulation's outputs, beside what the model gives now that it is plain."""
    inputs = trial.inputs[part.name]
    return Probe(part.name, inputs, trial.outputs[part.name], _to_float(part.call(part.module, inputs), part))


def _to_arrays(probe: Probe, part: Component) -> dict[str, NDArray[Any]]:
    """What the runtime is given, no input switched off."""
    return {name: value.numpy() for name, value in probe.inputs.items()} | {name: np.zeros(1, bool) for name in part.switches}


def _cut_layers(trial: Trial, source: ExportSource, places: Mapping[str, Path], scratch: Path) -> list[LayerProbe]:
    """Every static layer of the components that are ONNX files, each once."""
    found: dict[str, LayerProbe] = {}
    for name, place in places.items():
        if place.suffix != ".onnx":
            continue
        part = scratch / name
        part.mkdir()
        missing = {path: call for path, call in trial.calls[name].items() if path not in found and path in source.layers}
        found |= {probe.path: probe for probe in cut_layer_probes(place, source.layers, missing, part)}
    return list(found.values())


def _to_float(outputs: Mapping[str, Tensor], part: Component) -> dict[str, Tensor]:
    return {name: outputs[name].detach().float() for name in part.outputs}
