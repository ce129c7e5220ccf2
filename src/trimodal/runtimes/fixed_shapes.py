"""Files of fixed shapes, run for inputs of any batch and of any length that fits: sample by sample, each padded with zeros."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import InputError
from trimodal.runtimes.session import Arrays

Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""One sample's arrays by name, in the shapes of the file -> its outputs by name."""


def run_by_sample(run: Run, inputs: Arrays, shapes: Mapping[str, Sequence[int]]) -> dict[str, NDArray[Any]]:
    """Outputs by name of every sample in `inputs`, (batch, …) each, one after the other through `run`, which takes `shapes`.

    What is shorter than the file has it is padded with zeros, which a mask hides; outputs that are as long as the padded input are cut.

    Raises:
        InputError: an input is longer than the file has it.
    """
    batch = max(len(value) for value in inputs.values())
    found = [run({name: pad_sample(name, inputs[name][n : n + 1], shapes[name]) for name in shapes}) for n in range(batch)]
    return {name: cut_padding(np.concatenate([one[name] for one in found]), inputs, shapes) for name in found[0]}


def pad_sample(name: str, value: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """`value` of any type, (1, …), with zeros behind it up to `shape`: texts and waveforms, never pictures or spectrograms.

    Raises:
        InputError: it is longer, or of another size and no row of tokens.
    """
    if tuple(value.shape) == tuple(shape):
        return value
    if value.ndim != len(shape) or value.ndim > 2 or any(n > most for n, most in zip(value.shape, shape)):
        raise InputError(
            f"{name} has the shape {list(value.shape)} and the file takes {list(shape)}; give shorter rows, and pictures of that size"
        )
    return np.pad(value, [(0, most - n) for n, most in zip(value.shape, shape)])


def cut_padding(output: NDArray[Any], inputs: Arrays, shapes: Mapping[str, Sequence[int]]) -> NDArray[Any]:
    """`output` of any type (batch, tokens, …) without the tokens that were padded, (batch, …) as it is."""
    ids = inputs.get("input_ids")
    if ids is None or output.ndim < 3 or output.shape[1] != shapes["input_ids"][1]:
        return output
    return output[:, : ids.shape[1]]
