"""One open file of an exported model, and the shapes of what it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.runtimes.session import Arrays, Session
from trimodal.runtimes.shape_checks import check_inputs

PAST = "past_key_values"


@dataclass(frozen=True)
class Part:
    """An open file. `shapes` are those of its inputs by name, with a word for a length that may vary; `name` is the component's."""

    session: Session
    shapes: Mapping[str, Sequence[int | str]]
    name: str = "the file"

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays of any shape by name -> arrays by name.

        Raises:
            InputError: an input is missing, or has another shape than the file takes.
        """
        check_inputs(self.name, self.shapes, inputs)
        return self.session.run(inputs)

    def make_empty_past(self, batch: int) -> dict[str, NDArray[np.float32]]:
        """The states of no tokens, by name: (batch, heads, 0, width)."""
        return {name: _make_empty(shape, batch) for name, shape in self.shapes.items() if name.startswith(f"{PAST}.")}


def rename_present(found: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The outputs `present.…` of a step (batch, heads, tokens, width) as the inputs `past_key_values.…` of the next."""
    return {f"{PAST}{name.removeprefix('present')}": value for name, value in found.items() if name.startswith("present.")}


def _make_empty(shape: Sequence[int | str], batch: int) -> NDArray[np.float32]:
    return np.zeros([n if isinstance(n, int) else batch if n == "batch_size" else 0 for n in shape], np.float32)
