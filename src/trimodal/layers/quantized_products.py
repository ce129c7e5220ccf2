"""What a layer with quantized inputs computes, in fewer steps: the same sums as `CodedWeight.fake_quantize_input` followed by the
layer's own product, up to the order in which they are added.

    q = clamp(round(x · c / s), −z, 2^b − 1 − z)        the input's codes less the zero-point, with c the factors `columns`
    y = q · Vᵀ + b,  V = W · s / c                       in floats: s and c stand with the weight, worked out once
    y = s · (q + z − 128) · Uᵀ · t + (128 − z) · s · t · Σ U + b,  W = U · t · c
                                                         in integers: U int8, the weight's codes less their zero-point, t their scale

Both codes are the very ones that were verified. Integers are used where the weight is on an even grid with one scale per row, where
it is large enough to be worth it, and where this machine's products are quick and exact (`maths/integer_products.py`). A NaN
that comes in is a number for integers; floats pass it on.

With ranges per token s and z differ from row to row, and s is multiplied last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimodal.layers.affine import Affine, NotAffine
from trimodal.layers.stored import CodedWeight
from trimodal.maths.integer_products import LARGEST_INNER, SHIFT, has_exact_integer_products, multiply_integers
from trimodal.maths.observers import grid_from_range

_FEWEST_WEIGHTS = 2**15  # below that the steps around an integer product take longer than the product in floats


class QuantizedProduct(Protocol):
    """What stands for quantizing the input and multiplying it by the weight."""

    def __call__(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        """Input float32 (…, n) or an image, and bias (m,) -> output float32 (…, m) or an image."""
        ...


@dataclass(frozen=True)
class InputCodes:
    """How an input becomes codes: its factors c (n,) or none; its bits and the largest code; scale and zero-point of a static range or,
    where the scale is None, of one range for all along `dims`."""

    factor: Tensor | None
    bits: int
    top: int
    scale: Tensor | None
    zero: float
    dims: tuple[int, ...]

    def count_steps(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """x -> round(x · c / s), not clamped yet; scales and zero-points where they are per token."""
        scaled = x if self.factor is None else x * self.factor
        if self.scale is not None:
            return self._divide(scaled, self.scale).round_(), None, None
        scale, zero = grid_from_range(scaled.amin(self.dims, keepdim=True), scaled.amax(self.dims, keepdim=True), self.bits)
        return self._divide(scaled, scale).round_(), scale, zero

    def _divide(self, scaled: Tensor, scale: Tensor) -> Tensor:
        return scaled / scale if self.factor is None else scaled.div_(scale)


@dataclass(frozen=True)
class FloatProduct:
    """The product in floats: `weight` is V, or W / c where ranges are per token."""

    codes: InputCodes
    weight: Tensor

    def __call__(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        """Input float32 (…, n) or an image, and bias (m,) -> output float32 (…, m) or an image."""
        steps, scale, zero = self.codes.count_steps(x)
        if scale is None or zero is None:
            steps.clamp_(-self.codes.zero, self.codes.top - self.codes.zero)
        else:
            steps.add_(zero).clamp_(0, self.codes.top).sub_(zero).mul_(scale)
        if isinstance(layer, nn.Linear):
            return F.linear(steps, self.weight, bias)
        found: Tensor = layer._conv_forward(steps, self.weight, bias)  # type: ignore[operator]
        return found


@dataclass(frozen=True)
class IntegerProduct:
    """The product in integers: `units` is Uᵀ int8 (n, m), `sums` Σ U int32 (m,), `scale` t, or s · t where s is static (m,), and
    `offset` (128 − z) · s · t · Σ U (m,), 0 where s and z are per token."""

    codes: InputCodes
    units: Tensor
    sums: Tensor
    scale: Tensor
    offset: Tensor

    def __call__(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        """Input float32 (…, n) and bias (m,) -> output float32 (…, m)."""
        steps, scale, zero = self.codes.count_steps(x.detach())
        shifted = steps.add_(self.codes.zero - SHIFT if zero is None else zero - SHIFT)
        codes = shifted.clamp_(-SHIFT, self.codes.top - SHIFT).to(torch.int8)
        found = multiply_integers(codes.reshape(-1, codes.shape[-1]), self.units).view(*x.shape[:-1], self.units.shape[1])
        offset = self.offset if bias is None else self.offset + bias
        if scale is None or zero is None:
            return torch.addcmul(offset, found, self.scale)
        return torch.addcmul(offset, (found - (zero - SHIFT).int() * self.sums) * scale, self.scale)


def multiply_quantized(layer: nn.Module, store: CodedWeight, x: Tensor) -> Tensor | None:
    """What `layer`, a linear layer or a convolution whose weight is `store`, makes of `x` with its input quantized; None where it has to
    be simulated step by step: another policy than `speed`, training, or other types than float32."""
    if store.dequantize_policy == "memory" or x.dtype is not torch.float32 or store.dtype is not torch.float32:
        return None
    if (layer.training and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return None
    return store.recall("product", lambda: _make_product(store))(layer, x, layer._parameters["bias"])


def _make_product(store: CodedWeight) -> QuantizedProduct:
    scale, zero = store._buffers.get("input_scale"), store._buffers.get("input_zero")
    bits = store.options["inputs"]["bits"]
    codes = InputCodes(
        store.channel_factors(), bits, 2**bits - 1, None if scale is None else scale.reshape(()), 0.0 if zero is None else float(zero),
        store.input_dims,
    )  # fmt: skip
    return _make_integer_product(store, codes) or FloatProduct(codes, _scale_weight(store(), codes))


def _scale_weight(weight: Tensor, codes: InputCodes) -> Tensor:
    """W · s / c, of W (m, n) or of a kernel."""
    weight = weight if codes.factor is None else weight / codes.factor
    return weight if codes.scale is None else weight * codes.scale


def _make_integer_product(store: CodedWeight, codes: InputCodes) -> IntegerProduct | None:
    """The product in integers, None where it cannot be had or is not worth it."""
    rows, columns = store.shape[0], store.shape[-1]
    if len(store.shape) != 2 or rows * columns < _FEWEST_WEIGHTS or columns > LARGEST_INNER:
        return None
    form = _find_units(store.affine()) if store.get_buffer("codes").device.type == "cpu" and has_exact_integer_products() else None
    if form is None:
        return None
    units, scale = form
    sums = units.sum(dim=1, dtype=torch.int32)
    if codes.scale is None:
        return IntegerProduct(codes, units.T, sums, scale, torch.zeros_like(scale))
    whole = scale * codes.scale
    return IntegerProduct(codes, units.T, sums, whole, (SHIFT - codes.zero) * sums * whole)


def _find_units(form: Affine | NotAffine) -> tuple[Tensor, Tensor] | None:
    """U int8 (m, n) and t (m,) float32 of a weight without its factors; None where it is no such weight."""
    if isinstance(form, NotAffine):
        form = form.inner if form.inner is not None and form.beyond == ("columns",) else form  # type: ignore[assignment]
    if not isinstance(form, Affine) or not form.whole_zero or form.scale.shape[1] != 1:
        return None
    units = form.codes - form.zero
    if not len(units) or int(units.min()) < -SHIFT or int(units.max()) >= SHIFT:
        return None
    return units.to(torch.int8).contiguous(), form.scale.expand(len(units), 1)[:, 0].contiguous()
