"""A module's class gives way to a subclass: the module keeps its weights, names and attributes, and has another forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def give_way_(module: nn.Module, make: Callable[..., type[nn.Module]]) -> None:
    """Let `module` be of the class that `make` makes of its own."""
    module.__class__ = make(type(module))  # type: ignore[assignment]


def make_subclass(kind: type[nn.Module], make: Callable[..., type[nn.Module]], forward: Callable[..., Any]) -> type[nn.Module]:
    """A subclass with the name of `kind`, by which Transformers knows what it can record of it."""
    members = {
        "forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__,
        "__reduce__": lambda module: (_rebuild, (make, kind), vars(module)),
    }  # fmt: skip
    return type(kind.__name__, (kind,), members)


def _rebuild(make: Callable[[type[nn.Module]], type[nn.Module]], kind: type[nn.Module]) -> nn.Module:
    """An empty module for a copy or a pickle to fill: its class cannot be imported."""
    made = make(kind)
    return made.__new__(made)
