"""Tensors of a client held to what a component takes, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.serving.refusals import refuse_bad, refuse_large
from trimodal.serving.requests import ComponentCard, TensorSpec


def check_tensors(card: ComponentCard, arrays: Mapping[str, NDArray[Any]], most: int) -> int:
    """How many samples `arrays` (samples, …) hold.

    Raises:
        RefusedError: 400, a name, type or shape is not the component's, or a number is not finite; 413, more than `most` samples.
    """
    known = {spec.name: spec for spec in card.inputs}
    if extra := [name for name in arrays if name not in known]:
        raise refuse_bad(f"there is no input {extra[0]!r:.80}; there are {', '.join(known)}", "inputs")
    if missing := [name for name in known if name not in arrays]:
        raise refuse_bad(f"the input {missing[0]} is missing; there are {', '.join(known)}", "inputs")
    for name, spec in known.items():
        _check_tensor(spec, arrays[name])
    sizes = {name: len(value) for name, value in arrays.items() if known[name].shape[:1] == (-1,)}
    if len(set(sizes.values())) > 1:
        raise refuse_bad(f"inputs disagree about how many samples there are: {sizes}"[:300], "inputs")
    rows = next(iter(sizes.values()), 1)
    if rows > most:
        raise refuse_large(f"{rows} samples in one request; at most {most} are taken", "inputs")
    return rows


def _check_tensor(spec: TensorSpec, value: NDArray[Any]) -> None:
    if str(value.dtype) != spec.type:
        raise refuse_bad(f"{spec.name} is of {value.dtype}; expected {spec.type}", spec.name)
    fits = value.ndim == len(spec.shape) and all(wanted in (-1, found) for wanted, found in zip(spec.shape, value.shape, strict=False))
    if not fits:
        raise refuse_bad(f"{spec.name} has the shape {list(value.shape)}; expected {list(spec.shape)}", spec.name)
    empty_past = spec.name.startswith("past_key_values")
    if not value.size and not empty_past:
        raise refuse_bad(f"{spec.name} has the shape {list(value.shape)}, which holds nothing", spec.name)
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise refuse_bad(f"{spec.name} holds numbers that are not finite", spec.name)
