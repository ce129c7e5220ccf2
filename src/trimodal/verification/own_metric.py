"""A metric of the user's own: a function of a module, called with the original and with the compressed one.

    evaluate(module) -> 0.93                              one number
    evaluate(module) -> [1, 0, 1, …]                      a score per sample, which gives a paired interval
    evaluate(module) -> {"accuracy": …, "f1": …}          several, by name

More is better: of a loss give its negative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trimodal.core import Metric
from trimodal.errors import InputError
from trimodal.models.foreign import run_foreign
from trimodal.verification.intervals import compute_paired_interval

Evaluate = Callable[[nn.Module], Any]
"""From a module, in eval mode, to a number, a score per sample (samples,), or a mapping from names to such."""

_PERCENT = 100.0
_EXPECTED = "expected a number, a list or tensor (samples,) of them, or a mapping from names to such"


def measure_own(evaluate: Evaluate | None, original: nn.Module, compressed: nn.Module, seed: int) -> list[Metric]:
    """What `evaluate` says of both modules, as metrics for all modalities; none where it is None.

    Raises:
        ModelError: it failed.
        InputError: it is no function, or returns something else, or other names or numbers of scores for the two.
    """
    if evaluate is None:
        return []
    if not callable(evaluate):
        raise InputError(f"evaluate is a {type(evaluate).__name__}; expected a function from a module to a number")
    name = getattr(evaluate, "__name__", type(evaluate).__name__)
    name = "score" if name == "<lambda>" else name
    before, after = (_run_evaluate(evaluate, module, name) for module in (original, compressed))
    alike = before.keys() == after.keys() and all(before[key].shape == after[key].shape for key in before)
    if not alike:
        raise InputError(
            f"evaluate gives {_describe_scores(before)} for the original and {_describe_scores(after)} for the compressed model; "
            "expected as many of each, of the same samples"
        )
    return [_make_metric(key, before[key], after[key], seed) for key in before]


def _run_evaluate(evaluate: Evaluate, module: nn.Module, name: str) -> dict[str, NDArray[np.float64]]:
    with torch.no_grad():
        found = run_foreign(f"evaluate on {type(module).__name__}", lambda: evaluate(module.eval()))
    return {str(key): _to_scores(str(key), value) for key, value in (found if isinstance(found, Mapping) else {name: found}).items()}


def _to_scores(name: str, value: Any) -> NDArray[np.float64]:
    """`value` as scores (samples,), or () where it is one number."""
    if value is None:
        raise InputError(f"evaluate gives None for {name}; {_EXPECTED}")
    try:
        scores = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"evaluate gives a {type(value).__name__} for {name}; {_EXPECTED}") from error
    if scores.ndim > 1 or not scores.size:
        raise InputError(f"evaluate gives numbers of the shape {scores.shape} for {name}; {_EXPECTED}")
    return scores


def _make_metric(name: str, before: NDArray[np.float64], after: NDArray[np.float64], seed: int) -> Metric:
    """The metric of scores (samples,), or of one number (), which has no interval."""
    means = float(before.mean()), float(after.mean())
    spread = float(np.ptp([before, after]))
    if before.ndim == 0 or not 0 < spread < np.inf:
        note = "your own metric: one number for each model" if before.ndim == 0 else "your own metric: all scores are equal, or not finite"
        return Metric(name, "all", "score", before.size, *means, means[0] - means[1], None, None, note, "too few")
    scale = _PERCENT if bool(np.isin([before, after], (0.0, 1.0)).all()) else 1.0  # right or wrong, which intervals know as 0 and 100
    found = compute_paired_interval(before * scale, after * scale, seed=seed, largest=spread * scale)
    low, high = (None if end is None else end / scale for end in (found.low, found.high))
    return Metric(name, "all", "score", before.size, *means, found.mean / scale, low, high, "your own metric", found.kind)


def _describe_scores(scores: Mapping[str, NDArray[np.float64]]) -> str:
    return ", ".join(f"{name} ({value.size})" for name, value in scores.items()) or "nothing"
