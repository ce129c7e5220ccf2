"""The structure of a fold: which module goes and what those get that take it over, whatever the values are.

`edits/apply.py` calls this when a fold is carried out, and again with empty tensors when a saved model is rebuilt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from trimodal.core import Fold
from trimodal.layers import RemovedLayer, strip_norm_affine


def apply_fold_(module: nn.Module, fold: Fold) -> None:
    """Take away what `fold` names and give the layers that take it over a bias and a shape to hold its values."""
    _HOW[fold.what](module, fold)


def _fold_norm_(module: nn.Module, fold: Fold) -> None:
    _add_zero_bias_(module.get_submodule(fold.into[0]))
    module.set_submodule(fold.path, nn.Identity())


def _fold_affine_(module: nn.Module, fold: Fold) -> None:
    norm = module.get_submodule(fold.path)
    if norm._parameters.get("bias") is not None:
        for path in fold.into:
            _add_zero_bias_(module.get_submodule(path))
    module.set_submodule(fold.path, strip_norm_affine(norm))


def _fold_linear_(module: nn.Module, fold: Fold) -> None:
    first, second = module.get_submodule(fold.path), module.get_submodule(fold.into[0])
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    if first.bias is not None:
        _add_zero_bias_(second)
    old = second.weight
    second.weight = nn.Parameter(old.new_empty(old.shape[0], first.in_features), requires_grad=old.requires_grad)
    second.in_features = first.in_features
    module.set_submodule(fold.path, nn.Identity())


def _fold_scale_(module: nn.Module, fold: Fold) -> None:
    module.set_submodule(fold.path, nn.Identity())


def _fold_twin_(module: nn.Module, fold: Fold) -> None:
    kept = named_tensors(module)[fold.into[0]]
    path, _, name = fold.path.rpartition(".")
    setattr(module.get_submodule(path), name, kept)


def _remove_unused_(module: nn.Module, fold: Fold) -> None:
    module.set_submodule(fold.path, RemovedLayer(fold.path, module.get_submodule(fold.path)))


_HOW: Mapping[str, Callable[[nn.Module, Fold], None]] = {
    "norm": _fold_norm_, "affine": _fold_affine_, "linear": _fold_linear_, "scale": _fold_scale_,
    "twin": _fold_twin_, "idle": _remove_unused_,
}  # fmt: skip


def _add_zero_bias_(layer: nn.Module) -> None:
    """A bias of zeros where there is none."""
    weight = layer._parameters["weight"]
    if layer._parameters.get("bias") is None and weight is not None:
        zeros = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        layer.register_parameter("bias", nn.Parameter(zeros, requires_grad=weight.requires_grad))


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under each of its names, as the object that it is."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def is_leaf_module(part: nn.Module | None) -> bool:
    """Whether it is a module with tensors of its own and no modules in it."""
    return (
        part is not None
        and not part._modules
        and any(t is not None for t in (*part._parameters.values(), *part._buffers.values()))
    )


def collect_fold_tensors(module: nn.Module, fold: Fold) -> dict[str, Tensor]:
    """The parameters and buffers of what goes and of those that take it over, by name, in float32."""
    if fold.what in ("twin", "idle"):
        return {}
    found = {}
    for path in (fold.path, *fold.into):
        part = module.get_submodule(path)
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None and tensor.is_floating_point():
                found[f"{path}.{name}"] = tensor.detach().float()
    return found
