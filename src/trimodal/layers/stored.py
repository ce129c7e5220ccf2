"""How a weight may be kept: a store holds the packed tensors and decodes them when called.

A store is a module of its own, so that two layers with tied weights can share one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.maths.grid import Grid
from trimodal.maths.packing import pack, unpack


class Quantized(nn.Module):
    """Codes on a uniform grid; see `maths/grid.py`.

    Buffers: `codes` uint8 (rows, packed columns), `scale` float16 (rows, groups), and `zero` uint8 (rows, groups)
    unless the grid is symmetric.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.options = dict(options)
        self.shape = torch.Size(options["shape"])
        self.dtype = getattr(torch, options["dtype"])
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @property
    def grid(self) -> Grid:
        """The grid that the codes lie on."""
        columns = math.prod(self.shape[1:])
        zero = self.zero if "zero" in self._buffers else None
        return Grid(self.scale, self.options["exponent"], zero, self.options["bits"], self.options["group"], columns)

    def rows(self, index: Tensor) -> Tensor:
        """The decoded rows (len(index), columns) at `index`, without decoding the rest."""
        whole = self.grid
        scale = whole.scale if len(whole.scale) == 1 else whole.scale[index]
        zero = whole.zero if whole.zero is None or len(whole.zero) == 1 else whole.zero[index]
        part = Grid(scale, whole.exponent, zero, whole.bits, whole.group, whole.columns)
        return part.decode(unpack(self.codes[index], whole.bits, whole.columns)).to(self.dtype)

    def forward(self) -> Tensor:
        """The decoded weight, in its own shape."""
        grid = self.grid
        return grid.decode(unpack(self.codes, grid.bits, grid.columns)).to(self.dtype).view(self.shape)

    @staticmethod
    def treatment(
        codes: Tensor, grid: Grid, shape: tuple[int, ...], dtype: str
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Options and tensors that make up the store for `codes` (rows, columns) on `grid`."""
        options = {
            "bits": grid.bits, "group": grid.group, "exponent": grid.exponent, "shape": list(shape), "dtype": dtype,
        }  # fmt: skip
        tensors = {"codes": pack(codes, grid.bits), "scale": grid.scale.contiguous()}
        if grid.zero is not None:
            tensors["zero"] = grid.zero.contiguous()
        return options, tensors


class Sparse(nn.Module):
    """The kept weights in order, and one bit per weight that says whether it was kept.

    `values` (kept,) is a parameter, so that recovery may train the survivors while the mask holds; `mask` is uint8
    (rows, bytes per row).
    """

    mask: Tensor

    def __init__(self, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.options = dict(options)
        self.shape = torch.Size(options["shape"])
        self.values = nn.Parameter(tensors["values"], requires_grad=tensors["values"].is_floating_point())
        self.register_buffer("mask", tensors["mask"])

    def forward(self) -> Tensor:
        """The dense weight, in its own shape."""
        kept = unpack(self.mask, 1, math.prod(self.shape[1:])).bool()
        dense = torch.zeros(kept.shape, dtype=self.values.dtype, device=self.values.device)
        return dense.masked_scatter(kept, self.values).view(self.shape)

    def rows(self, index: Tensor) -> Tensor:
        """The dense rows (len(index), columns) at `index`."""
        dense: Tensor = self()
        return dense.flatten(1)[index]

    @staticmethod
    def treatment(weight: Tensor, mask: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Options and tensors that make up the store for `weight` where `mask` (rows, columns) is True."""
        values = weight.flatten(1)[mask].contiguous()
        return {"shape": list(weight.shape)}, {"values": values, "mask": pack(mask.to(torch.uint8), 1)}


Store = Quantized | Sparse
