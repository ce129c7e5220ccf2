"""Which layers a file of compressed-tensors can code, and the one way in which it codes them all.

The format has a single place for a weight: codes that are whole numbers around 0, a scale for each row or for every `group` columns
of it, in linear layers. Transformers reads all layers of a file by the first scheme of its configuration when it decodes them while
loading (`dequantize=True`). So a file has one scheme for weights. A layer stored with fewer bits or wider groups goes into it without
any loss: its codes are written with more bits, its scales repeated. `choose_scheme` takes the scheme with which the file is smallest;
layers that do not fit into that one are floats.

By hand. Of two layers 64 × 64 one has 4 bits in groups of 32, the other 3 bits per row. In groups of 32 with 4 bits both fit, and each
takes 64 · 64 · 4 / 8 + 64 · 2 · 4 = 2560 bytes; with 3 bits per row only the second fits (1792) and the first is 16384 bytes of floats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from trimodal.exporting.layer_codes import InputCodes, LayerCodes
from trimodal.layers.affine import Affine, NotAffine
from trimodal.maths.grid import expand_groups

LARGEST_BITS = 8
_SCALE_BYTES = 4


@dataclass(frozen=True)
class Scheme:
    """How all codes of a file are written: `bits` each, a scale for every `group` columns, or for the whole row where that is None."""

    bits: int
    group: int | None

    def fits(self, layer: CodableLayer) -> bool:
        """Whether the codes and scales of `layer` can be written so without loss."""
        if layer.bits > self.bits or (self.group is None and layer.group is not None):
            return False
        if self.group is None:
            return True
        return layer.columns % self.group == 0 and (layer.group is None or layer.group % self.group == 0)

    def count_bytes(self, layer: CodableLayer) -> int:
        """Bytes of the weight of `layer` in the file: codes and scales, or floats where it does not fit."""
        if not self.fits(layer):
            return layer.float_bytes
        groups = 1 if self.group is None else layer.columns // self.group
        return layer.rows * (-(-layer.columns * self.bits // 32) * 4 + groups * _SCALE_BYTES)


@dataclass(frozen=True)
class CodableLayer:
    """A linear layer whose weight is whole numbers around 0 times scales: `bits` is what the numbers need, `group` is None where a row
    has one scale."""

    path: str
    affine: Affine
    bits: int
    rows: int
    columns: int
    group: int | None
    input: InputCodes | None
    float_bytes: int

    def read_values(self) -> Tensor:
        """The whole numbers int8 (rows, columns)."""
        return _center_codes(self.affine).to(torch.int8)

    def read_scales(self, scheme: Scheme) -> Tensor:
        """The scales float32 (rows, groups of the scheme)."""
        scale = self.affine.scale.expand(self.rows, -1)
        if scheme.group is None:
            return scale.contiguous()
        return expand_groups(scale, self.affine.group, self.columns)[:, :: scheme.group].contiguous()


def find_codable_layers(layers: Mapping[str, LayerCodes]) -> tuple[dict[str, CodableLayer], dict[str, str]]:
    """The layers that the format can code, and why it cannot code the others, both by path."""
    found: dict[str, CodableLayer] = {}
    reasons: dict[str, str] = {}
    for path, codes in layers.items():
        layer = _read_layer(codes)
        if isinstance(layer, str):
            reasons[path] = layer
        else:
            found[path] = layer
    return found, reasons


def choose_scheme(layers: Mapping[str, CodableLayer]) -> Scheme:
    """The scheme with which `layers`, one at least, take the fewest bytes; of equal ones that with fewer bits and wider groups."""
    groups = {layer.group for layer in layers.values()} | {None}
    ways = [Scheme(*way) for way in product(sorted({layer.bits for layer in layers.values()}), groups)]
    return min(ways, key=lambda way: (_sum_bytes(way, layers), way.bits, -(way.group or math.inf)))


def _sum_bytes(scheme: Scheme, layers: Mapping[str, CodableLayer]) -> int:
    return sum(scheme.count_bytes(layer) for layer in layers.values())


def _read_layer(codes: LayerCodes) -> CodableLayer | str:
    """What the format can code of a layer, or in words why it cannot."""
    layer, affine = codes.layer, codes.weight
    if not isinstance(layer, nn.Linear):
        return f"it is a layer of the kind {type(layer).__name__}; the format codes linear layers only"
    if codes.tied:
        return f"it shares its weight with {codes.tied[0]}"
    if codes.columns is not None:
        return "its input is multiplied by factors per column (smoothing), which the format has no place for"
    if isinstance(affine, NotAffine):
        return affine.reason
    if not affine.whole_zero:
        return "its zero-points are no whole numbers"
    values = _center_codes(affine)
    low, high = (int(value) for value in torch.aminmax(values))
    symmetric = bool((affine.zero == 2 ** (affine.bits - 1)).all())
    bits = max(affine.bits if symmetric else 1, 1 + max(max(0, high).bit_length(), max(0, -low - 1).bit_length()))
    if bits > LARGEST_BITS:
        return f"its codes need {bits} bits around 0 (its grid has zero-points); the format holds {LARGEST_BITS}"
    rows, columns = values.shape
    group = None if affine.scale.shape[1] == 1 else affine.group
    if group is not None and columns % group:
        return f"its {columns} columns are no multiple of its groups of {group}"
    return CodableLayer(
        codes.path, affine, bits, rows, columns, group, codes.input, codes.parameter.nbytes,
    )  # fmt: skip


def _center_codes(affine: Affine) -> Tensor:
    """Codes less zero-points int32 (rows, columns)."""
    return affine.codes - expand_groups(affine.zero, affine.group, affine.codes.shape[1])
