"""A file of weights and operators, opened in a runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import InputError

Arrays = Mapping[str, NDArray[Any]]
"""Arrays of any shape and type, by the name of the input or output."""


class Session(Protocol):
    """An open file: what it takes, what it gives, and a way to run it."""

    input_names: Sequence[str]
    output_names: Sequence[str]
    input_types: Mapping[str, str]
    """numpy's name of each input's type; empty where the runtime's process does not tell."""

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays (batch, …) by name -> arrays (batch, …) by name. Inputs that the file does not take are left aside."""
        ...

    def list_integer_nodes(self) -> Sequence[str]:
        """The names of the nodes that the runtime computes with integers, read from its own execution graph."""
        ...

    def close(self) -> None:
        """Let go of memory and threads."""
        ...


class Opener(Protocol):
    """Opens a file in a runtime."""

    def __call__(self, file: Path, threads: int, exact: bool = False) -> Session:
        """`file` with so many `threads`; `exact`: without whatever the runtime rounds of its own accord.

        Raises:
            InputError: the runtime is not installed.
            IntegrityError: the file cannot be opened.
        """
        ...


class RunError(InputError):
    """A runtime does not compute an open file on inputs of the right names and shapes; in its own words, which may name its source."""


def cast_inputs(inputs: Arrays, types: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """`inputs` of any shape that are in `types`, each as the type named there (`int64`, `float32`, …).

    Raises:
        InputError: one is missing, of which OpenVINO would take what happens to lie in memory, or fractions stand for whole numbers.
    """
    missing = types.keys() - inputs.keys()
    if missing:
        raise InputError(f"the file takes {', '.join(types)}; {', '.join(sorted(missing))} {'is' if len(missing) == 1 else 'are'} missing")
    for name, kind in types.items():
        if kind.startswith(("int", "uint")) and np.asarray(inputs[name]).dtype.kind not in "iub":
            raise InputError(f"{name} is of {np.asarray(inputs[name]).dtype}, expected whole numbers ({kind})")
    return {name: np.ascontiguousarray(inputs[name], dtype=kind) for name, kind in types.items()}


def describe_refusal(runtime: str, failed: Exception) -> str:
    """Why `runtime` does not compute an open file on the inputs that it was given: in a sentence, with what it says itself."""
    lines = [line.strip() for line in str(failed).splitlines() if line.strip() and "Exception from" not in line]
    return f"{runtime} cannot run the file on these inputs: {(lines or [type(failed).__name__])[-1][:300]}"
