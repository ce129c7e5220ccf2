"""The scales of coded weights while they are trained: the codes stay, and what a step of the grid is worth moves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trimodal.layers.stored import CodedWeight

_BOUNDS = (1 / 16, 16.0)  # of a scale, in what it was
_LARGEST_HALF = 65504.0


@contextmanager
def train_scales(module: nn.Module) -> Iterator[list[nn.Parameter]]:
    """While open, the scales of all coded weights of `module` are float32 parameters; afterwards they are what is stored again,
    float16 times the power of two that the grid had.

    The parameters are in units of each store's largest scale, so that a learning rate means the same for all. A scale keeps its
    sign, and stays within a sixteenth and sixteen times what it was.
    """
    stores = [part for part in module.modules() if isinstance(part, CodedWeight) and part._buffers.get("scale") is not None]
    first = [store.get_buffer("scale") for store in stores]
    exponents = [_free_scale_(store) for store in stores]
    try:
        yield [store.get_parameter("scale") for store in stores]
    finally:
        for store, old, exponent in zip(stores, first, exponents, strict=True):
            _keep_scale_(store, old, exponent)


def _free_scale_(store: CodedWeight) -> int:
    """Make the scale a parameter, and give the power of two by which it was divided."""
    stored = store.get_buffer("scale")
    largest = float(stored.abs().max()) if stored.numel() else 0.0
    exponent = math.frexp(largest)[1] if largest else 0
    del store._buffers["scale"]
    store.register_parameter("scale", nn.Parameter(stored.float() * 2.0**-exponent))
    store.options["exponent"] += exponent
    store.drop_kept_()
    return exponent


def _keep_scale_(store: CodedWeight, first: Tensor, exponent: int) -> None:
    """Store the scale, which was `first` (float16), as that is."""
    trained = store.get_parameter("scale").detach() * 2.0**exponent
    del store._parameters["scale"]
    low, high = (first.float() * bound for bound in _BOUNDS)
    trained = trained.clamp(torch.minimum(low, high), torch.maximum(low, high)).clamp(-_LARGEST_HALF, _LARGEST_HALF)
    half = trained.to(first.dtype)
    store.register_buffer("scale", torch.where(half == 0, first, half))
    store.options["exponent"] -= exponent
    store.drop_kept_()
