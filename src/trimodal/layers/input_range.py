"""The static range of a layer's input while it is trained: layers that read one input with one range go on sharing it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from trimodal.maths.straight_through import clip_inputs, round_inputs, substitute_values

InputRule = Literal["lsq", "lsq+", "pact", "fixed"]
_SMALLEST = 1 / 16  # a range shrinks to no less of what it was


class LearnedInputRange(nn.Module):
    """Scale and zero-point of a grid that begins as the one stored, and moves by `rate` × the learning rate of its size per step.

    lsq     the scale is learned, the zero-point stays
    lsq+    both are
    pact    the ends are, by what lies beyond them
    fixed   nothing is
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, scale: Tensor, zero: Tensor, bits: int, rule: InputRule, rate: float, features: int) -> None:
        """`scale` float32 and `zero` uint8 have one entry, of `features` numbers per token; `bits` are those of the grid."""
        super().__init__()
        self.bits, self.top, self.rule, self.rate = bits, 2**bits - 1, rule, rate
        self.register_buffer("scale", scale.detach().float().reshape(()).clone(), persistent=False)
        self.register_buffer("zero", zero.detach().float().reshape(()).clone(), persistent=False)
        for name in {"lsq": ("scale_move",), "lsq+": ("scale_move", "zero_move"), "pact": ("low_move", "high_move"), "fixed": ()}[rule]:
            move = nn.Parameter(torch.zeros((), device=scale.device))
            move.register_hook(weaken_gradient(1 / math.sqrt(features * self.top)))
            self.register_parameter(name, move)

    def forward(self, x: Tensor) -> Tensor:
        """`x` float32, of any shape, as the grid gives it back now."""
        if self.rule == "pact":
            low, high = self._find_ends()
            return clip_inputs(x, low, high, *self.find_grid(), self.bits)
        return round_inputs(x, *self.find_grid(), self.bits)

    def find_grid(self) -> tuple[Tensor, Tensor]:
        """Scale and zero-point now, scalars float32, as they will be stored; gradients go to what is learned."""
        if self.rule == "pact":
            low, high = (end.detach() for end in self._find_ends())
            first, last = self._first_ends
            scale = self._bound(self.scale + ((high - last) - (low - first)) / self.top)  # exactly the stored one where nothing has moved
            return scale, (-low / scale).round().clamp(0, self.top)
        scale, zero = self.scale, self.zero
        if (scale_move := self._parameters.get("scale_move")) is not None:
            scale = self._bound(scale * (1 + self.rate * scale_move))
        if (zero_move := self._parameters.get("zero_move")) is not None:
            moved = zero + self.rate * self.top * zero_move
            zero = substitute_values(moved.detach().round().clamp(0, self.top), moved)
        return scale, zero

    def _bound(self, scale: Tensor) -> Tensor:
        return torch.maximum(scale, self.scale * _SMALLEST)

    def _find_ends(self) -> tuple[Tensor, Tensor]:
        size, (first, last) = self.scale * self.top, self._first_ends
        return (first + self.rate * size * self.low_move).clamp(max=0), (last + self.rate * size * self.high_move).clamp(min=0)

    @property
    def _first_ends(self) -> tuple[Tensor, Tensor]:
        return -self.zero * self.scale, (self.top - self.zero) * self.scale


def weaken_gradient(factor: float) -> Callable[[Tensor], Tensor]:
    """LSQ's factor on the gradient, 1/√(numbers · largest code)."""
    return lambda gradient: gradient * factor
