"""What the tests of models that generate share: lively miniatures, compressed in memory and written as ONNX files, and their tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimodal.exporting.export import prepare_source
from trimodal.exporting.exporter import ExportResult
from trimodal.exporting.onnx import write_onnx
from trimodal.loading.load import build_model
from trimodal.networks.tiny import make_miniature, make_miniature_batch
from trimodal.runtimes import RUNTIMES
from trimodal.runtimes.generation import generate
from trimodal.runtimes.generation_settings import read_settings
from trimodal.runtimes.part import Part

LOUD = ("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")


def make_lively(name: str, loudness: float) -> nn.Module:
    """A miniature that does not say one word again and again: what its layers add to the stream is `loudness` times as much."""
    module = make_miniature(name)
    with torch.no_grad():
        for path, parameter in module.named_parameters():
            if path.endswith(LOUD):
                parameter.mul_(loudness)
    return module


@dataclass(frozen=True)
class Spoken:
    """A model that generates, written as ONNX: the `simulation` that it was made from, and the open files."""

    simulation: Any
    folder: Path
    result: ExportResult
    parts: Mapping[str, Part]

    def read_graph(self, name: str) -> onnx.GraphProto:
        """The graph of component `name`."""
        (part,) = [part for part in self.result.components if part.name == name]
        return onnx.load(str(self.folder / part.files[0])).graph

    def say(self, inputs: Mapping[str, Tensor], **changed: Any) -> NDArray[np.int64]:
        """The tokens of our search."""
        arrays = {name: value.numpy() for name, value in inputs.items()}
        return generate(self.parts, arrays, read_settings(self.folder).with_changes(**changed))

    def check_tokens(self, inputs: Mapping[str, Tensor], new: int, tie: float, at_least: int, **options: Any) -> None:
        """Our tokens are those of torch, row by row until torch's two best are closer than `tie`, and `at_least` so many in all."""
        with torch.no_grad():
            wanted = self.simulation.generate(
                **inputs, do_sample=False, max_new_tokens=new, return_dict_in_generate=True, output_scores=True, **options
            )  # fmt: skip
        found = self.say(inputs, max_new_tokens=new, **options)
        best = torch.stack(wanted["scores"], dim=1).topk(2, dim=-1).values
        close = (best[..., 0] - best[..., 1]) < tie
        rows, compared = torch.as_tensor(wanted["sequences"])[:, -close.shape[1] :].numpy(), 0
        for ours, torchs, ties in zip(found, rows, close.tolist(), strict=True):
            sure = ties.index(True) if True in ties else len(ties)
            assert ours[:sure].tolist() == torchs[:sure].tolist()
            compared += sure
        assert compared >= at_least and len(set(rows.reshape(-1).tolist())) > 1, (compared, rows)


@pytest.fixture(scope="session")
def speak(compressed: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Spoken]:
    """(miniature, loudness, steps) -> what was written of it."""

    def write(name: str, loudness: float, steps: Sequence[Mapping[str, Any]] = (), options: Mapping[str, Any] | None = None) -> Spoken:
        model = build_model(make_lively(name, loudness), name)
        if steps:
            model = compressed(model, steps, given=[make_miniature_batch(name, 4, seed) for seed in (1, 2)]).model
        simulation, folder = copy.deepcopy(model.module), tmp_path_factory.mktemp(name)
        simulation.config.save_pretrained(folder)
        if simulation.can_generate():
            simulation.generation_config.save_pretrained(folder)
        with torch.no_grad():
            result = write_onnx(prepare_source(model, options or {}), folder)
        parts = {
            part.name: Part(RUNTIMES["onnxruntime"](folder / part.files[0], 1, exact=True), part.inputs) for part in result.components
        }  # fmt: skip
        return Spoken(simulation, folder, result, parts)

    return write
