"""Layers that compute from codes, in place of plain ones: the product's two sides go through operators that name a quantization.

    y = dequantize(codes, scale) · dequantize(quantize(x · columns)) + b

which XNNPACK turns into one product of integers. A layer stays what it was, as in `layers/parametrization.py`: its `weight` becomes a
property that decodes, so that whoever reads it gets it. In style `float` the weight is decoded beforehand instead, and only what
meets the input stays explicit: LiteRT's file gets its codes after conversion. Embeddings look up codes and scales in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
import torch.ao.quantization.fx._decomposed
from torch import Tensor, nn
from torch.nn import functional as F

from trimodal.exporting.layer_codes import LayerCodes
from trimodal.exporting.mobile_graph.integer_weights import (
    IntegerTable,
    IntegerWeight,
    make_integer_table,
    make_integer_weight,
)

Style = Literal["integer", "float"]
_CODE = {8: (-128, 127), 4: (-8, 7)}
_SMALLEST_SCALE = torch.finfo(torch.float32).eps
_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_FORWARDS = (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward)
_OPS: Any = torch.ops.quantized_decomposed


@dataclass
class PlacedCodes:
    """What became of each layer, by path: `coded` with the integers that it computes from, `decoded` with the reason."""

    coded: dict[str, IntegerWeight | IntegerTable] = field(default_factory=dict)
    decoded: dict[str, str] = field(default_factory=dict)


def place_codes_(module: nn.Module, layers: Iterable[LayerCodes], style: Style) -> PlacedCodes:
    """Let each of `layers`, which are in `module`, and those tied to it compute from its codes."""
    placed = PlacedCodes()
    for codes in layers:
        for path in (codes.path, *codes.tied):
            made = _place_one_(module.get_submodule(path), codes, style)
            if isinstance(made, str):
                placed.decoded[path] = made
            else:
                placed.coded[path] = made
    return placed


def _place_one_(layer: nn.Module, codes: LayerCodes, style: Style) -> IntegerWeight | IntegerTable | str:
    """Put the codes into `layer`; where that is not possible it stays as it is, decoded, and the reason is returned."""
    if isinstance(layer, nn.Embedding):
        table = make_integer_table(codes)
        if isinstance(table, IntegerTable):
            _put_table_(layer, table)
        return table
    if not isinstance(layer, _PRODUCTS) or type(layer).forward not in _FORWARDS:
        return f"a {type(layer).__name__} is no product that kernels on phones compute with integers"
    if isinstance(layer, nn.Conv1d | nn.Conv2d) and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return "its padding is not one of zeros that is given as numbers"
    weight = make_integer_weight(codes)
    if isinstance(weight, IntegerWeight):
        _put_weight_(layer, weight, codes.columns, style)
    return weight


def _put_table_(layer: Any, table: IntegerTable) -> None:
    del layer.weight
    layer.__class__ = _make_table_class(type(layer))  # type: ignore[arg-type]
    for name, part in (("codes", table.codes), ("scale", table.scale), ("zero", table.zero if bool(table.zero.any()) else None)):
        layer.register_buffer(name, part)
    layer.table = table


def _put_weight_(layer: Any, weight: IntegerWeight, columns: Tensor | None, style: Style) -> None:
    del layer.weight
    layer.__class__ = _make_product_class(type(layer), style)  # type: ignore[arg-type]
    if style == "integer":
        layer.register_buffer("codes", _shape_kernel(layer, weight.codes))
        layer.register_buffer("scale", weight.scale)
        layer.register_buffer("zero", torch.zeros_like(weight.scale, dtype=torch.int64))
    else:
        layer.register_buffer("decoded", weight.decode())
    layer.register_buffer("columns", None if columns is None else _shape_columns(columns, weight.codes.dim()))
    layer.bits, layer.group = weight.bits, weight.group


def _shape_kernel(layer: Any, codes: Tensor) -> Tensor:
    """`codes` of any shape as the kernel for integers takes them, since it must be constants that it takes: of patches (out, in), of a
    convolution along one dimension (out, in, 1, width), else as they are."""
    if isinstance(layer, nn.Linear) or layer.groups > 1:
        return codes
    if _has_patches(layer):
        return codes.flatten(1)
    return codes.unsqueeze(2) if isinstance(layer, nn.Conv1d) else codes


def _has_patches(layer: Any) -> bool:
    """Whether a convolution is computed as one product of its patches."""
    return bool(layer.in_channels == 1 and set(layer.dilation) == {1})


def _shape_columns(columns: Tensor, rank: int) -> Tensor:
    """One factor for each channel, as an image has its channels: of all its dimensions, since XNNPACK moves channels behind and then
    stretches from the right."""
    return columns if rank == 2 else columns.view(1, -1, *(1 for _ in range(rank - 2)))


@cache
def _make_table_class(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Coded{kind.__name__}", (kind,), {
        "weight": property(lambda layer: _decode_rows(layer, torch.arange(len(layer.codes)))), "forward": _decode_rows,
    })  # fmt: skip


@cache
def _make_product_class(kind: type[nn.Module], style: Style) -> type[nn.Module]:
    if style == "integer":
        members: dict[str, Any] = {"weight": property(_shape_weight), "forward": _multiply_integers}
    else:
        members = {"weight": property(lambda layer: layer.decoded), "forward": _multiply_floats}
    return type(f"Coded{kind.__name__}", (kind,), members)


def _decode_rows(layer: Any, index: Tensor) -> Tensor:
    """Rows float32 (*index, columns) of a coded embedding at `index` int (*index)."""
    codes = F.embedding(index, layer.codes)
    if layer.table.bits == 4:
        codes = torch.stack([codes & 15, (codes >> 4) & 15], dim=-1).flatten(-2)
    scale = F.embedding(index, layer.scale)
    blocks = codes.float().unflatten(-1, (scale.shape[-1], -1))
    if layer.zero is not None:
        blocks = blocks - F.embedding(index, layer.zero)[..., None]
    return (blocks * scale[..., None]).flatten(-2)


def _shape_weight(layer: Any) -> Tensor:
    """The weight float32 in its own shape."""
    weight = _dequantize_kernel(layer)
    return weight.reshape(layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size) if _is_convolution(layer) else weight


def _is_convolution(layer: Any) -> bool:
    return isinstance(layer, nn.Conv1d | nn.Conv2d)


def _dequantize_kernel(layer: Any) -> Tensor:
    """The weight float32 as its kernel takes it, by one operator."""
    low, high = _CODE[layer.bits]
    if layer.group:
        return _OPS.dequantize_per_channel_group(
            layer.codes, layer.scale, layer.zero, low, high, torch.int8, layer.group, torch.float32
        )  # fmt: skip
    return _OPS.dequantize_per_channel(layer.codes, layer.scale, layer.zero, 0, low, high, torch.int8)


def _multiply_integers(layer: Any, x: Tensor) -> Tensor:
    """The layer's output for `x`, of the shapes that the layer has, quantized over each token or sample."""
    scaled = x if layer.columns is None else x * layer.columns
    weight = _dequantize_kernel(layer)
    if isinstance(layer, nn.Linear):
        return F.linear(quantize_by_token(scaled), weight, layer.bias)
    if layer.groups > 1:  # there is no kernel for integers with ranges found as it runs
        return layer._conv_forward(scaled, weight, layer.bias)
    if _has_patches(layer):
        return _multiply_patches(layer, scaled, weight)
    if isinstance(layer, nn.Conv1d):
        return _convolve_as_image(layer, quantize_by_sample(scaled.unsqueeze(2)), weight)
    return layer._conv_forward(quantize_by_sample(scaled), weight, layer.bias)


def _multiply_patches(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """A convolution of one channel, `x` (1, 1, …) -> (1, channels, …), as one product of its patches with `weight` (channels, entries),
    each with a range of its own: kernels take it for a depthwise one, which they have not got for ranges found as it runs."""
    padded = F.pad(x, [side for amount in reversed(layer.padding) for side in (amount, amount)]) if any(layer.padding) else x
    for dim, (size, step) in enumerate(zip(layer.kernel_size, layer.stride, strict=True)):
        padded = padded.unfold(2 + dim, size, step)
    places = padded.shape[2 : 2 + len(layer.kernel_size)]
    found = F.linear(quantize_by_token(padded.reshape(1, math.prod(places), -1)), weight, layer.bias)
    return found.transpose(1, 2).reshape(1, -1, *places)


def _convolve_as_image(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """A convolution along one dimension of `x` (1, channels, 1, T) -> (1, channels, T): kernels of integers are for two."""
    found = F.conv2d(x, weight, layer.bias, (1, *layer.stride), (0, *layer.padding), (1, *layer.dilation))
    return found.squeeze(2)


def _multiply_floats(layer: Any, x: Tensor) -> Tensor:
    scaled = x if layer.columns is None else x * layer.columns
    if isinstance(layer, nn.Linear):
        return F.linear(scaled, layer.weight, layer.bias)
    return layer._conv_forward(scaled, layer.weight, layer.bias)


def quantize_by_token(x: Tensor) -> Tensor:
    """`x` (…, channels) in 8 bits with a range of each token's own, as floats again."""
    scale, zero = _OPS.choose_qparams_per_token_asymmetric(x, torch.int8)
    codes = _OPS.quantize_per_token(x, scale, zero, -128, 127, torch.int8)
    return _OPS.dequantize_per_token(codes, scale, zero, -128, 127, torch.int8, torch.float32)


def quantize_by_sample(x: Tensor) -> Tensor:
    """`x` (1, channels, height, width) in 8 bits with one range, as floats again."""
    scale, zero = _OPS.choose_qparams.tensor(x, -128, 127, _SMALLEST_SCALE, torch.int8)
    codes = _OPS.quantize_per_tensor.tensor(x, scale, zero, -128, 127, torch.int8)
    return _OPS.dequantize_per_tensor.tensor(codes, scale, zero, -128, 127, torch.int8)
