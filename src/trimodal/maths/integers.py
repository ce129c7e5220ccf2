"""Whole numbers without a fixed bit width: one step per column, meant for entropy coding.

    ŵ_ij = code_ij · Δ_j

No number of bits is set: what a weight costs is the entropy of the codes. Codes are kept as int8 (a step that needs more
than 127 of itself for one weight is too small to be worth coding), steps as float16 times one power of two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimodal.maths.grid import Rounder, to_half_scales

_MOST = 127


@dataclass(frozen=True)
class IntegerGrid:
    """Steps float16 (1, columns), to be multiplied by 2^`exponent`."""

    scale: Tensor
    exponent: int

    kind = "integers"

    def float_steps(self) -> Tensor:
        """The steps as floats (1, columns)."""
        return self.scale.float() * 2.0**self.exponent

    def select_rows(self, rows: slice) -> IntegerGrid:
        """The same: its steps are those of columns."""
        return self

    def encode(self, weight: Tensor) -> Tensor:
        """Codes int8 (rows, columns) of the multiples nearest to `weight`."""
        return self.as_codes((weight / self.float_steps()).round_().clamp_(-_MOST, _MOST))

    def decode(self, codes: Tensor) -> Tensor:
        """The numbers float32 (rows, columns) that `codes` stand for."""
        return codes.float() * self.float_steps()

    def make_rounder(self) -> Rounder:
        """A function from one column (rows,) and its number to codes and values (rows,) of the nearest multiples."""
        steps = self.float_steps()[0]

        def nearest(column: Tensor, number: int) -> tuple[Tensor, Tensor]:
            codes = (column / steps[number]).round_().clamp_(-_MOST, _MOST)
            return codes, codes * steps[number]

        return nearest

    def as_codes(self, codes: Tensor) -> Tensor:
        """Whole numbers (rows, columns) as the dtype that codes have: int8."""
        return codes.to(torch.int8)

    def storage_options(self) -> dict[str, Any]:
        """What storage says of it; see `core/storage.py`."""
        return {"exponent": self.exponent}

    def storage_tensors(self, codes: Tensor) -> dict[str, Tensor]:
        """The tensors to store for `codes` (rows, columns), of the shapes and dtypes in `core/storage.py`."""
        return {"codes": codes.contiguous(), "scale": self.scale.contiguous()}

    @staticmethod
    def from_storage(options: Mapping[str, Any], tensors: Mapping[str, Tensor], columns: int) -> tuple[IntegerGrid, Tensor]:
        """The steps and the codes (rows, columns) that `options` and `tensors` hold."""
        return IntegerGrid(tensors["scale"], options["exponent"]), tensors["codes"]

    @staticmethod
    def take_rows(tensors: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
        """The tensors of only the rows at `index` int64 (count,)."""
        return {"codes": tensors["codes"][index], "scale": tensors["scale"]}


def make_integer_grid(steps: Tensor) -> IntegerGrid:
    """The grid of whole multiples of `steps` (columns,), all above 0."""
    scale, exponent = to_half_scales(steps, torch.zeros_like(steps, dtype=torch.bool))
    return IntegerGrid(scale[None], exponent)
