"""The end of the demo: what was exported answers questions, and how long each takes before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimodal.benching.bench import Bench, Tell
from trimodal.benching.choice import Choice, open_fastest
from trimodal.benching.for_cpu import prepare_for_cpu
from trimodal.core import Sample
from trimodal.data import batch_samples, read_samples
from trimodal.formats import open_model

QUESTIONS = 5
_ROUNDS = 5


@dataclass(frozen=True)
class DemoAnswer:
    """One question of the test part, which digits it came with, and what was answered."""

    question: str
    seen: int
    heard: int
    answer: str
    right: bool


@dataclass(frozen=True)
class DemoRun:
    """What ran where and how fast, which was taken, and its answers."""

    bench: Bench
    choice: Choice
    answers: tuple[DemoAnswer, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"bench": self.bench.to_json(), "choice": self.choice.to_json(), "answers": [vars(answer) for answer in self.answers]}


def run_exported(model: Path, data: Path, out: Path, tell: Tell | None = None) -> DemoRun:
    """Export what the demo compressed into `out`, time it beside the original `model`, and ask it questions of `data`.

    Raises:
        InputError: no runtime is installed.
        IntegrityError: what was exported is not what was compressed.
    """
    found, choice = prepare_for_cpu(out, data, model, tell=tell, rounds=_ROUNDS)
    return DemoRun(found, choice, ask_exported(model, data, out))


def ask_exported(model: Path, data: Path, out: Path, count: int = QUESTIONS) -> tuple[DemoAnswer, ...]:
    """The fastest form of `out` on this machine answers the first `count` questions of the test part; `model` only says how a sample
    becomes numbers."""
    asking = open_model(str(model))
    samples = [sample for sample in read_samples(data) if sample.split == "test"][:count]
    batch = batch_samples(asking, samples, count)[0]
    session = open_fastest(out)["model"]
    scores = session.run({name: value.numpy() for name, value in batch.items()})["logits"]
    words: Any = asking.module.config.id2label  # type: ignore[union-attr]
    session.close()
    return _read_answers(samples, np.argmax(scores, axis=1), words)


def _read_answers(samples: Sequence[Sample], classes: np.ndarray, words: Any) -> tuple[DemoAnswer, ...]:
    return tuple(
        DemoAnswer(sample.text or "", sample.labels["image"], sample.labels["audio"], str(words[int(found)]), int(found) == sample.label)
        for sample, found in zip(samples, classes, strict=True)
    )
