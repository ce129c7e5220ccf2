"""Whether a recorded fold may be carried out: it may name only layers of the kinds that we fold, with plain weights that fit
to one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from torch import nn

from trimodal.core.site import Folding
from trimodal.edits.folding import is_leaf_module, named_tensors
from trimodal.layers import strip_norm_affine
from trimodal.models.declare import kind_of


class UnfitStepError(Exception):
    """A step that cannot be carried out, and why."""


def check_fold_form(what: Mapping[str, Any]) -> None:
    """Whether `what` has the form of a fold as steps tell of it."""
    if what.keys() != {"what", "path", "into"} or not isinstance(what["path"], str):
        raise UnfitStepError("is a fold without what is folded, its path, and what it is folded into")
    if what["what"] not in get_args(Folding):
        raise UnfitStepError(f"folds {what['path']:.80} as {what['what']!r:.40}")
    into = what["into"]
    idle = what["what"] == "idle"
    if not isinstance(into, list) or bool(into) == idle or not all(isinstance(path, str) for path in into):
        raise UnfitStepError(f"folds {what['path']:.80} into {into!r:.40}")
    if len(set(into)) != len(into) or what["path"] in into or (what["what"] != "affine" and len(into) > 1):
        raise UnfitStepError(f"folds {what['path']:.80} into {len(into)} layers")


def check_fold_fits(what: Mapping[str, Any], module: nn.Module) -> None:
    """Whether the layers that a fold names are there as it needs them."""
    path, into = what["path"], what["into"]
    if what["what"] == "twin":
        tensors = named_tensors(module)
        one, other = tensors.get(path), tensors.get(into[0])
        if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
            raise UnfitStepError(f"stores {path:.80} as {into[0]:.80}, which is not there or another kind of tensor")
        return
    modules = dict(module.named_modules())
    if what["what"] == "idle":
        if not path or not is_leaf_module(modules.get(path)):
            raise UnfitStepError(f"removes {path:.80}, which is no layer with weights of its own")
        return
    gone, layers = modules.get(path), [modules.get(name) for name in into]
    if gone is None or not all(_can_take_over(what["what"], gone, layer) for layer in layers):
        kind = "no layer" if gone is None else f"a {type(gone).__name__}"
        raise UnfitStepError(f"folds {path:.80}, here {kind}, into {', '.join(into):.120}, which does not fit")


def _can_take_over(what: Folding, gone: nn.Module, layer: nn.Module | None) -> bool:
    """Whether `layer` can take over what `gone` does."""
    if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
        return False
    weight, own = layer._parameters.get("weight"), gone._parameters.get("weight")
    if weight is None:
        return False
    if what == "norm":
        return isinstance(gone, nn.BatchNorm1d | nn.BatchNorm2d) and own is not None and own.shape == weight.shape[:1]
    if what == "scale":
        vectors = [tensor for tensor in gone._parameters.values() if tensor is not None]
        return not gone._modules and len(vectors) == 1 and vectors[0].shape == weight.shape[:1]
    if not isinstance(layer, nn.Linear) or own is None:
        return False
    if what == "affine":
        plain = kind_of(gone) == "norm" and not isinstance(gone, nn.GroupNorm) and "running_mean" not in gone._buffers
        return plain and own.shape == weight.shape[1:] and _has_known_epsilon(gone)
    if not isinstance(gone, nn.Linear) or own.shape[0] != weight.shape[1]:
        return False
    return weight.shape[0] * own.shape[1] <= weight.numel() + own.numel()


def _has_known_epsilon(norm: nn.Module) -> bool:
    epsilon = strip_norm_affine(norm).epsilon
    return epsilon is None or isinstance(epsilon, float)
