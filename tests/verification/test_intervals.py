"""The paired bootstrap against cases that can be worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from trimodal.verification.intervals import paired_interval


def test_equal_scores_have_no_spread() -> None:
    scores = np.array([0.0, 100.0, 100.0])
    found = paired_interval(scores, scores, seed=0)
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_a_constant_drop_has_no_spread() -> None:
    found = paired_interval(np.full(7, 1.0), np.full(7, 0.9), seed=0)
    assert found.low == found.high == pytest.approx(0.1)


def test_a_proportion_agrees_with_the_normal_approximation() -> None:
    after = np.full(2000, 100.0)
    after[:100] = 0  # 5 % changed
    found = paired_interval(np.full(2000, 100.0), after, seed=0)
    half = 1.96 * 100 * np.sqrt(0.05 * 0.95 / 2000)
    assert found.mean == pytest.approx(5)
    assert found.low == pytest.approx(5 - half, abs=0.1)
    assert found.high == pytest.approx(5 + half, abs=0.1)


def test_four_samples_agree_with_all_their_draws() -> None:
    d = np.array([0.0, 0.0, 1.0, -1.0])
    means = np.array([np.mean(draw) for draw in itertools.product(d, repeat=4)])
    low, high = np.quantile(means, [0.025, 0.975])
    found = paired_interval(d, np.zeros(4), seed=0, resamples=200_000)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def test_pairing_narrows_the_interval() -> None:
    generator = np.random.default_rng(0)
    before = generator.integers(0, 2, 500) * 100.0
    after = before.copy()
    after[:5] = 0
    shuffled = generator.permutation(after)
    paired, unpaired = (paired_interval(before, other, seed=0) for other in (after, shuffled))
    assert paired.high - paired.low < 0.3 * (unpaired.high - unpaired.low)


def test_the_seed_decides_and_chunks_cover_all() -> None:
    generator = np.random.default_rng(0)
    before, after = generator.normal(size=(2, 3000))
    first = paired_interval(before, after, seed=5)
    assert first == paired_interval(before, after, seed=5)
    assert first != paired_interval(before, after, seed=6)
    assert first.low < first.mean < first.high


def test_refuses_scores_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="one score per sample"):
        paired_interval(np.zeros(3), np.zeros(2), seed=0)
    with pytest.raises(ValueError, match="one score per sample"):
        paired_interval(np.zeros(0), np.zeros(0), seed=0)
