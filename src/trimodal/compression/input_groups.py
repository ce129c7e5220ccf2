"""Rows of embeddings that a model reads otherwise than by calling the layer with their numbers: `table.weight[:length]` added to what it
positions, or a layer that works the numbers out for itself (BART's positions)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_CALLS = (functional.embedding, torch.embedding)  # what the layer itself does when it is called


class WeightReadMode(TorchFunctionMode):
    """While it is entered, tells which rows of the `weights` (by path) are read, other than by a call of the layer; of the layers
    `numbering`, which are not given the rows' numbers, also by a call."""

    def __init__(self, weights: Mapping[str, Tensor], tell: Callable[[str, Tensor], None], numbering: Collection[str] = ()) -> None:
        super().__init__()
        self._paths = {id(weight): path for path, weight in weights.items()}
        self._tell = tell
        self._numbering = frozenset(numbering)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out `func`, and tell of rows that went into a tensor."""
        result = func(*args, **(kwargs or {}))
        if func not in _CALLS and isinstance(result, Tensor) and result.is_floating_point():
            for value in (*_flatten_arguments(args), *(kwargs or {}).values()):
                path = self._paths.get(id(value))
                if path is not None and isinstance(value, Tensor):
                    self._tell(path, _find_read_rows(func, value, args))
        if func in _CALLS and self._numbering:
            self._tell_numbers(args)
        return result

    def _tell_numbers(self, args: Any) -> None:
        """Tell of the rows that a layer has looked up in its own way."""
        path = next((self._paths[id(arg)] for arg in args if id(arg) in self._paths), None)
        rows = next((arg for arg in args if isinstance(arg, Tensor) and not arg.is_floating_point()), None)
        if path in self._numbering and path is not None and rows is not None:
            self._tell(path, rows)


def finds_own_rows(layer: object) -> bool:
    """Whether `layer` is an embedding that works out for itself which rows it looks up."""
    return isinstance(layer, nn.Embedding) and type(layer).forward is not nn.Embedding.forward


def _flatten_arguments(args: Any) -> list[Any]:
    """Arguments, those in lists too, as `torch.cat` takes them."""
    return [item for arg in args for item in (arg if isinstance(arg, list | tuple) else (arg,))]


def _find_read_rows(func: Any, weight: Tensor, args: Any) -> Tensor:
    """The rows of `weight` that `func` reads: those of an index, else all."""
    every = torch.arange(len(weight))
    if func is not Tensor.__getitem__ or args[0] is not weight:
        return every
    index = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
    if index is None or index is Ellipsis:
        return every
    return every[index.cpu() if isinstance(index, Tensor) else index].reshape(-1)
