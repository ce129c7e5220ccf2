"""How near two variants' outputs are to each other on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]
"""By name, the batch first."""


def compare_outputs(found: Outputs, reference: Outputs) -> dict[str, float | None]:
    """By output of both: `measure_cosine`, None where the shapes differ, as after tokens were merged."""
    return {
        name: measure_cosine(found[name], value) if found[name].shape == value.shape else None
        for name, value in reference.items()
        if name in found and value.ndim and np.issubdtype(value.dtype, np.floating)
    }  # fmt: skip


def measure_cosine(found: NDArray[Any], reference: NDArray[Any]) -> float:
    """The mean over samples of the cosine of all numbers of a sample, (batch, …) each; 1 where both are zero, 0 where numbers are not
    finite."""
    one, other = (value.reshape(len(value), -1).astype(np.float64) for value in (found, reference))
    if not np.isfinite(one).all():
        return 0.0
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    same = (one == other).all(axis=1)
    cosines = np.where(same, 1.0, (one * other).sum(axis=1) / np.where(lengths > 0, lengths, 1.0))
    return float(cosines.mean())
