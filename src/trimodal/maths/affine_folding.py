"""Two linear maps, one after the other, are one: the arithmetic of folding, in float64.

    scale and shift the outputs   y = g · (W x + b) + s      W' = diag(g) W    b' = g · b + s
    scale and shift the inputs    y = W (g · x + s) + b      W' = W diag(g)    b' = b + W s
    one after the other           y = W₂ (W₁ x + b₁) + b₂    W' = W₂ W₁        b' = b₂ + W₂ b₁

A batch norm that has stopped learning is the first with g = γ / √(σ² + ε) and s = β − g μ.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trimodal.core import Fold

Layer = tuple[Tensor, Tensor | None]  # weight (m, n, …) and bias (m,)


def scale_outputs(layer: Layer, gain: Tensor, shift: Tensor | None = None) -> Layer:
    """The layer (m, n, …) with its outputs multiplied by `gain` (m,) and moved by `shift` (m,)."""
    weight, bias = (None if t is None else t.double() for t in layer)
    assert weight is not None
    moved = None if bias is None else gain.double() * bias
    return gain.double().view(-1, *[1] * (weight.dim() - 1)) * weight, _add_optional(moved, shift)


def scale_inputs(layer: Layer, gain: Tensor, shift: Tensor | None = None) -> Layer:
    """The linear layer (m, n) for inputs that are not yet multiplied by `gain` (n,) and moved by `shift` (n,)."""
    weight, bias = layer[0].double(), layer[1]
    return weight * gain.double(), _add_optional(bias, None if shift is None else weight @ shift.double())


def compose_linear(second: Layer, first: Layer) -> Layer:
    """One linear layer (m, n) for `first` (k, n) followed by `second` (m, k)."""
    weight = second[0].double()
    return weight @ first[0].double(), _add_optional(second[1], None if first[1] is None else weight @ first[1].double())


def batch_norm_affine(
    weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """What a batch norm in use multiplies by and then adds, both (m,)."""
    gain = weight.double() / torch.sqrt(variance.double() + epsilon)
    return gain, bias.double() - gain * mean.double()


def fold_into_layers(fold: Fold, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The new weights (rows, columns, …) and biases (rows,) of the layers that take the fold over, by name, from all `tensors` of
    the layers."""
    gone = {name.removeprefix(f"{fold.path}."): t for name, t in tensors.items() if name.startswith(f"{fold.path}.")}
    found: dict[str, Tensor] = {}
    for path in fold.into if fold.what != "twin" else ():
        layer = tensors[f"{path}.weight"], tensors.get(f"{path}.bias")
        weight, bias = _fold_into_layer(fold, gone, layer)
        found |= {f"{path}.weight": weight} | ({} if bias is None else {f"{path}.bias": bias})
    return found


def _fold_into_layer(fold: Fold, gone: Mapping[str, Tensor], layer: Layer) -> Layer:
    if fold.what == "norm":
        weight, bias, mean, variance = (gone[name] for name in ("weight", "bias", "running_mean", "running_var"))
        return scale_outputs(layer, *batch_norm_affine(weight, bias, mean, variance, fold.epsilon))
    if fold.what == "affine":
        return scale_inputs(layer, gone["weight"] + fold.offset, gone.get("bias"))
    if fold.what == "linear":
        return compose_linear(layer, (gone["weight"], gone.get("bias")))
    (scale,) = gone.values()
    return scale_outputs(layer, scale)


def _add_optional(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        found = one if other is None else other
        return None if found is None else found.double()
    return one.double() + other.double()
