"""Sounds for CLAP: the same twice, the same in a batch as alone, whatever the extractor would draw at random."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
import transformers

from trimodal.models.families import clap
from trimodal.models.model import LoadedSample, Processors

Way = Literal["rand_trunc", "fusion"]
RATE = 16_000


def encode(way: Way, *seconds: float) -> dict[str, torch.Tensor]:
    extractor = transformers.ClapFeatureExtractor(
        feature_size=64, sampling_rate=RATE, hop_length=80, max_length_s=1, fft_window_size=1024, frequency_max=8000, truncation=way,
        padding="repeatpad",
    )  # fmt: skip
    chance = np.random.default_rng(0)
    wave = chance.normal(size=4 * RATE).astype(np.float32)
    samples = [LoadedSample(audio=wave[: int(length * RATE)], sampling_rate=RATE) for length in seconds]
    return clap._encode_sounds(Processors(audio=extractor), samples)


@pytest.mark.parametrize("way", ["rand_trunc", "fusion"])
def test_a_sound_is_the_same_twice_and_beside_others(way: Any) -> None:
    both = encode(way, 0.3, 2.0, 1.5)
    again = encode(way, 2.0)
    assert torch.equal(both["input_features"][1], again["input_features"][0])
    assert both["is_longer"].shape == (3, 1)


def test_a_short_sound_is_never_said_to_be_long() -> None:
    assert encode("fusion", 0.3, 0.4)["is_longer"].tolist() == [[False], [False]]
    assert encode("fusion", 0.3, 0.4, 2.0)["is_longer"].tolist() == [[False], [False], [True]]


def test_of_a_long_sound_the_beginning_is_heard() -> None:
    assert torch.equal(encode("rand_trunc", 2.0)["input_features"], encode("rand_trunc", 1.0)["input_features"])


def test_the_generator_of_the_process_goes_on_where_it_was() -> None:
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    encode("fusion", 2.0)
    assert np.random.random() == expected
