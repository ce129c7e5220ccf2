"""What an exported file answers to seeded inputs, recorded when it was written, and asked again before it is trusted elsewhere.

Recorded are a few sums of every output with seeded weights, not the output: enough to notice another file, a damaged one, or a processor
whose integer products overflow; small enough for a JSON file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import InputError, IntegrityError
from trimodal.runtimes.example_inputs import make_inputs
from trimodal.runtimes.session import Session

SUMS = 8
ASKED_AGAIN = ("onnxruntime", "openvino")
"""The runtimes whose files are asked where they are served."""
FURTHEST = 0.05
"""How far the sums may be from the recorded ones, as a share of their size. Other kernels round elsewhere: some 0.01 at 8 bits."""
_BATCH, _TOKENS, _FRAMES = 2, 7, 4_000

Answers = Mapping[str, Sequence[float]]
"""By output, its `SUMS` sums."""
Shapes = Mapping[str, Sequence[int | str]]


def record_answers(session: Session, shapes: Shapes, words: int | None = None) -> dict[str, list[float]]:
    """What the open file answers to two seeded samples; empty where it does not take any that nobody chose.

    Args:
        session: the file.
        shapes: of its inputs, as `export.json` has them.
        words: of the vocabulary.
    """
    tokens = _FRAMES if "input_values" in shapes else _TOKENS
    try:
        found = session.run(make_inputs(shapes, _BATCH, tokens, words))
    except InputError:
        return {}
    return {name: _sum_up(value) for name, value in found.items() if value.dtype.kind == "f" and value.size}


def check_answers(what: str, session: Session, shapes: Shapes, recorded: Answers, words: int | None = None) -> None:
    """Ask an open file again.

    Raises:
        IntegrityError: it answers something else.
    """
    found = record_answers(session, shapes, words) if recorded else {}
    for name, expected in recorded.items():
        distance = measure_distance(found.get(name, ()), expected)
        if distance > FURTHEST:
            raise IntegrityError(
                f"{what}: {name} is not what it was when the file was exported (by {distance:.0%}, of which rounding makes at most "
                f"{FURTHEST:.0%}); export it again on this machine"
            )


def measure_distance(found: Sequence[float], expected: Sequence[float]) -> float:
    """‖found − expected‖ / ‖expected‖; infinite where there is nothing to compare, or a number is none."""
    if len(found) != len(expected) or not np.isfinite(found).all():
        return float("inf")
    apart, size = np.subtract(found, expected), float(np.linalg.norm(expected))
    return float(np.linalg.norm(apart)) / max(size, 1e-6)


def _sum_up(value: NDArray[Any]) -> list[float]:
    """`SUMS` seeded sums of all numbers of an output (…), each with weights of variance 1 / their number."""
    flat = value.reshape(-1).astype(np.float64)
    chance = np.random.default_rng(0)
    return [float(chance.standard_normal(flat.size) @ flat / np.sqrt(flat.size)) for _ in range(SUMS)]
