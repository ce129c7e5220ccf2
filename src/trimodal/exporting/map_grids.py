"""Maps between convolutions as bytes: the grid of each, and the model with its maps rounded so, which an export is held to.

The simulation rounds what a layer takes; a runtime that computes in bytes throughout also rounds what goes into sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.maths.observers import fake_quantize, grid_from_range

MAP_MAKERS = (nn.Conv1d, nn.Conv2d, nn.ReLU)
"""The layers that make maps."""


@dataclass(frozen=True)
class MapGrid:
    """round(x / `scale`) + `zero`, a byte without a sign: the numbers from `low` to `high`."""

    scale: float
    zero: int

    @classmethod
    def of_range(cls, low: float, high: float) -> MapGrid:
        """The grid from `low` to `high`, 0 among its numbers."""
        scale, zero = grid_from_range(torch.tensor(low), torch.tensor(high), 8)
        return cls(float(scale), int(zero))

    @property
    def low(self) -> float:
        """The least number."""
        return -self.zero * self.scale

    @property
    def high(self) -> float:
        """The largest number."""
        return (255 - self.zero) * self.scale

    def round_map(self, x: Tensor) -> Tensor:
        """`x`, of any shape, as the grid gives it back, in its own type."""
        return fake_quantize(x.float(), torch.tensor(self.scale), torch.tensor(float(self.zero)), 8).to(x.dtype)


MapGrids = Mapping[str, Mapping[int, MapGrid]]
"""By the path of a layer and the number of its call in one run of the model, from 0: the grid of what it gives."""


def find_map_makers(module: nn.Module) -> dict[str, nn.Module]:
    """The layers of `module` that make maps, by path."""
    return {path: layer for path, layer in module.named_modules() if isinstance(layer, MAP_MAKERS)}


@contextmanager
def round_maps(module: nn.Module, grids: MapGrids) -> Iterator[None]:
    """Meanwhile what the layers of `module` in `grids` give is rounded, during one run of it."""
    calls: Counter[str] = Counter()

    def round_output(path: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            grid = grids[path].get(calls[path])
            calls[path] += 1
            return output if grid is None else grid.round_map(output)

        return hook

    handles = [module.get_submodule(path).register_forward_hook(round_output(path)) for path in grids]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
