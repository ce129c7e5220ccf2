"""One cell of `benchmarks.qat`: a model after a recipe, and how often it is right. Done once; what was found is kept in the cache."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.qat.models import CACHE, Subject, make_subject
from trimodal.compression import compress_
from trimodal.core import Calibration, FitRecord, Plan, Source
from trimodal.formats import open_model
from trimodal.models.model import Model
from trimodal.models.tensors import tensor_bytes, unique_tensors
from trimodal.planning import plan_edits, read_recipe
from trimodal.training.tasks import make_objective
from trimodal.training_runs.evaluation import Evaluation
from trimodal.verification.measuring import measure_model

WAYS = ("float", "PTQ", "PTQ + distill", "QAT")
_STATISTICS = 128
_EMBEDDINGS = {"quantize.rtn": {"where": "*embedding*", "optional": True, "bits": 8}}


@dataclass(frozen=True)
class Effort:
    """Optimizer steps of each training, samples per step, and samples that it may learn from."""

    steps: int = 150
    batch: int = 32
    samples: int = 2000


@dataclass(frozen=True)
class Cell:
    """What one model was after one way: percent right, bytes of tensors, seconds, and the first and last loss of its training."""

    model: str
    seed: int
    bits: int
    way: str
    right: float
    bytes: int
    seconds: float
    losses: tuple[float, float] | None = None


def make_steps(bits: int, way: str, effort: Effort) -> list[dict[str, Any]]:
    """The recipe: GPTQ's codes on an even grid with a scale per row, inputs of 8 bits; and what trains after that."""
    train = {"steps": effort.steps, "batch": effort.batch}
    after = {"PTQ": [], "PTQ + distill": [{"distill": train}], "QAT": [{"train.quantized": train}]}[way]
    return [_EMBEDDINGS, {"quantize.smooth": {"where": "*", "bits": bits, "feedback": True}}, *after]


def run_cells(name: str, seed: int, bits: Sequence[int], effort: Effort, quick: bool) -> list[Cell]:
    """All cells of one model and seed."""
    subject, found = make_subject(name, seed, quick), []
    for width, way in [(32, "float"), *((width, way) for width in bits for way in WAYS[1:])]:
        kept = CACHE / "cells" / f"{name}-{seed}-{width}-{way.replace(' ', '')}{'-quick' if quick else ''}.json"
        if kept.is_file():
            found.append(Cell(**json.loads(kept.read_text())))
            continue
        cell = _run_cell(subject, name, seed, width, way, effort)
        print(f"{name}-{seed}, {width} bits, {way}: {cell.right:.2f} % right, {cell.seconds:.0f} s {cell.losses or ''}", flush=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(asdict(cell)))
        found.append(cell)
    return found


def _run_cell(subject: Subject, name: str, seed: int, bits: int, way: str, effort: Effort) -> Cell:
    started, model = time.perf_counter(), open_model(subject.folder)
    losses: list[Mapping[str, float]] = []
    if way != "float":
        losses = _compress(model, subject, make_steps(bits, way, effort), effort, seed)
    seconds = time.perf_counter() - started
    ends = (losses[0]["loss"], losses[-1]["loss"]) if losses else None
    return Cell(name, seed, bits, way, measure_right(name, model, subject), _count_bytes(model), seconds, ends)


def _compress(model: Model, subject: Subject, steps: Sequence[Mapping[str, Any]], effort: Effort, seed: int) -> list[Mapping[str, float]]:
    """Carry out the recipe on `model`, in place, and give the losses of its training."""
    learning = list(subject.learning)
    random.Random(seed).shuffle(learning)
    learning, original = learning[: effort.samples], replace(model, module=copy.deepcopy(model.module))
    edits, _ = plan_edits(model.layout, read_recipe({"steps": list(steps)}), True)
    before = _count_bytes(model)
    saved = sum(place.bytes_before - place.bytes_after for edit in edits for place in edit.places)
    source = Source(model.name, model.family.name, "", 0, before)
    plan = Plan(seed, source, Calibration(len(learning), None, (), "modality"), edits, before - saved)
    records = compress_(model, plan, learning[:_STATISTICS], learning, original)
    return [record.losses for record in records if isinstance(record, FitRecord)]


def measure_right(name: str, model: Model, subject: Subject) -> float:
    """Percent: answers or classes, the right one of all captions and images (both ways, mean), or next tokens."""
    if name == "words":
        objective = make_objective("generate", model, subject.test, part=32)
        return Evaluation(model, objective, subject.test, 32)()["token_accuracy"]
    metrics = measure_model(model, subject.test, batch_size=64)
    kept = [metric for metric in metrics if name != "demo" or metric.modality == "all"]
    return sum(metric.before for metric in kept) / len(kept)


def _count_bytes(model: Model) -> int:
    return tensor_bytes(unique_tensors(model.module).values())
