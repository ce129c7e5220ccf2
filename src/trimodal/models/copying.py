"""Copies of a module of which the original knows nothing: with its values, or without any.

What is one object in the original (a module under two names, a tied weight) is one object in the copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from trimodal.errors import ModelError
from trimodal.models.foreign import last_line_of, run_foreign


def copy_module(module: nn.Module) -> nn.Module:
    """A copy of `module` with the same values, flags and hooks, and no tensor in common with it. Parameters that are the
    same numbers in the same memory (`decoder.weight.data = encoder.weight.data`) are one parameter in the copy.

    Raises:
        ModelError: a part of it cannot be copied; the message names that part.
    """
    tensors = _collect_module_tensors(module)
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in tensors if not t.is_leaf}
    return _deepcopy_module(module, {**memo, **_copy_tied_parameters(tensors)})


def _copy_tied_parameters(tensors: Sequence[Tensor]) -> dict[int, nn.Parameter]:
    """One copy for each group of parameters that lie in the same memory, by the id of each."""
    alike: dict[Any, dict[int, nn.Parameter]] = {}
    for tensor in tensors:
        if isinstance(tensor, nn.Parameter) and is_plain_tensor(tensor) and not tensor.is_meta and tensor.numel():
            key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
            alike.setdefault(key, {})[id(tensor)] = tensor
    memo = {}
    for group in (group for group in alike.values() if len(group) > 1):
        first = next(iter(group.values()))
        memo.update(dict.fromkeys(group, nn.Parameter(first.detach().clone(), requires_grad=first.requires_grad)))
    return memo


def copy_to_meta(module: nn.Module) -> nn.Module:
    """A copy of `module` on the meta device; takes no memory for weights.

    Raises:
        ModelError: a part of it cannot be copied; the message names that part.
    """
    return _deepcopy_module(module, {id(tensor): _to_meta(tensor) for tensor in _collect_module_tensors(module)})


def _to_meta(tensor: Tensor) -> Tensor:
    """`tensor` without values."""
    empty = tensor.detach().to("meta")
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def _collect_module_tensors(module: nn.Module) -> list[Tensor]:
    """Every tensor that a part of `module` holds: parameters, buffers, and plain attributes."""
    held = (leaf for part in module.modules() for leaf in tree_leaves([_to_plain_container(value) for value in vars(part).values()]))
    return [leaf for leaf in held if isinstance(leaf, Tensor)]


def _to_plain_container(value: Any) -> Any:
    """A container as plain ones, since not all kinds are looked into."""
    if isinstance(value, dict):
        return dict(value)
    return list(value) if isinstance(value, (list, tuple, set)) else value


def _deepcopy_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    try:
        return run_foreign("copying", lambda: copy.deepcopy(module, dict(memo)))
    except ModelError as error:
        cause = error.__cause__ or error
        raise ModelError(
            f"{type(module).__name__} cannot be copied: {_find_uncopyable(module, memo)} ({last_line_of(cause)}). "
            "trimodal works on a copy, so that your model stays as it is; set that attribute to None before the call, "
            "or give its class a __deepcopy__"
        ) from cause


def _find_uncopyable(module: nn.Module, memo: dict[int, Any]) -> str:
    """The first attribute of a part of `module` that cannot be copied by itself."""
    for path, part in module.named_modules():
        named = {**vars(part), **part._parameters, **part._buffers}
        for name, value in named.items():
            if name not in ("_parameters", "_buffers", "_modules") and not _can_copy(value, memo):
                return f"its attribute {f'{path}.{name}'.lstrip('.')} is a {type(value).__name__} that does not allow it"
    return "a part of it does not allow it"


def _can_copy(value: Any, memo: dict[int, Any]) -> bool:
    attempt: Callable[[], Any] = lambda: copy.deepcopy(value, dict(memo))  # noqa: E731
    try:
        run_foreign("copying", attempt)
    except ModelError:
        return False
    return True


def is_plain_tensor(tensor: Tensor) -> bool:
    """Whether `tensor`, of any shape, holds one number per entry in memory of its own kind: no sparse or quantized one, and none
    of a
    class that another library brings along to compute with."""
    own = type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    return tensor.layout is torch.strided and not tensor.is_quantized and not own
