"""How sure a measured drop is: a paired bootstrap over samples.

Both models answer the same samples, so the drop is the mean of d = before − after, one difference per sample.
Drawing n of the n differences with replacement, many times, and taking the mean each time shows how far that mean
would move with other samples; the middle 95 % of those means is the interval (Efron 1979, percentile form).
Pairing is what makes it narrow: a sample that both models get wrong adds nothing.

    d = (0, 0, 1, −1) points: mean 0. Of the 4⁴ = 256 equally likely draws, those of mean 1 are (1, 1, 1, 1), one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
_DRAWS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Interval:
    """A mean and the interval around it, in the unit of what was averaged."""

    mean: float
    low: float
    high: float


def paired_interval(
    before: np.ndarray, after: np.ndarray, *, seed: int, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """The mean of `before − after` and its paired bootstrap interval.

    Args:
        before: (samples,) one score per sample of the original.
        after: (samples,) the compressed model's scores of the same samples.
        seed: of the draws; the same seed gives the same interval.
        resamples: how many times n samples are drawn.
        level: share of the resampled means that lies within the interval.

    Raises:
        ValueError: the two do not match, or there is no sample.
    """
    if before.shape != after.shape or before.ndim != 1 or not before.size:
        raise ValueError(f"scores have shapes {before.shape} and {after.shape}; expected one score per sample in both")
    differences = before.astype(np.float64) - after.astype(np.float64)  # (samples,)
    means = _resampled_means(differences, np.random.default_rng(seed), resamples)  # (resamples,)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(differences.mean()), float(low), float(high))


def _resampled_means(values: np.ndarray, generator: np.random.Generator, resamples: int) -> np.ndarray:
    """(resamples,) means of `values` drawn with replacement, a few million draws at a time to bound memory."""
    if (values == values[0]).all():
        return np.full(resamples, values[0])
    rows = max(1, _DRAWS_AT_ONCE // values.size)
    means = np.empty(resamples)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(0, values.size, size=(count, values.size), dtype=np.int32)
        means[start : start + count] = values[drawn].mean(axis=1)
    return means
