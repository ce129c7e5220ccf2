"""Whether what was exported is what was compressed, tried in a fresh process with the format's own runtime.

    layers         each fed what the simulation's layer gets: no further from its output than one code of one input entry would be
    weights        decoded by the runtime: those of the artifact (`weight_probes.py`)
    whole model    no further from the model with plain inputs than the simulation is, by more than `MARGIN`, for each component and
                   for each modality; where maps between convolutions are bytes, than simulation and a model with its maps rounded are
                   together
    integers       how many products the runtime computes with integers, by its own execution graph
    bytes          against what the artifact's tensors need

The outputs of the whole cannot equal the simulation's: sums in another order flip single codes, and these grow from layer to layer. So a
layer is held to its own input, and the whole to the error that quantization makes in any case.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimodal.core import Check
from trimodal.core.record import Status
from trimodal.errors import IntegrityError
from trimodal.exporting.component import Component
from trimodal.exporting.exporter import ExportedComponent
from trimodal.models.model import Batch
from trimodal.writing import open_scratch_folder

MARGIN = 0.5
"""How much further from the model with plain inputs the exported one may be than the simulation, as a share of the simulation's own
distance, which is the error that quantizing the inputs makes."""
ROUNDING = 1e-4
"""Distance, relative to the output's norm, that sums in another order make where no input is quantized."""
OWN_RANGES = 0.01
"""The same where a runtime quantizes inputs with ranges of its own: about what 8 bits cost in one layer. The errors are then others than
the simulation's, and of few outputs one may be twice the other by chance."""
SPREAD = 4.0
"""Standard deviations, of an error of so many numbers relative to itself (about 1 / √numbers), that are put down to chance."""
MODALITIES: Mapping[str, str] = {
    "pixel_values": "image", "input_features": "audio", "input_values": "audio", "input_ids": "text", "inputs_embeds": "text",
}  # fmt: skip
"""What comes in by which input, as Transformers names them."""
LARGER, NODE_BYTES = 1.05, 400
_GRAPH_TEXT = ".xml"  # an OpenVINO graph; its numbers lie beside it
_PROGRAM = "from trimodal.runtimes.check_process import run_probes; run_probes()"
_LIMIT_SECONDS = 1800


@dataclass(frozen=True)
class Probe:
    """Inputs for one component, `real` ones or drawn, and what the simulation, the model with plain inputs and that with its maps rounded
    as in the file give for them; all by name. Outputs may be off by the share `rounding` in any case."""

    component: str
    inputs: Mapping[str, Tensor]
    simulated: Mapping[str, Tensor]
    plain: Mapping[str, Tensor] = field(default_factory=dict)
    rounded: Mapping[str, Tensor] = field(default_factory=dict)
    real: bool = False
    rounding: float = ROUNDING


@dataclass(frozen=True)
class ProbeFile:
    """One file to be run by the other process: where it lies, what goes in, and whether its nodes of integers are asked for."""

    name: str
    file: Path
    inputs: Mapping[str, NDArray[Any]]
    whole: bool = False


@dataclass(frozen=True)
class RunFile:
    """What the other process found: the outputs by name, and the nodes computed with integers."""

    outputs: Mapping[str, NDArray[Any]]
    integer_nodes: Sequence[str]


def make_probe_inputs(component: Component, vocabulary: int, batch: Batch | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of the component: real ones where `batch` has them all, else seeded ones in the shapes of its example: ids from the whole
    vocabulary, normal numbers, and a mask that hides the end of the second sample."""
    if batch is not None and takes_samples(component, batch):
        return {name: batch[name] for name in component.inputs}
    chance = torch.Generator().manual_seed(seed)
    return {name: _draw_like(name, value, vocabulary, chance) for name, value in component.inputs.items()}


def takes_samples(component: Component, batch: Batch) -> bool:
    """Whether `batch` has all that the component takes: its states, and what comes from other components, it never has."""
    return component.inputs.keys() <= batch.keys()


def _draw_like(name: str, value: Tensor, vocabulary: int, chance: torch.Generator) -> Tensor:
    if value.is_floating_point():
        return torch.randn(value.shape, generator=chance).to(value.dtype)
    if name.endswith("input_ids") and vocabulary > 1:
        return torch.randint(0, vocabulary, value.shape, generator=chance)
    if name == "attention_mask" and value.dim() == 2 and value.shape[1] > 3:
        return torch.cat([value[:1], value[1:].index_fill(1, torch.arange(value.shape[1] - 2, value.shape[1]), 0)])
    return value


def find_vocabulary_size(module: nn.Module) -> int:
    """The smallest number of rows of an embedding of words: ids below it are safe for all of them; 0 where there is none. Of a module
    without a configuration any embedding may be one of words."""
    config = getattr(module, "config", None)
    sizes = [getattr(part, "vocab_size", None) for part in (config, getattr(config, "text_config", None))]
    if config is None:
        sizes = [part.num_embeddings for part in module.modules() if isinstance(part, nn.Embedding)]
    return min((size for size in sizes if isinstance(size, int)), default=0)


def measure_distance(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """‖found − wanted‖ / ‖wanted‖, the largest over the outputs, of any shape, by name; infinite where a number is none."""
    return max((_relative_distance(found[name], wanted[name]) for name in wanted), default=0.0)


def _relative_distance(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.double(), wanted.double()
    return float(((found - wanted).norm() / wanted.norm().clamp(min=1e-30)).nan_to_num(nan=torch.inf))


@dataclass(frozen=True)
class Distances:
    """How far outputs are from the model with plain inputs: the exported ones, the simulation's, and those of the model with its maps
    rounded (None where none are), relative to their norm. They may vary by the share `chance`, and by `rounding`, besides."""

    exported: float
    simulated: float
    rounded: float | None = None
    chance: float = 0.0
    rounding: float = ROUNDING

    @property
    def allowed(self) -> float:
        """How far the exported ones may be."""
        return math.hypot(self.simulated, self.rounded or 0.0) * (1 + MARGIN + self.chance) + self.rounding

    @property
    def share(self) -> float:
        """The distance as a share of what is allowed."""
        return self.exported / self.allowed if self.allowed > 0 else 0.0 if self.exported == 0 else math.inf

    @property
    def outcome(self) -> Status:
        """Failed beyond what is allowed; where even zeros would pass, nothing is shown either way."""
        return "failed" if not self.exported <= self.allowed else "not run" if self.allowed >= 1 else "passed"

    def __str__(self) -> str:
        maps = "" if self.rounded is None else f", the one with maps of bytes {self.rounded:.2g}"
        return (
            f"{self.exported:.2g} from the model with plain inputs, the simulation {self.simulated:.2g}{maps}, allowed {self.allowed:.2g}"
            f"{', which shows nothing' if self.allowed >= 1 else ''}"
        )


def measure_probe(probe: Probe, run: RunFile) -> tuple[Distances, float]:
    """The distances of that output of one component which is furthest of what it may be, and how far the exported outputs are from the
    simulation's."""
    found = {name: torch.from_numpy(np.array(run.outputs[name])) for name in probe.simulated}
    plain = probe.plain or probe.simulated
    outputs = [
        Distances(
            _relative_distance(found[name], wanted), _relative_distance(probe.simulated[name], wanted),
            _relative_distance(probe.rounded[name], wanted) if probe.rounded else None, _vary(probe), probe.rounding,
        )
        for name, wanted in plain.items()
    ]  # fmt: skip
    return max(outputs, key=lambda one: one.share), measure_distance(found, probe.simulated)


def check_outputs(probes: Sequence[Probe], runs: Mapping[str, RunFile]) -> list[Check]:
    """For each component, whether the runtime's outputs are as near as the simulation's."""
    checks = []
    for probe in probes:
        distances, between = measure_probe(probe, runs[probe.component])
        said = f"{distances}; {between:.2g} from the simulation"
        name = f"{probe.component}: outputs as near as the simulation's"
        checks.append(Check(name, distances.outcome, said))
    return checks


def check_modalities(probes: Sequence[Probe], runs: Mapping[str, RunFile]) -> list[Check]:
    """For each modality, the same of the components that take it, the furthest of them; a component that takes several counts for each."""
    found: dict[str, list[tuple[Distances, Probe]]] = {}
    for probe in probes:
        for modality in sorted({MODALITIES[name] for name in probe.inputs if name in MODALITIES}):
            found.setdefault(modality, []).append((measure_probe(probe, runs[probe.component])[0], probe))
    checks = []
    for modality, measured in found.items():
        worst, probe = max(measured, key=lambda pair: pair[0].share)
        tried = "real samples" if all(pair[1].real for pair in measured) else "inputs drawn at random"
        said = f"{worst}; {', '.join(pair[1].component for pair in measured)} on {tried}"
        checks.append(Check(f"{modality}: as faithful as the simulation", worst.outcome, said))
    return checks


def _vary(probe: Probe) -> float:
    """By how much the error of a model with maps of bytes may vary besides, as a share of it: in a deep one a flipped code flips others, so
    that two runs err independently of each other, and of few numbers that does not average out."""
    return SPREAD / math.sqrt(min(value.numel() for value in probe.rounded.values())) if probe.rounded else 0.0


def check_integer_products(components: Sequence[ExportedComponent], runs: Mapping[str, RunFile]) -> list[Check]:
    """What the runtime says of its own graph; a finding, which fails nothing."""
    counts = {part.name: len(runs[part.name].integer_nodes) for part in components if part.name in runs}
    said = ", ".join(f"{name} {count}" for name, count in counts.items())
    return [Check("nodes computed with integers", "passed" if any(counts.values()) else "not run", said or "the runtime does not say")]


def check_size(files: Mapping[str, int], planned_bytes: int, nodes: int) -> Check:
    """Bytes of the weight files against those of the artifact's tensors; a finding, since some forms have no small one elsewhere. The
    graph itself is not what was planned: it may have so many bytes a node, and where it is a file of text that is told apart."""
    graph = sum(size for name, size in files.items() if name.endswith(_GRAPH_TEXT))
    total = sum(files.values()) - graph
    said = f"{total:,} bytes, {total / max(planned_bytes, 1):.2f} × the {planned_bytes:,} of the artifact's tensors, and {nodes} nodes"
    said += f" in {graph:,} bytes of text" if graph else ""
    return Check.from_outcome("bytes as planned", total <= LARGER * planned_bytes + NODE_BYTES * nodes, said, "quality")


def run_files(runtime: str, files: Sequence[ProbeFile], threads: int = 1) -> dict[str, RunFile]:
    """Run each file once in a fresh process.

    Raises:
        IntegrityError: the process did not end well.
    """
    with open_scratch_folder("the inputs of the export check") as scratch:
        jobs = []
        for number, probe in enumerate(files):
            np.savez(scratch / f"in{number}.npz", **probe.inputs)  # type: ignore[arg-type]
            jobs.append({"file": str(probe.file), "inputs": f"in{number}.npz", "outputs": f"out{number}.npz", "nodes": probe.whole})
        (scratch / "jobs.json").write_text(json.dumps({"runtime": runtime, "threads": threads, "jobs": jobs}), encoding="utf-8")
        command = [sys.executable, "-P", "-c", _PROGRAM, str(scratch)]
        settings = {**os.environ, "TMPDIR": str(scratch)}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, env=settings)
        except subprocess.TimeoutExpired as late:
            minutes = _LIMIT_SECONDS // 60
            raise IntegrityError(f"what was exported did not run in {runtime} within {minutes} minutes; nothing was kept") from late
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise IntegrityError(f"what was exported does not run in {runtime} ({said[:300]}); nothing was kept")
        nodes = json.loads((scratch / "nodes.json").read_text(encoding="utf-8"))
        return {probe.name: RunFile(_read_arrays(scratch / f"out{n}.npz"), nodes[n]) for n, probe in enumerate(files)}


def _read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    with np.load(file) as found:
        return {name: found[name] for name in found.files}
