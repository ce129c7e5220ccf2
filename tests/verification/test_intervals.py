"""The paired bootstrap against cases that can be worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from trimodal.verification.intervals import (
    _resample_means,
    clopper_pearson_upper_bound,
    compute_paired_interval,
    tango_interval,
)


def test_where_nothing_changed_there_is_a_bound_and_no_point() -> None:
    scores = np.array([0.0, 100.0] * 50)
    found = compute_paired_interval(scores, scores, seed=0)
    assert (found.mean, found.kind) == (0, "bound")
    assert found.high == pytest.approx(100 * (1 - 0.05 ** (1 / 100))) == pytest.approx(3, rel=0.02)  # the rule of three
    assert found.low == -found.high  # type: ignore[operator]


def test_a_constant_drop_has_a_bound_too() -> None:
    found = compute_paired_interval(np.full(100, 1.0), np.full(100, 0.9), seed=0, largest=2.0)
    assert found.kind == "bound" and found.low < 0.1 < found.high  # type: ignore[operator]
    lost = compute_paired_interval(np.full(100, 100.0), np.zeros(100), seed=0)
    assert lost.kind == "score" and 90 < lost.low < 100 == lost.high  # type: ignore[operator]


@pytest.mark.parametrize(("count", "shown"), [(1, False), (9, False), (10, True)])
def test_fewer_than_ten_samples_have_no_interval(count: int, shown: bool) -> None:
    before, after = np.linspace(0, 1, count), np.zeros(count)
    found = compute_paired_interval(before, after, seed=0)
    assert (found.low is not None, found.high is not None) == (shown, shown)
    assert found.kind == ("bootstrap" if shown else "too few") and found.mean == pytest.approx(before.mean())


@pytest.mark.parametrize(
    ("count", "samples", "share"), [(0, 10, 0.2589), (0, 100, 0.0295), (1, 10, 0.3942), (3, 20, 0.3437), (10, 10, 1.0)]
)
def test_the_bound_of_a_share_is_that_of_tables(count: int, samples: int, share: float) -> None:
    assert clopper_pearson_upper_bound(count, samples) == pytest.approx(share, abs=5e-5)


def test_the_ends_of_the_score_interval_solve_its_equation() -> None:
    """9 lost, 3 gained of 44: at either end |6 − 44 Δ| − ½ is 1.96 standard deviations, q from its quadratic equation."""
    for end in tango_interval(9, 3, 44):
        linear, constant = -12 + (88 - 6) * end, -3 * end * (1 - end)
        share = (np.sqrt(linear**2 - 8 * 44 * constant) - linear) / (4 * 44)
        assert (abs(6 - 44 * end) - 0.5) / np.sqrt(44 * (2 * share + end * (1 - end))) == pytest.approx(1.959964)
    low, high = tango_interval(3, 8, 60)
    assert tango_interval(8, 3, 60) == pytest.approx((-high, -low))
    assert tango_interval(300, 200, 10_000) == pytest.approx((0.01 - 0.00438, 0.01 + 0.00438), abs=2e-4)  # normal by then


@pytest.mark.parametrize(
    ("samples", "lost", "gained"),
    [(10, 0.1, 0.05), (40, 0.03, 0.0), (60, 0.02, 0.02), (100, 0.03, 0.01), (400, 0.01, 0.005), (200, 0.2, 0.1)],
)
def test_the_interval_of_answers_covers_the_truth(samples: int, lost: float, gained: float) -> None:
    """In 95 of 100 experiments, in whatever share of them something changed; a bootstrap covers less where little does."""
    generator = np.random.default_rng(samples)
    counts = generator.multinomial(samples, [lost, gained, 1 - lost - gained], size=2000)
    known: dict[tuple[int, int], bool] = {}
    for b, c, _ in counts.tolist():
        if (b, c) not in known:
            before, after = np.full(samples, 100.0), np.full(samples, 100.0)
            after[:b], before[b : b + c] = 0, 0
            found = compute_paired_interval(before, after, seed=0)
            known[b, c] = found.low <= 100 * (lost - gained) <= found.high  # type: ignore[operator]
    assert np.mean([known[b, c] for b, c, _ in counts.tolist()]) >= 0.95


def test_the_interval_of_cosines_covers_the_truth() -> None:
    generator = np.random.default_rng(3)
    drawn = generator.gamma(2.0, 0.01, size=(400, 60))  # mean 0.02, skewed as drops of cosines are
    found = [compute_paired_interval(np.ones(60), 1 - drops, seed=0, largest=2.0, resamples=1000) for drops in drawn]
    assert np.mean([one.low <= 0.02 <= one.high for one in found]) >= 0.91  # type: ignore[operator]


def test_few_changed_scores_widen_the_interval() -> None:
    before, after = np.full(200, 100.0), np.full(200, 100.0)
    after[0] = 95.0  # one sample lost one token of twenty
    found = compute_paired_interval(before, after, seed=0)
    assert found.high == pytest.approx(5 * clopper_pearson_upper_bound(1, 200)) and found.low < 0 < found.high  # type: ignore[operator]


def test_many_samples_cost_no_draws() -> None:
    drops = np.random.default_rng(0).normal(0.01, 0.01, 50_000)
    found = compute_paired_interval(np.ones(50_000), 1 - drops, seed=0, largest=2.0)
    assert found.kind == "normal" and found.high - found.low == pytest.approx(2 * 1.96 * 0.01 / 50_000**0.5, rel=0.02)  # type: ignore[operator]


def test_a_proportion_agrees_with_the_normal_approximation() -> None:
    after = np.full(2000, 100.0)
    after[:100] = 0  # 5 % changed
    found = compute_paired_interval(np.full(2000, 100.0), after, seed=0)
    half = 1.96 * 100 * np.sqrt(0.05 * 0.95 / 2000)
    assert found.mean == pytest.approx(5)
    assert found.low == pytest.approx(5 - half, abs=0.15)
    assert found.high == pytest.approx(5 + half, abs=0.15)


def test_draws_agree_with_all_that_are_possible() -> None:
    d = np.array([0.0, 0.0, 1.0, -1.0])
    means = np.array([np.mean(draw) for draw in itertools.product(d, repeat=4)])
    expected = np.quantile(means, [0.025, 0.975])
    drawn = _resample_means(d, np.random.default_rng(0), 200_000)
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx(expected, abs=1e-9)


def test_pairing_narrows_the_interval() -> None:
    generator = np.random.default_rng(0)
    before = generator.integers(0, 2, 500) * 100.0
    after = before.copy()
    after[:5] = 0
    shuffled = generator.permutation(after)
    paired, unpaired = (compute_paired_interval(before, other, seed=0) for other in (after, shuffled))
    assert paired.high - paired.low < 0.4 * (unpaired.high - unpaired.low)  # type: ignore[operator]


def test_the_seed_decides_and_chunks_cover_all() -> None:
    generator = np.random.default_rng(0)
    before, after = generator.normal(size=(2, 3000))
    first = compute_paired_interval(before, after, seed=5)
    assert first == compute_paired_interval(before, after, seed=5)
    assert first != compute_paired_interval(before, after, seed=6)
    assert first.low < first.mean < first.high


def test_refuses_scores_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="one score per sample"):
        compute_paired_interval(np.zeros(3), np.zeros(2), seed=0)
    with pytest.raises(ValueError, match="one score per sample"):
        compute_paired_interval(np.zeros(0), np.zeros(0), seed=0)
