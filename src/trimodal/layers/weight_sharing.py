"""A layer that uses another layer's weight.

It stays what it was, with a bias of its own, except that its parameter `weight` gives way to a read-only property that
asks the other layer. So the weight is counted, moved, trained, saved and loaded once, under the lender's name, and nobody
has to tie anything again afterwards.
"""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn


def share_weight_(layer: nn.Module, lender: nn.Module) -> None:
    """Let `layer` use the weight of `lender`, of the same shape."""
    del layer.weight
    layer.__class__ = _make_sharing_class(type(layer))  # type: ignore[arg-type, assignment]
    object.__setattr__(layer, "lender", lender)  # no submodule: it has a place of its own


def has_shared_weight(layer: nn.Module) -> bool:
    """Whether the weight of `layer` is another layer's."""
    return isinstance(getattr(layer, "lender", None), nn.Module)


def tie_weight_(layer: nn.Module) -> None:
    """Give `layer` the lender's parameter under its own name too, as a tied weight."""
    shared = layer.lender.weight  # type: ignore[union-attr]
    object.__delattr__(layer, "lender")
    layer.__class__ = type(layer).__mro__[1]
    layer.weight = shared


@cache
def _make_sharing_class(kind: type[nn.Module]) -> type[nn.Module]:
    members = {
        "weight": property(_get_shared_weight), "__module__": __name__,
        "__reduce__": lambda layer: (_rebuild_sharing_layer, (kind,), vars(layer)),
    }  # fmt: skip
    return type(f"Borrowing{kind.__name__}", (kind,), members)


def _rebuild_sharing_layer(kind: type[nn.Module]) -> nn.Module:
    """An empty layer for a copy or a pickle to fill: its class has no name that could be imported."""
    made = _make_sharing_class(kind)  # type: ignore[arg-type]
    return made.__new__(made)


def _get_shared_weight(layer: nn.Module) -> Tensor:
    weight: Tensor = layer.lender.weight  # type: ignore[union-attr, assignment]
    return weight
