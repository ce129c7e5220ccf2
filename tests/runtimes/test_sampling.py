"""Tokens that are drawn: with which shares, among which, and the same again for the same seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trimodal.errors import InputError
from trimodal.runtimes.generation import generate
from trimodal.runtimes.generation_settings import GenerationSettings
from trimodal.runtimes.part import Part
from trimodal.runtimes.sampling import choose_tokens

SHARES = np.array([0.2, 0.5, 0.0, 0.3])
with np.errstate(divide="ignore"):
    SCORES = np.log(SHARES).astype(np.float32)


def draw(temperature: float, top_p: float = 1.0, count: int = 20_000) -> NDArray[np.float64]:
    """The shares in which tokens are drawn."""
    chosen = choose_tokens(np.tile(SCORES, (count, 1)), temperature, top_p, np.random.default_rng(0))
    return np.bincount(chosen, minlength=4) / count


def test_without_temperature_the_likeliest() -> None:
    assert draw(0, count=3).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, SHARES), (0.5, 1.0, SHARES**2 / (SHARES**2).sum()), (1.0, 0.6, np.array([0, 0.625, 0, 0.375])),
        (1.0, 0.5, np.array([0, 1, 0, 0])), (1.0, 1e-9, np.array([0, 1, 0, 0])), (2.0, 0.8, None),
    ],
)  # fmt: skip
def test_shares(temperature: float, top_p: float, expected: NDArray[np.float64] | None) -> None:
    if expected is None:  # at T = 2 the roots: 0.263, 0.415, 0.322; the first two come to less than 0.8
        expected = np.sqrt(SHARES) / np.sqrt(SHARES).sum()
    assert draw(temperature, top_p) == pytest.approx(expected, abs=5 * 0.5 / 20_000**0.5)


@given(
    st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=8), st.floats(0.01, 100), st.floats(0.01, 1), st.integers(0, 99),
    st.floats(0, 1, exclude_max=True),
)  # fmt: skip
def test_what_may_not_be_said_is_never_drawn(scores: list[float], temperature: float, top_p: float, seed: int, at: float) -> None:
    row = np.array([[*scores, -np.inf]], np.float32)
    chosen = int(choose_tokens(row, temperature, top_p, np.random.default_rng(seed))[0])
    assert 0 <= chosen < len(scores)
    assert chosen == int(choose_tokens(row, temperature, top_p, np.random.default_rng(seed))[0])


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"temperature": True}, {"top_p": 0}, {"top_p": 1.1}, {"seed": -1}, {"seed": 0.5}])
def test_wishes_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        GenerationSettings().with_changes(**wrong)


class Dice:
    """A decoder to which all words are alike, with a past that it does not read."""

    input_names: Sequence[str] = ("input_ids", "past_key_values.0.key")
    output_names: Sequence[str] = ("logits", "present.0.key")

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        rows, new = inputs["input_ids"].shape
        past = np.concatenate([inputs["past_key_values.0.key"], np.zeros((rows, 1, new, 2), np.float32)], axis=2)
        return {"logits": np.zeros((rows, new, 50), np.float32), "present.0.key": past}

    def list_integer_nodes(self) -> Sequence[str]:
        return ()

    def close(self) -> None:
        """Nothing to let go of."""


def say(**changed: float) -> list[int]:
    parts = {"model": Part(Dice(), {"input_ids": ("batch_size", "n"), "past_key_values.0.key": ("batch_size", 1, "past", 2)})}
    settings = GenerationSettings(end=(49,)).with_changes(max_new_tokens=30, **changed)
    return generate(parts, {"input_ids": np.array([[1, 2]])}, settings)[0].tolist()


def test_a_text_is_drawn_and_with_a_seed_the_same_again() -> None:
    assert set(say()) == {0}
    said = say(temperature=1.0, seed=3)
    assert len(set(said)) > 5 and said == say(temperature=1.0, seed=3) != say(temperature=1.0, seed=4)
    assert set(say(temperature=1.0, top_p=0.1, seed=3)) <= set(range(5))
