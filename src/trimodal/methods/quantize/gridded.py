"""What all quantizers onto a uniform grid say alike about a place: when they refuse, what will be stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from trimodal.core import Place, Site, Treatment
from trimodal.layers import Quantized
from trimodal.maths.grid import Clip, Grid, grid_bytes
from trimodal.methods.method import needs_dense
from trimodal.methods.options import option

GROUP_HELP = "columns that share a scale: a number, `channel` (a scale per row) or `tensor` (one in all)"


@dataclass(frozen=True)
class Rounding:
    """Options that every quantizer onto a uniform grid has."""

    bits: int = option(8, "bits per weight", low=2, high=8, unit="bits", search=(2, 3, 4, 6, 8))
    group: int | str = option(
        "channel", GROUP_HELP, low=8, choices=("channel", "tensor"), unit="columns", search=("channel", 128, 64, 32)
    )
    symmetric: bool = option(True, "a signed scale and no stored zero-point; otherwise scale and zero-point")
    clip: Clip = option("mse", "range of the grid: `max` holds every weight, `mse` where Σ|w − ŵ|^2.5 is least",
                        choices=("max", "mse"), search=("max", "mse"))  # fmt: skip


def refuse(place: Place, config: Rounding) -> str | None:
    """Why a place is left alone."""
    return needs_dense(place.observed)


def forecast(place: Place, config: Rounding) -> Sequence[Site]:
    """The site with its weight on a grid."""
    site = place.observed
    weight_bytes = grid_bytes(site.rows, site.columns, config.bits, config.group, config.symmetric)
    return (replace(site, stored="quantized", stored_bytes=weight_bytes + site.bias_bytes),)


def treatment(site: Site, codes: Tensor, grid: Grid) -> Treatment:
    """The storage of `codes` (rows, columns) on `grid`."""
    options, tensors = Quantized.treatment(codes, grid, site.shape, site.dtype)
    return Treatment("quantized", options, tensors)
