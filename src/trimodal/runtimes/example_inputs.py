"""What is given to a file that is timed: numbers of the right shapes, the same in every process.

Time depends on shapes, not on numbers. Fidelity on such inputs is a check of the arithmetic; how good a compressed model is, `trimodal
verify` says, on data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Shape = Sequence[int | str]
"""A length, or a word for one that may vary: `batch_size`, `sequence_length`, `past_sequence_length + sequence_length`."""
_BATCH, _PAST = "batch", "past"
_COUNTED = ("token_type_ids", "is_longer")
_WORDS = 1000


def make_inputs(
    shapes: Mapping[str, Shape], batch: int, tokens: int, words: int | None = None, seed: int = 0
) -> dict[str, NDArray[np.generic]]:
    """Arrays for a component's inputs.

    Args:
        shapes: by input, as `export.json` has them.
        batch: samples at once.
        tokens: length of a text; where a past is given too, that of the past, and the text is one token.
        words: of the vocabulary, from which ids are drawn.
        seed: of the numbers.

    Returns:
        By input an array of its shape: int64 for ids and masks, float32 for anything else.
    """
    chance = np.random.default_rng(seed)
    with_past = any(_PAST in str(length) for shape in shapes.values() for length in shape)
    sizes = {name: tuple(measure_length(length, batch, tokens, with_past) for length in shape) for name, shape in shapes.items()}
    return {name: _fill(name, size, words or _WORDS, chance) for name, size in sizes.items()}


def measure_length(length: int | str, batch: int, tokens: int, with_past: bool = False) -> int:
    """A shape's entry as a number."""
    if isinstance(length, int):
        return length
    return sum(_measure_word(word.strip(), batch, tokens, with_past) for word in length.split("+"))


def _measure_word(word: str, batch: int, tokens: int, with_past: bool) -> int:
    if word.isdecimal():
        return int(word)
    if _BATCH in word:
        return batch
    return 1 if with_past and _PAST not in word and "encoder" not in word else tokens


def _fill(name: str, size: tuple[int, ...], words: int, chance: np.random.Generator) -> NDArray[np.generic]:
    if "mask" in name:
        return np.ones(size, np.int64)
    if name in _COUNTED:
        return np.zeros(size, np.int64)
    if name == "position_ids":
        return np.broadcast_to(np.arange(size[-1], dtype=np.int64), size).copy()
    if name.endswith("ids"):
        return chance.integers(min(5, words - 1), words, size, dtype=np.int64)
    return chance.standard_normal(size, dtype=np.float32)


def varies_with_tokens(shapes: Mapping[str, Shape]) -> bool:
    """Whether a component takes texts of any length."""
    return any(isinstance(length, str) and _BATCH not in length for shape in shapes.values() for length in shape)
