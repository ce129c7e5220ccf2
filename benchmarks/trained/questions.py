"""How a model answers questions about scenes: by kind of question, beside what could be said without looking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.training.draw_scenes import QUESTIONS, find_kind


@dataclass(frozen=True)
class Answers:
    """Whether each answer was right, by kind of question: bool (questions,)."""

    right: Mapping[str, np.ndarray]

    def share(self, kind: str) -> float:
        """Percent of a kind that is right."""
        return 100 * float(self.right[kind].mean())

    @property
    def mean(self) -> float:
        """The mean of the kinds, in percent, so that each counts alike."""
        return float(np.mean([self.share(kind) for kind in self.right]))


def read_questions(data: Path) -> tuple[list[Any], list[Any]]:
    """The questions to learn from, and those to test with."""
    from trimodal.data import read_samples

    samples = read_samples(str(data))
    return [sample for sample in samples if sample.split != "test"], [sample for sample in samples if sample.split == "test"]


def sort_by_kind(samples: Sequence[Any], right: Sequence[bool]) -> Answers:
    """`right`, one for each of `samples`, by kind of question."""
    kinds = [find_kind(sample.text) for sample in samples]
    return Answers({kind: np.array([r for r, k in zip(right, kinds, strict=True) if k == kind]) for kind in QUESTIONS if kind in kinds})


def ask(model: Any, samples: Sequence[Any], batch: int = 64) -> Answers:
    """What `model`, as trimodal has it, says greedily: right where all of the target is said, and then the end. It is what `compress` and
    `verify` call answer accuracy, here by kind."""
    import torch

    from trimodal.data import encode_samples
    from trimodal.verification.tasks import answer_accuracy, top1_tokens

    right: list[bool] = []
    with torch.inference_mode():
        for start in range(0, len(samples), batch):
            encoded = encode_samples(model, samples[start : start + batch])
            labels = encoded["labels"]
            said = top1_tokens(model.module.eval()(**{name: value for name, value in encoded.items() if name != "labels"}).logits)
            right += [bool(score) for score in answer_accuracy(said, labels)]
    return sort_by_kind(samples, right)


def say_most_common(train: Sequence[Any], test: Sequence[Any]) -> Answers:
    """The answer that its kind of question most often has among those to learn from."""
    return _say_by(train, test, find_kind)


def say_without_looking(train: Sequence[Any], test: Sequence[Any]) -> Answers:
    """The answer that the very same question most often has among those to learn from, or else its kind."""
    return _say_by(train, test, str)


def _say_by(train: Sequence[Any], test: Sequence[Any], key: Any) -> Answers:
    counts: dict[str, Counter[str]] = {}
    for sample in train:
        for name in {key(sample.text), find_kind(sample.text)}:
            counts.setdefault(name, Counter())[sample.target] += 1
    said = [(counts.get(key(s.text)) or counts[find_kind(s.text)]).most_common(1)[0][0] for s in test]
    return sort_by_kind(test, [answer == sample.target for answer, sample in zip(said, test, strict=True)])
