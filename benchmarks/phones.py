"""Phones' formats, made and run here in their own runtimes: python -m benchmarks.phones [MODEL …]

Each model is compressed with 8 bits for weights and inputs and written for LiteRT and for ExecuTorch, and its float original beside
it. Both files are open at once, each in a process of its own with one thread, and run by turns: medians of CPU seconds for one sample.
Needs `make litert` and `make executorch`, and for MiniLM the package of `benchmarks.minilm`.

Weights are random with a fixed seed, but for MiniLM's. The processor is this machine's: a phone's has other kernels.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.memory import planned_and_compressed
from benchmarks.passlines import PassLine, finish, table
from benchmarks.speed.models import (
    INT8,
    INT8_FULL,
    Case,
    Inputs,
    load_minilm,
    make_images,
    make_samples,
    make_sentences,
    make_sounds,
    open_case,
    seeded,
)
from trimodal.exporting import EXPORTERS
from trimodal.exporting.component import call_forward
from trimodal.exporting.components import split_components
from trimodal.exporting.export import choose_target, prepare_source
from trimodal.exporting.exporter import ExportResult
from trimodal.exporting.mobile_graph.fixed_inputs import fix_shapes
from trimodal.machine import detect_processor
from trimodal.models.model import Model
from trimodal.models.tensors import unique_tensors
from trimodal.runtimes import RUNTIMES

FORMATS = ("litert", "executorch")
LIKE_VIT_S = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
LIKE_AST = {**LIKE_VIT_S, "num_hidden_layers": 6, "max_length": 512, "num_labels": 527}
_ROUNDS, _WARM = 15, 2
CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case("ViT-S/16", seeded("ViTForImageClassification", "ViTConfig", num_labels=1000, **LIKE_VIT_S), make_images),
        Case("MiniLM", load_minilm, make_sentences, judged=16, calibration=64, steps=INT8_FULL),
        Case("ResNet-50", seeded("ResNetForImageClassification", "ResNetConfig", num_labels=1000), make_images,
             steps=[{"fold.exact": {}}, *INT8]),
        Case("AST, 6 blocks", seeded("ASTForAudioClassification", "ASTConfig", **LIKE_AST), make_sounds("input_values", (512, 128)),
             calibration=4, judged=4),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """What a format wrote of a model: the only file, and what is said of it."""

    file: Path
    result: ExportResult

    @property
    def megabytes(self) -> float:
        """The file's size."""
        return self.file.stat().st_size / 1e6


def write_file(model: Model, form: str, folder: Path) -> Written:
    """`model` in the format, in a new folder; the model is left as it is."""
    exporter = EXPORTERS[form]
    copied = replace(model, module=copy.deepcopy(model.module))
    source = prepare_source(copied, choose_target(exporter, None), exporter.keeps_types)
    folder.mkdir(parents=True)
    with torch.no_grad():
        result = exporter.write(source, folder)
    (part,) = result.components
    return Written(folder / part.files[0], result)


def measure_case(case: Case, folder: Path) -> tuple[list[tuple[str, ...]], list[PassLine]]:
    """Rows and lines of one model in both formats."""
    plain = open_case(case)
    compressed, *_ = planned_and_compressed(open_case(case), case.steps, make_samples(plain, case.calibration))
    planned = sum(tensor.nbytes for tensor in unique_tensors(compressed.module).values())
    given = case.inputs(case.judged, 1)
    wanted = {"simulation": run_model(compressed, given), "original": run_model(plain, given)}
    rows, lines = [], []
    for form in FORMATS:
        ours, floats = (write_file(m, form, folder / form / kind) for m, kind in ((compressed, "int8"), (plain, "float")))
        found = run_file(form, ours.file, given)
        near = {name: compare_outputs(found, outputs, given) for name, outputs in wanted.items()}
        near["centred"] = compare_outputs(found, wanted["simulation"], given, centred=True)
        nodes, seconds = measure_by_turns(form, ours.file, floats.file, make_timed(plain))
        rows.append(make_row(case, form, ours, floats, planned, near, nodes, seconds))
        lines += make_lines(f"{case.name}, {form}", ours, planned, near, seconds)
    return rows, lines


def run_model(model: Model, given: Inputs) -> dict[str, Tensor]:
    """The outputs by name, sample by sample as the files run."""
    count = len(next(iter(given.values())))
    with torch.no_grad():
        found = [call_forward(model.module, {name: value[n : n + 1] for name, value in given.items()}) for n in range(count)]
    return {name: torch.cat([one[name] for one in found]) for name in found[0]}


def run_file(form: str, file: Path, given: Inputs) -> dict[str, Tensor]:
    """The file's outputs by name."""
    session = RUNTIMES[form](file, 1)
    try:
        found = session.run({name: value.numpy() for name, value in given.items()})
    finally:
        session.close()
    return {name: torch.from_numpy(np.array(value)) for name, value in found.items()}


def compare_outputs(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], given: Inputs, centred: bool = False) -> float:
    """The mean cosine of the first output over samples, of texts over the tokens that are no padding. With `centred` the mean of all
    samples is taken off first: outputs of random weights differ little from sample to sample, and any two have a high cosine."""
    name = next(iter(wanted))
    pair = [outputs[name].double() for outputs in (found, wanted)]
    mask = given.get("attention_mask")
    pair = [value.flatten(1) for value in pair] if mask is None else [value[mask.bool()] for value in pair]
    middle = pair[1].mean(dim=0) if centred else 0.0
    return float(torch.cosine_similarity(*(value - middle for value in pair), dim=-1).mean())


def make_timed(model: Model) -> dict[str, np.ndarray[Any, Any]]:
    """One sample in the shapes of the file."""
    (component,) = split_components(model)
    shapes = fix_shapes(component).inputs
    chance = torch.Generator().manual_seed(2)
    drawn = {name: torch.randn(value.shape, generator=chance) if value.is_floating_point() else value for name, value in shapes.items()}
    return {name: value.numpy() for name, value in drawn.items()}


def measure_by_turns(form: str, ours: Path, floats: Path, feed: Mapping[str, Any]) -> tuple[int, tuple[float, float]]:
    """How many products of ours are of integers, and the median CPU seconds of ours and of the float file."""
    sessions: list[Any] = [RUNTIMES[form](file, 1) for file in (ours, floats)]
    try:
        nodes = len(sessions[0].list_integer_nodes())
        for session in sessions:
            session.measure_seconds(feed, _WARM)
        found = [[session.measure_seconds(feed, 1)[0] for session in sessions] for _ in range(_ROUNDS)]
    finally:
        for session in sessions:
            session.close()
    ours_took, floats_took = (median(column) for column in zip(*found, strict=True))
    return nodes, (ours_took, floats_took)


def make_row(
    case: Case, form: str, ours: Written, floats: Written, planned: int, near: Mapping[str, float], nodes: int,
    seconds: tuple[float, float],
) -> tuple[str, ...]:  # fmt: skip
    """A line of the table."""
    return (
        case.name, form, f"{ours.megabytes:.2f}", f"{ours.megabytes * 1e6 / planned:.3f}", f"{floats.megabytes:.1f}",
        f"{len(ours.result.coded)}", f"{nodes}", f"{near['simulation']:.4f}", f"{near['centred']:.3f}",
        f"{near['original']:.4f}",
        f"{seconds[0] * 1e3:.1f}", f"{seconds[1] * 1e3:.1f}", f"{seconds[1] / seconds[0]:.2f}",
    )  # fmt: skip


def make_lines(said: str, ours: Written, planned: int, near: Mapping[str, float], seconds: tuple[float, float]) -> list[PassLine]:
    """What is held to. Codes that are not in the file bit for bit fail the writing; here the layers that have theirs are counted."""
    coded, decoded = len(ours.result.coded), dict(ours.result.decoded)
    return [
        PassLine(f"{said}: layers with their codes, bit for bit (decoded: {', '.join(decoded) or 'none'})", coded / (coded + len(decoded)),
                 least=1.0),
        PassLine(f"{said}: bytes / bytes as planned", ours.file.stat().st_size / planned, most=1.05),
        PassLine(f"{said}: cosine to the simulation", near["simulation"], least=0.99),
        PassLine(f"{said}: CPU seconds / those of its own float file", seconds[0] / seconds[1], most=1.0),
    ]  # fmt: skip


COLUMNS = (
    "model", "runtime", "MB", "× plan", "float MB", "coded layers", "integer products", "cosine to simulation", "without the mean",
    "to the original", "ms", "float ms", "times as fast",
)  # fmt: skip


def main(chosen: Iterable[str]) -> None:
    """All models, or those that are named."""
    torch.set_num_threads(1)
    rows, lines = [], []
    for name in chosen or CASES:
        with tempfile.TemporaryDirectory() as folder:
            made, said = measure_case(CASES[name], Path(folder))
        rows, lines = rows + made, lines + said
        print(table(COLUMNS, made), flush=True)
    processor, instructions = detect_processor()
    print(f"\n{processor} ({', '.join(instructions)}), 1 thread, medians of {_ROUNDS} runs by turns\n")
    print(table(COLUMNS, rows))
    finish(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
