"""Answers of Node and of the page beside torch's, as pass lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.passlines import PassLine

RIGHT = 0.8  # share of right answers without which a model's answers would mean nothing
EVERYDAY = 20  # MiniLM's sentences that have neighbours; those behind them are of the kind that it was calibrated with


def choose_answers(name: str, found: Any) -> Sequence[Any]:
    """The answer per question: a sentence's nearest other, an image's sentence or label, a sound's words."""
    if name == "whisper":
        return list(found)
    scores = np.array(found)
    if name == "minilm":
        scores = scores[:EVERYDAY] @ scores[:EVERYDAY].T
        np.fill_diagonal(scores, -1)
    return [int(i) for i in scores.argmax(-1)]


_ANSWERS = {
    "minilm": "nearest neighbours", "clip": "images' sentences", "vit": "images' labels", "whisper": "sounds' words",
}  # fmt: skip


def judge_torch(name: str, original: Any, question: Mapping[str, Any]) -> PassLine:
    """The float model's answers beside the right ones: a model that guesses would prove nothing."""
    chosen, right = choose_answers(name, original), question["right"]
    same = sum(a == b for a, b in zip(chosen, right))
    return PassLine(f"{name}: {_ANSWERS[name]} that the float model gets right, of {len(right)}", same, least=int(RIGHT * len(right)))


def judge_node(name: str, found: Any, torch: Any, original: Any) -> list[PassLine]:
    """Node's answers beside torch's, of the same artifact; MiniLM's vectors also beside the float model's."""
    if isinstance(found, dict):
        print(f"{name} in Node: {found['error']}")
        return [PassLine(f"{name} in Node: answered", 0, least=1)]
    chosen, said = choose_answers(name, found), choose_answers(name, torch)
    same = sum(a == b for a, b in zip(chosen, said))
    lines = [PassLine(f"{name} in Node: {_ANSWERS[name]} as torch's, of {len(said)}", same, least=len(said))]
    if name == "minilm":
        lines += _judge_vectors(np.array(found), np.array(torch), np.array(original))
    elif name != "whisper":
        what = "cosine" if name == "clip" else "score"
        lines.append(PassLine(f"{name} in Node: largest difference of a {what}", np.abs(np.array(found) - torch).max(), most=0.02))
    return lines


def judge_page(name: str, found: Any, torch: Any, question: Mapping[str, Any]) -> list[PassLine]:
    """The rows that the page shows for each question that it was asked, the first of them beside torch's answer."""
    if isinstance(found, dict):
        print(f"{name} in the page: {found['error']}")
        return [PassLine(f"{name} in the page: answered", 0, least=1)]
    shown = [rows[0][0].strip() for rows in found]
    answers = choose_answers(name, torch)[: len(shown)]
    said = answers if name == "whisper" else [question.get("names", question.get("sentences"))[i] for i in answers]
    same = sum(a == b for a, b in zip(shown, said))
    return [PassLine(f"{name} in the page: {_ANSWERS[name]} as torch's, of {len(shown)}", same, least=len(shown))]


def judge_manners(found: Mapping[str, Any]) -> list[PassLine]:
    """What else the page has to do: each entry is what went wrong, or an empty text."""
    for what, wrong in found.items():
        if wrong:
            print(f"{what}: {wrong}")
    return [PassLine(f"page: {what}", not wrong, least=1) for what, wrong in found.items()]


def _judge_vectors(found: Any, torch: Any, original: Any) -> list[PassLine]:
    """Cosines of unit vectors (sentences, width) to those of the same artifact in torch, and to the float model's."""
    near, far, simulated = ((a * b).sum(-1) for a, b in ((found, torch), (found, original), (torch, original)))
    print(
        f"minilm: mean and smallest cosine to the float model's vectors, {EVERYDAY} everyday sentences: "
        f"in Node {far[:EVERYDAY].mean():.5f}, {far[:EVERYDAY].min():.5f}; "
        f"in torch {simulated[:EVERYDAY].mean():.5f}, {simulated[:EVERYDAY].min():.5f}"
    )
    what = f"mean cosine to the float model's vectors, {len(found) - EVERYDAY} docstrings"
    return [
        PassLine("minilm in Node: smallest cosine to torch's vectors", float(near.min()), least=0.998),
        PassLine(f"minilm in Node: {what}", float(far[EVERYDAY:].mean()), least=0.998),
    ]
