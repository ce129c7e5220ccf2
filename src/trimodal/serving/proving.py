"""Before a model is called ready: does it compute what was recorded, and are samples that are computed together what they are alone?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import InputError, IntegrityError
from trimodal.runtimes.example_inputs import make_inputs
from trimodal.runtimes.part import PAST
from trimodal.serving.requests import ComponentCard
from trimodal.serving.runners import Runner

_TOKENS, _FRAMES = 7, 4_000
_ALIKE = 1e-3  # of the largest output; rounding in another order is some 1e-6, a range over all samples of a batch some 1e-2


def find_joinable(runner: Runner, words: int | None) -> frozenset[str]:
    """The components whose outputs for a sample do not depend on which others are computed with it: tried on two samples, the second a
    hundred times as large, whose range would swallow the first.

    Raises:
        IntegrityError: an output is not finite.
    """
    return frozenset(name for name in sorted(runner.rows) if _is_joinable(runner, runner.cards[name], words))


def _is_joinable(runner: Runner, card: ComponentCard, words: int | None) -> bool:
    if any(spec.name.startswith(PAST) for spec in card.inputs):  # steps of texts that are said, each with a past of its own
        return False
    pair = _make_pair(card, words)
    try:
        together = runner.run(card.name, pair)
    except (InputError, RuntimeError):  # lengths that only a processor knows to choose; such samples are computed one by one
        return False
    alone = [runner.run(card.name, {name: value[row : row + 1] for name, value in pair.items()}) for row in (0, 1)]
    for found in alone:
        if not all(np.isfinite(value).all() for value in found.values()):
            raise IntegrityError(f"{card.name} gives numbers that are not finite; export the model again")
    return all(
        value.shape[0] == 2 and _is_alike(value[row : row + 1], alone[row][name])
        for name, value in together.items() for row in (0, 1)
    )  # fmt: skip


def _make_pair(card: ComponentCard, words: int | None) -> Mapping[str, NDArray[Any]]:
    shapes = {spec.name: ["batch_size", *("sequence_length" if n < 0 else n for n in spec.shape[1:])] for spec in card.inputs}
    sound = any(spec.name == "input_values" for spec in card.inputs)
    made = make_inputs(shapes, 2, _FRAMES if sound else _TOKENS, words)
    for name, value in made.items():
        if value.dtype == np.float32:
            value[1] *= 100.0
        made[name] = value
    return {spec.name: made[spec.name].astype(spec.type) for spec in card.inputs}


def _is_alike(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    if found.shape != expected.shape:
        return False
    return bool(np.abs(found - expected).max(initial=0.0) <= _ALIKE * max(float(np.abs(expected).max(initial=0.0)), 1e-6))
