"""What an export is held to: recorded on the compressed model before it is made plain, run on the files afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from trimodal.exporting.float_checks import FloatsRead, check_floats, read_floats_
from trimodal.exporting.layer_probes import LayerProbe, check_layers, cut_layer_probes, record_layer_calls
from trimodal.exporting.map_grids import MapGrids, round_maps
from trimodal.exporting.self_check import (
    ROUNDING,
    Probe,
    ProbeFile,
    check_integer_products,
    check_modalities,
    check_outputs,
    check_size,
    find_vocabulary_size,
    make_probe_inputs,
    run_files,
    takes_samples,
)
from trimodal.exporting.weight_probes import (
    AT_ONCE,
    WeightProbe,
    check_weights,
    compare_weights,
    cut_weight_probes,
    find_readable,
)
from trimodal.exporting.written_graph.graph import Open, find_codes
from trimodal.exporting.written_graph.onnx_file import OnnxFile
from trimodal.exporting.written_graph.openvino_file import OpenVinoFile
from trimodal.layers import is_weight_parametrized
from trimodal.layers.parametrization import quantizes_inputs
from trimodal.models.model import Batch, Model
from trimodal.models.tensors import unique_tensors
from trimodal.writing import open_scratch_folder

_OPEN: Mapping[str, Open] = {".onnx": OnnxFile, ".xml": OpenVinoFile}

Calls = Mapping[str, tuple[Tensor, Tensor]]
"""What a layer took and gave, by path; of any shape."""


@dataclass(frozen=True)
class Trial:
    """The components' inputs, and what the compressed model makes of them: outputs by component, calls of its static layers by
    component, the bytes of its tensors, and which components got `real` samples."""

    components: Sequence[Component]
    inputs: Mapping[str, Mapping[str, Tensor]]
    outputs: Mapping[str, Mapping[str, Tensor]]
    calls: Mapping[str, Calls]
    tensor_bytes: int
    real: frozenset[str] = frozenset()


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
    real = frozenset(part.name for part in components if batch is not None and takes_samples(part, batch))
    return Trial(components, inputs, outputs, calls, size, real)


def run_trial(
    trial: Trial, source: ExportSource, result: ExportResult, runtime: str, folder: Path, rounding: float = ROUNDING
) -> list[Check]:
    """Run what was written into `folder` in a fresh process: the checks. `rounding` is what outputs may be off by in any case.

    Raises:
        IntegrityError: it does not run.
    """
    probes = [_make_probe(trial, part, result.maps.get(part.name, {}), rounding) for part in trial.components]
    places = {part.name: folder / part.files[0] for part in result.components}
    files = [
        ProbeFile(probe.component, places[probe.component], _to_arrays(probe, part), whole=True)
        for probe, part in zip(probes, trial.components, strict=True)
    ]
    with open_scratch_folder("the layers of the export check") as scratch:
        pieces = _cut_pieces(trial, source, result, places, scratch)
        small, large = _part_by_size(pieces.weights)
        runs = run_files(runtime, [*files, *(probe.file for probe in pieces.layers), *(probe.file for probe in small)])
        differences = [compare_weights(probe, runs[probe.file.name]) for probe in small]
        for probe in large:  # a process each, for the memory
            differences.append(compare_weights(probe, run_files(runtime, [probe.file])[probe.file.name]))
    sizes = {file: (folder / file).stat().st_size for part in result.components for file in part.files}
    return [
        *check_weights(differences, pieces.readable - pieces.there, len(result.coded)), *check_floats(pieces.floats, result.parameters),
        *check_outputs(probes, runs), *check_modalities(probes, runs), *check_layers(pieces.layers, runs, source.saturates),
        *check_integer_products(result.components, runs),
        check_size(sizes, trial.tensor_bytes, sum(part.nodes for part in result.components)),
    ]  # fmt: skip


def _make_probe(trial: Trial, part: Component, maps: MapGrids, rounding: float) -> Probe:
    """The component's inputs and the simulation's outputs, beside what the model gives now that it is plain, and with `maps` rounded."""
    inputs = trial.inputs[part.name]
    plain = _to_float(part.call(part.module, inputs), part)
    with round_maps(part.module, maps):
        rounded = _to_float(part.call(part.module, inputs), part) if maps else {}
    return Probe(part.name, inputs, trial.outputs[part.name], plain, rounded, part.name in trial.real, rounding)


def _to_arrays(probe: Probe, part: Component) -> dict[str, NDArray[Any]]:
    """What the runtime is given, no input switched off."""
    return {name: value.numpy() for name, value in probe.inputs.items()} | {name: np.zeros(1, bool) for name in part.switches}


@dataclass
class _Pieces:
    """What the written files are held to piece by piece: static layers once, coded weights in each file, the paths of those that must be
    found and of those whose codes are there, and what became of the floats."""

    layers: list[LayerProbe] = field(default_factory=list)
    weights: list[WeightProbe] = field(default_factory=list)
    readable: set[str] = field(default_factory=set)
    there: set[str] = field(default_factory=set)
    floats: FloatsRead = field(default_factory=FloatsRead)


def _cut_pieces(trial: Trial, source: ExportSource, result: ExportResult, places: Mapping[str, Path], scratch: Path) -> _Pieces:
    """Of the components whose files can be cut."""
    pieces, modules = _Pieces(), {part.name: part.module for part in trial.components}
    for name, place in places.items():
        if place.suffix not in _OPEN:
            continue
        graph, part = _OPEN[place.suffix](place), scratch / name
        part.mkdir()
        known = {probe.path for probe in pieces.layers}
        missing = {path: call for path, call in trial.calls[name].items() if path not in known and path in source.layers}
        pieces.layers += cut_layer_probes(graph, source.layers, missing, part, place.suffix)
        readable = find_readable(source.layers, result.coded)
        pieces.readable |= {codes.path for codes in readable}
        pieces.there |= {codes.path for codes in readable if find_codes(graph, codes.path) is not None}
        pieces.weights += cut_weight_probes(graph, name, readable, part, place.suffix)
        read_floats_(pieces.floats, graph, modules[name], result.parameters)
    return pieces


def _part_by_size(weights: Sequence[WeightProbe]) -> tuple[list[WeightProbe], list[WeightProbe]]:
    """As many as one process may give back, and the others."""
    small: list[WeightProbe] = []
    large: list[WeightProbe] = []
    room = AT_ONCE
    for probe in weights:
        size = sum(codes.parameter.nbytes for codes in probe.layers)
        if size <= room:
            small.append(probe)
            room -= size
        else:
            large.append(probe)
    return small, large


def _to_float(outputs: Mapping[str, Tensor], part: Component) -> dict[str, Tensor]:
    return {name: outputs[name].detach().float() for name in part.outputs}
