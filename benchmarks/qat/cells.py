"""One cell of `benchmarks.qat`: a model after a recipe, and how often it is right. Done once; what was found is kept in the cache."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.qat.models import CACHE, Subject, make_subject
from trimodal.compression import compress_
from trimodal.core import Calibration, FitRecord, Plan, Sample, Source
from trimodal.data import name_labels
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

    steps: int = 80
    batch: int = 32
    samples: int = 2000


@dataclass(frozen=True)
class Cell:
    """What one model was after one way: percent right, bytes of tensors, seconds of a core, and the first and last loss of its training."""

    model: str
    seed: int
    bits: int
    way: str
    right: float
    bytes: int
    seconds: float
    losses: tuple[float, float] | None = None


def run_cells(name: str, seed: int, bits: int, effort: Effort, quick: bool) -> list[Cell]:
    """All ways of one model, seed and width (32: the float model): the quantizers once, and from there each training on a copy."""
    longer = "" if quick or bits == 32 or effort.steps == Effort().steps else f"-{effort.steps}"
    kept = CACHE / "cells" / f"{name}-{seed}-{bits}{longer}{'-quick' if quick else ''}.json"
    if kept.is_file():
        return [Cell(**cell) for cell in json.loads(kept.read_text())]
    subject = make_subject(name, quick)
    found = list(_run_ways(subject, name, seed, bits, effort))
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps([asdict(cell) for cell in found]))
    return found


def _run_ways(subject: Subject, name: str, seed: int, bits: int, effort: Effort) -> Iterator[Cell]:
    original = open_model(subject.folder)
    learning = list(subject.learning)
    random.Random(seed).shuffle(learning)
    learning = learning[: effort.samples]

    def run(way: str, model: Model, steps: Sequence[Mapping[str, Any]]) -> Cell:
        started = time.process_time()
        losses = _compress(model, original, learning, steps, seed) if steps else []
        seconds = time.process_time() - started
        right = measure_right(name, model, subject)
        cell = Cell(name, seed, bits, way, right, _count_bytes(model), seconds, (losses[0], losses[-1]) if losses else None)
        print(f"{name}-{seed}, {bits} bits, {way}: {cell.right:.2f} % right, {cell.seconds:.0f} s of a core", flush=True)
        return cell

    rounded = _copy_model(original)
    if bits == 32:
        yield run("float", rounded, [])
        return
    yield run("PTQ", rounded, [_EMBEDDINGS, {"quantize.smooth": {"where": "*", "bits": bits, "feedback": True}}])
    train = {"steps": effort.steps, "batch": effort.batch}
    if bits == 2 and effort.steps <= Effort().steps:
        yield run("PTQ + distill", _copy_model(rounded), [{"distill": train}])
    yield run("QAT", _copy_model(rounded), [{"train.quantized": train}])


def _copy_model(model: Model) -> Model:
    return replace(model, module=copy.deepcopy(model.module), steps=list(model.steps))


def _compress(
    model: Model, original: Model, learning: Sequence[Sample], steps: Sequence[Mapping[str, Any]], seed: int
) -> list[float]:
    """Carry out a recipe on `model`, in place, and give the losses of its training."""
    edits, _ = plan_edits(model.layout, read_recipe({"steps": list(steps)}), True)
    before = _count_bytes(model)
    saved = sum(place.bytes_before - place.bytes_after for edit in edits for place in edit.places)
    source = Source(model.name, model.family.name, "", 0, before)
    plan = Plan(seed, source, Calibration(len(learning), None, (), "modality"), edits, before - saved)
    records = compress_(model, plan, learning[:_STATISTICS], learning, original)
    return [record.losses["loss"] for record in records if isinstance(record, FitRecord)]


def measure_right(name: str, model: Model, subject: Subject) -> float:
    """Percent: answers or classes, the right one of all captions and images (both ways, mean), or next tokens."""
    if name == "words":
        objective = make_objective("generate", model, subject.test, part=32)
        return Evaluation(model, objective, subject.test, 32)()["token_accuracy"]
    metrics = measure_model(model, name_labels(model, subject.test), batch_size=64)
    kept = [metric for metric in metrics if name != "demo" or metric.modality == "all"]
    return sum(metric.before for metric in kept) / len(kept)


def _count_bytes(model: Model) -> int:
    return tensor_bytes(unique_tensors(model.module).values())
