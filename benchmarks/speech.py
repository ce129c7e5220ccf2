"""How well does a Whisper listen that was trained here from nothing, and what does compression cost it?

`python -m benchmarks.speech` makes the data by espeak-ng (6,000 clips, and 600 of voices that training does not hear), trains
`examples/training/speech_whisper.yaml` for each seed, which is kept (`benchmarks/trained`), compresses it by `int8-full` and `int4`, and
counts word errors of greedy decoding on the 600. `--quick` has 60 steps and 60 clips, to see that everything runs.

Lines, fixed before running. At most 15 % of the words are wrong in unheard voices, on average over the seeds; a model that does not listen
has about 90 %. `int8-full` adds at most 0.5 points, `int4` at most 3, on average.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import trimodal
from benchmarks.passlines import PassLine, finish, table
from benchmarks.trained import get_trained, make_data, read_training
from benchmarks.trained.speech import SPEECH, WHISPER
from examples.training.speak_sentences import NoSpeakerError, list_voices, write_speech
from trimodal.core import Sample
from trimodal.data import read_samples
from trimodal.formats import open_model
from trimodal.training.tasks import make_objective
from trimodal.training_runs.evaluation import transcribe
from trimodal.verification.words import compute_word_error_rate

RECIPES = ("int8-full", "int4")
AT_ONCE = 50
_QUICK_CLIPS = 60


@dataclass(frozen=True)
class Row:
    """What one model says: bytes of its weights and word errors in percent; `recipe` is empty for the model as it was trained."""

    seed: int
    recipe: str
    size: int
    errors: float


@torch.no_grad()
def count_errors(folder: Path, samples: Sequence[Sample]) -> float:
    """Percent of the words that are wrong."""
    model = open_model(folder)
    objective = make_objective("transcribe", model, samples, part=AT_ONCE)
    said: list[str] = []
    for start in range(0, len(samples), AT_ONCE):
        batch = objective.encode(list(enumerate(samples[start : start + AT_ONCE])))
        said += transcribe(model, {name: value for name, value in batch.items() if name != "labels"})
    return compute_word_error_rate(said, [sample.target or "" for sample in samples])


def run(seed: int, whisper: Any, data: Path, samples: Sequence[Sample]) -> list[Row]:
    """The model of `seed`, and what is made of it."""
    folder = get_trained(whisper, seed)
    rows = [Row(seed, "", _weigh(folder), count_errors(folder, samples))]
    for recipe in RECIPES:
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "out"
            trimodal.compress(folder, recipe, data, out)
            rows.append(Row(seed, recipe, _weigh(out), count_errors(out, samples)))
    return rows


def _weigh(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def show(rows: Sequence[Row], whisper: Any) -> str:
    """A row per recipe, over the seeds."""
    whole = [row.size for row in rows if not row.recipe]
    seeds = [row.seed for row in rows if not row.recipe]
    lines: list[tuple[str, ...]] = []
    for recipe in ("", *RECIPES):
        own = [row for row in rows if row.recipe == recipe]
        errors = [row.errors for row in own]
        shares = [row.size / size for row, size in zip(own, whole, strict=True)]
        lines.append((recipe or "as trained", f"{statistics.mean(row.size for row in own) / 1e6:.2f} MB", f"{statistics.mean(shares):.2f}",
                      f"{statistics.mean(errors):.1f} %", f"{min(errors):.1f}–{max(errors):.1f}"))  # fmt: skip
    seconds = [float(read_training(get_trained(whisper, seed))["seconds"]) for seed in seeds]
    times = f"training: {', '.join(f'{value:.0f}' for value in seconds)} s (seeds {', '.join(map(str, seeds))})"
    return f"{table(('Whisper', 'weights', 'of the bytes', 'word error rate', 'range'), lines)}\n\n{times}"


def judge(rows: Sequence[Row]) -> list[PassLine]:
    """The lines of the docstring."""
    mean = {recipe: statistics.mean(row.errors for row in rows if row.recipe == recipe) for recipe in ("", *RECIPES)}
    return [
        PassLine("word error rate in unheard voices, percent", mean[""], most=15.0),
        PassLine("points that int8-full adds", mean["int8-full"] - mean[""], most=0.5),
        PassLine("points that int4 adds", mean["int4"] - mean[""], most=3.0),
    ]


def main() -> None:
    """Train or find, compress, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 60 steps, 60 clips; nothing is judged")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    try:
        list_voices()
    except NoSpeakerError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    started = time.perf_counter()
    whisper, speech, seeds = WHISPER, SPEECH, given.seeds
    if given.quick:
        sizes = {"training": 2 * _QUICK_CLIPS, "test": _QUICK_CLIPS}
        speech = replace(SPEECH, settings=sizes, write=lambda folder: write_speech(folder, *sizes.values()))
        whisper, seeds = replace(WHISPER, data=speech, changes={"steps": 60, "evaluate_every": 60}), [0]
    data = make_data(speech) / whisper.file
    samples = [sample for sample in read_samples(data) if sample.split == "test"]
    rows = [row for seed in seeds for row in run(seed, whisper, data, samples)]
    print(show(rows, whisper))
    print(f"{len(samples)} clips; {time.perf_counter() - started:.0f} s in all")
    if not given.quick:
        finish(judge(rows))


if __name__ == "__main__":
    main()
