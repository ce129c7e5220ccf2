"""How sure a measured drop is: a 95 % interval over paired samples.

Both models answer the same samples, so the drop is the mean of d = before − after, one difference per sample. Pairing is
what makes the interval narrow: a sample that both models get wrong adds nothing. Which interval fits depends on the scores:

`too few`    fewer than 10 samples: there is none.
`score`      every sample is right or wrong (0 or 100). Of n samples b were lost and c gained; the interval holds the Δ that
             the score test for paired proportions does not reject (Tango 1998), which keeps its level where few are
             discordant, as a bootstrap does not:  |b − c − nΔ| − ½ ≤ z · √(n (2q + Δ (1 − Δ))),  q the share of gains that
             is most likely under Δ. The ½ corrects for counts being whole; without it 93 of 100 intervals hold the truth.
`bound`      no sample changed, or all by the same. The share of those that would do otherwise is at most u = 1 − 0.05^(1/n),
             about 3/n (Clopper and Pearson 1934; the rule of three), so the drop lies within ± u · the largest possible
             change of one sample.
`bootstrap`  any other scores: n of the n differences are drawn with replacement, many times; the middle 95 % of the means
             (Efron 1979, percentile form). Where fewer than 10 samples changed, these draws know too little: the interval
             is widened to ± u · the largest change seen, u the Clopper-Pearson bound of the share that changes.
`normal`     more than 10,000 such samples: the mean of so many is normal, and drawing would take long.

    d = (0, 0, 1, −1) points: mean 0. Of the 4⁴ = 256 equally likely draws, those of mean 1 are (1, 1, 1, 1), one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 10_000
LEVEL = 0.95
FEWEST = 10
LARGEST = {"percent": 100.0, "cosine": 2.0}  # by how much one sample can change
_DRAWS_AT_ONCE = 1 << 22
_DRAWS = 20_000_000
_RIGHT = 100.0
_HALVINGS = 60
_HALF_A_SAMPLE = 0.5


@dataclass(frozen=True)
class PairedInterval:
    """A mean and the interval around it, from `low` to `high`, in the unit of what was averaged; None where there are too few
    samples."""

    mean: float
    low: float | None
    high: float | None
    kind: str


def compute_paired_interval(
    before: np.ndarray, after: np.ndarray, *, seed: int, largest: float = LARGEST["percent"], resamples: int = RESAMPLES
) -> PairedInterval:
    """The mean of `before − after` and its paired 95 % interval.

    Args:
        before: (samples,) one score per sample of the original.
        after: (samples,) the compressed model's scores of the same samples.
        seed: of the draws; the same seed gives the same interval.
        largest: by how much one sample's score can change.
        resamples: how many times n samples are drawn, where they are.

    Raises:
        ValueError: the two do not match, or there is no sample.
    """
    if before.shape != after.shape or before.ndim != 1 or not before.size:
        raise ValueError(f"scores have shapes {before.shape} and {after.shape}; expected one score per sample in both")
    differences = before.astype(np.float64) - after.astype(np.float64)  # (samples,)
    mean = float(differences.mean())
    if differences.size < FEWEST:
        return PairedInterval(mean, None, None, "too few")
    changed = int((differences != 0).sum())
    alike = bool((differences == differences[0]).all())
    if alike and not (changed and _is_right_or_wrong(before, after)):
        bound = clopper_pearson_upper_bound(0, differences.size) * largest
        return PairedInterval(mean, mean - bound, mean + bound, "bound")
    if _is_right_or_wrong(before, after):
        low, high = tango_interval(int((differences > 0).sum()), int((differences < 0).sum()), differences.size)
        return PairedInterval(mean, _RIGHT * low, _RIGHT * high, "score")
    low, high, kind = _bootstrap_interval(differences, seed, resamples)
    if changed < FEWEST:
        bound = clopper_pearson_upper_bound(changed, differences.size) * float(np.abs(differences).max())
        low, high = min(low, -bound), max(high, bound)
    return PairedInterval(mean, low, high, kind)


def _is_right_or_wrong(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether every score is 0 or 100."""
    return bool(np.isin(before, (0.0, _RIGHT)).all() and np.isin(after, (0.0, _RIGHT)).all())


def clopper_pearson_upper_bound(count: int, samples: int, level: float = LEVEL) -> float:
    """The Clopper-Pearson upper bound of a share of which `count` in `samples` were seen: the largest share under which
    as few have a chance of 1 − `level`. 1 − (1 − level)^(1/samples) where none was seen."""
    if count >= samples:
        return 1.0
    return _find_root(lambda share: _binomial_tail(count, samples, share) - (1 - level), 0.0, 1.0)


def tango_interval(lost: int, gained: int, samples: int, level: float = LEVEL) -> tuple[float, float]:
    """The score interval of the share lost less the share gained, out of `samples` pairs (Tango 1998)."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (lost - gained) / samples

    def statistic(delta: float) -> float:
        linear = -(lost + gained) + (2 * samples - lost + gained) * delta
        constant = -gained * delta * (1 - delta)
        share = (math.sqrt(max(linear * linear - 8 * samples * constant, 0.0)) - linear) / (4 * samples)
        variance = samples * (2 * share + delta * (1 - delta))
        exact = lost - gained - samples * delta
        away = math.copysign(max(abs(exact) - _HALF_A_SAMPLE, 0.0), exact)
        return away / math.sqrt(variance) if variance > 0 else away * math.inf if away else 0.0

    low = -1.0 if statistic(-1.0) <= z else _find_root(lambda delta: statistic(delta) - z, -1.0, middle)
    high = 1.0 if statistic(1.0) >= -z else _find_root(lambda delta: statistic(delta) + z, middle, 1.0)
    return low, high


def _find_root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero between `low` and `high`."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _binomial_tail(count: int, samples: int, share: float) -> float:
    """The chance of at most `count` in `samples`, each with a chance of `share`."""
    if share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    logs = (
        math.lgamma(samples + 1) - math.lgamma(i + 1) - math.lgamma(samples - i + 1)
        + i * math.log(share) + (samples - i) * math.log1p(-share)
        for i in range(count + 1)
    )  # fmt: skip
    return math.fsum(math.exp(log) for log in logs)


def _bootstrap_interval(differences: np.ndarray, seed: int, resamples: int) -> tuple[float, float, str]:
    """The middle 95 % of resampled means; those of a normal distribution where there are so many samples that it is one."""
    if differences.size > RESAMPLES:
        half = NormalDist().inv_cdf((1 + LEVEL) / 2) * float(differences.std(ddof=1)) / math.sqrt(differences.size)
        mean = float(differences.mean())
        return mean - half, mean + half, "normal"
    times = max(1, min(resamples, max(_DRAWS // differences.size, 1000)))
    means = _resample_means(differences, np.random.default_rng(seed), times)  # (times,)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high), "bootstrap"


def _resample_means(values: np.ndarray, generator: np.random.Generator, resamples: int) -> np.ndarray:
    """(resamples,) means of `values` drawn with replacement, a few million draws at a time to bound memory."""
    rows = max(1, _DRAWS_AT_ONCE // values.size)
    means = np.empty(resamples)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(0, values.size, size=(count, values.size), dtype=np.int32)
        means[start : start + count] = values[drawn].mean(axis=1)
    return means
