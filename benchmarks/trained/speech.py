"""The model that learns to write down what it hears: a small Whisper, tested on voices that it has not heard."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.passlines import PassLine, table
from benchmarks.trained import RECIPES, MadeData, TrainedModel, get_trained, make_data, read_training
from examples.training import speak_sentences

TRAINING, TEST = 6_000, 600
QUICK_TRAINING, QUICK_TEST = 120, 60
SPEECH = MadeData(
    "speech", lambda folder: speak_sentences.write_speech(folder, TRAINING, TEST), (Path(speak_sentences.__file__),),
    {"training": TRAINING, "test": TEST},
)  # fmt: skip
WHISPER = TrainedModel("speech-whisper", RECIPES / "speech_whisper.yaml", SPEECH, "speech.jsonl")

MOST_ERRORS, INT8_COST, INT4_COST = 15.0, 0.5, 3.0
"""Percent of words in unheard voices, and points of it that compression may add; a model that does not listen has about 90 %."""
COMPRESSIONS = ("int8-full", "int4")
AT_ONCE = 50


@dataclass(frozen=True)
class Heard:
    """What a model makes of the test: bytes of its weights, percent of the words that are wrong; `recipe` is empty as it was trained."""

    seed: int
    recipe: str
    size: int
    errors: float


def shrink(model: TrainedModel, steps: int = 40) -> TrainedModel:
    """The same on a few clips and steps: whether everything runs, and no more."""
    sizes = {"training": QUICK_TRAINING, "test": QUICK_TEST}
    few = replace(SPEECH, write=lambda folder: speak_sentences.write_speech(folder, *sizes.values()), settings=sizes)
    return replace(model, data=few, changes={"steps": steps, "evaluate_every": steps})


def measure_whisper(quick: bool, seeds: Sequence[int]) -> list[PassLine]:
    """Word errors of greedy decoding in unheard voices, as trained and after compression, over the seeds."""
    try:
        speak_sentences.list_voices()
    except speak_sentences.NoSpeakerError as error:
        print(f"benchmarks.trained: {error}", file=sys.stderr)
        sys.exit(2)
    model = shrink(WHISPER) if quick else WHISPER
    rows = [row for seed in seeds for row in _measure_seed(model, seed)]
    print(_show(rows, QUICK_TEST if quick else TEST))
    for seed in seeds:
        found = read_training(get_trained(model, seed))
        weights, seconds = found["model"]["parameters"], found["seconds"]
        print(f"seed {seed}: {found['steps']:,} steps, {weights:,} weights, {seconds:.0f} s with whatever else ran")
    mean = {name: statistics.mean(row.errors for row in rows if row.recipe == name) for name in ("", *COMPRESSIONS)}
    return [
        PassLine("Whisper: word error rate in unheard voices, mean over seeds", mean[""], most=MOST_ERRORS),
        PassLine("Whisper int8-full: points added", mean["int8-full"] - mean[""], most=INT8_COST),
        PassLine("Whisper int4: points added", mean["int4"] - mean[""], most=INT4_COST),
    ]


def _measure_seed(model: TrainedModel, seed: int) -> list[Heard]:
    """The model of `seed`, and what compression makes of it."""
    from trimodal import compress
    from trimodal.data import read_samples

    folder, data = get_trained(model, seed), make_data(model.data) / model.file
    samples = [sample for sample in read_samples(data) if sample.split == "test"]
    rows = [Heard(seed, "", _weigh(folder), count_errors(folder, samples))]
    for recipe in COMPRESSIONS:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "out"
            compress(folder, recipe, data, out)
            rows.append(Heard(seed, recipe, _weigh(out), count_errors(out, samples)))
    return rows


@torch.no_grad()
def count_errors(folder: Path, samples: Sequence[Any]) -> float:
    """Percent of the words that the model in `folder` has wrong."""
    from trimodal.formats import open_model
    from trimodal.training.tasks import make_objective
    from trimodal.training_runs.evaluation import transcribe
    from trimodal.verification.words import compute_word_error_rate

    model, said = open_model(folder), list[str]()
    objective = make_objective("transcribe", model, samples, part=AT_ONCE)
    for start in range(0, len(samples), AT_ONCE):
        batch = objective.encode(list(enumerate(samples[start : start + AT_ONCE])))
        said += transcribe(model, {name: value for name, value in batch.items() if name != "labels"})
    return compute_word_error_rate(said, [sample.target for sample in samples])


def _weigh(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _show(rows: Sequence[Heard], clips: int) -> str:
    """A row per recipe, over the seeds."""
    whole = [row.size for row in rows if not row.recipe]
    lines: list[tuple[str, ...]] = []
    for recipe in ("", *COMPRESSIONS):
        own = [row for row in rows if row.recipe == recipe]
        errors = [row.errors for row in own]
        share = statistics.mean(row.size / size for row, size in zip(own, whole, strict=True))
        size = statistics.mean(row.size for row in own) / 1e6
        spread = f"{min(errors):.1f}–{max(errors):.1f}"
        lines.append((recipe or "as trained", f"{size:.2f} MB", f"{share:.2f}", f"{statistics.mean(errors):.1f} %", spread))
    return table((f"Whisper, {clips} clips of unheard voices", "weights", "of the bytes", "word error rate", "over seeds"), lines)
