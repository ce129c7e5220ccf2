"""A second device that is not there: tensors on it live in the CPU's memory, but say that they are elsewhere, and must not meet
those that do not.

With `Pretended` as a context, `tensor.to("cuda")` marks the memory of a copy, results of marked tensors are marked as well,
`tensor.device` says so, and an operation on marked and unmarked tensors raises `Mixed`, as a real device would: numbers
without dimension may be of the CPU, an index too, and `copy_` may bring anything anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

ELSEWHERE = torch.device("cuda", 0)
_CONVERSIONS = {"to", "cuda", "cpu", "_to_copy"}
_FREE = {"copy_", "__set__", "untyped_storage", "data_ptr", "__len__", "size", "dim", "set_"}
_AWAY = {"numpy", "tolist", "item", "__array__"}


class Mixed(RuntimeError):
    """Tensors of two devices met."""


class Pretended(TorchFunctionMode):
    """While open, there is a second device."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[int, Any] = {}  # storages, kept so that no memory is used twice

    def move_(self, module: nn.Module) -> nn.Module:
        """`module` with all its tensors elsewhere."""
        with torch._C.DisableTorchFunction():
            for tensor in (*module.parameters(), *module.buffers()):
                self._mark(tensor)
        return module

    def _mark(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr():  # nothing is nowhere
            self._kept[storage.data_ptr()] = storage

    def _is(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._kept

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func`, and say where what comes out is."""
        kwargs = dict(kwargs or {})
        if func is torch.device:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        given = [leaf for leaf in _pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = any(map(self._is, given))
        if name == "__get__" and given and getattr(func, "__self__", None) is Tensor.device:
            return ELSEWHERE if there else func(*args, **kwargs)
        wanted = _device_in(args, kwargs) if name in _CONVERSIONS or "device" in kwargs or not given else None
        if name == "cpu":
            wanted = torch.device("cpu")
        if name == "cuda":
            return self._copy(args[0], True)
        if name == "to" and len(args) > 1 and isinstance(args[1], Tensor):
            return self._copy(func(*args, **kwargs), self._is(args[1]))
        args, kwargs = _pytree.tree_map_only(torch.device, _here, (args, kwargs))
        if wanted is not None and wanted.type != "meta":
            args = tuple("cpu" if isinstance(a, str) and a == str(wanted) else a for a in args)
            kwargs = {key: "cpu" if key == "device" else value for key, value in kwargs.items()}
        if wanted is None:
            self._check(name, func, given, args, kwargs)
        result = func(*args, **kwargs)
        elsewhere = there if wanted is None else wanted.type == "cuda"
        if name in _CONVERSIONS and isinstance(result, Tensor):
            return self._copy(result, elsewhere)
        if elsewhere and name not in _AWAY:
            for leaf in _pytree.tree_leaves(result):
                if isinstance(leaf, Tensor):
                    self._mark(leaf)
        return result

    def _copy(self, tensor: Tensor, elsewhere: bool) -> Tensor:
        if self._is(tensor) != elsewhere:
            tensor = tensor.clone()
            if elsewhere:
                self._mark(tensor)
        return tensor

    def _check(self, name: str, func: Any, given: list[Tensor], args: Any, kwargs: Any) -> None:
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type == "cpu" and any(map(self._is, given)):
            raise Mixed(f"{name}: a generator of the CPU for tensors elsewhere")
        if name in _FREE or name.startswith("__deepcopy"):
            return
        looked = given[:1] if name in ("__getitem__", "__setitem__") and given and self._is(given[0]) else given
        sides = {self._is(t) for t in looked if t.dim() and t.numel()}
        if len(sides) > 1:
            shapes = [(tuple(t.shape), "elsewhere" if self._is(t) else "cpu") for t in looked]
            raise Mixed(f"{name}: {shapes}")


def _here(device: torch.device) -> torch.device:
    return device if device.type == "meta" else torch.device("cpu")


def _device_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.device | None:
    for value in (kwargs.get("device"), *args):
        if isinstance(value, torch.device):
            return value
        if isinstance(value, str) and value.partition(":")[0] in ("cpu", "cuda"):
            return torch.device(value)
    return None


def gradients(mode: Pretended) -> Callable[..., Any]:
    """`torch.autograd.grad`, which no mode sees: what it gives is where its inputs are."""
    real = torch.autograd.grad

    def grad(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        found = real(outputs, inputs, *args, **kwargs)
        for one, of in zip(found, [inputs] if isinstance(inputs, Tensor) else inputs, strict=True):
            if one is not None and mode._is(of):
                mode._mark(one)
        return found

    return grad


def leaves(data: Any) -> Iterator[Tensor]:
    """All tensors in `data`."""
    return (leaf for leaf in _pytree.tree_leaves(data) if isinstance(leaf, Tensor))
