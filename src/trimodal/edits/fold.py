"""Fold: neighbours take over what a layer does, and it goes. Its mathematics stands in `maths/affine_folding.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from trimodal.core import Change, Fold, Layout, Place, Site
from trimodal.core.model_edit import Effect, ModelEdit
from trimodal.core.site import Folding, is_width
from trimodal.edits.edit import UnfitEditError, read_fields, set_values_
from trimodal.layers import RemovedLayer, strip_norm_affine
from trimodal.models.weighted import kind_of


@dataclass(frozen=True)
class FoldLayer(ModelEdit):
    """What stands at `path` goes, and the layers `into` take it over; `what` is folded is said at `core.Fold`."""

    verb: ClassVar[str] = "fold"
    effect: ClassVar[Effect] = "structure"

    what: Folding
    path: str
    into: tuple[str, ...]

    @classmethod
    def from_change(cls, change: Change, place: Place) -> Iterator[tuple[Self, Mapping[str, Tensor]]]:
        """The fold, with the weights and biases of those that take it over."""
        if change.fold is not None:
            fold = change.fold.fold
            yield cls(fold.what, fold.path, tuple(fold.into)), change.fold.tensors

    @classmethod
    def from_fields(cls, what: Any, size: int) -> Self:
        """The fold that a file tells of."""
        found = read_fields(cls, cls.verb, what)
        into = found.into
        if bool(into) == (found.what == "idle"):
            raise UnfitEditError(f"folds {found.path:.80} into {list(into)!r:.40}")
        if len(set(into)) != len(into) or found.path in into or (found.what != "affine" and len(into) > 1):
            raise UnfitEditError(f"folds {found.path:.80} into {len(into)} layers")
        return found

    def to_fields(self) -> dict[str, Any]:
        """All fields."""
        return {"what": self.what, "path": self.path, "into": list(self.into)}

    def check_fits(self, module: nn.Module, layout: Layout) -> None:
        """Whether the layers that it names are there as it needs them: of the kinds that we fold, with plain weights that fit
        to one another."""
        if self.what == "twin":
            self._check_twin_fits(module)
            return
        modules = dict(module.named_modules())
        if self.what == "idle":
            if not self.path or not is_leaf_module(modules.get(self.path)):
                raise UnfitEditError(f"removes {self.path:.80}, which is no layer with weights of its own")
            return
        gone, layers = modules.get(self.path), [modules.get(name) for name in self.into]
        if gone is None or not all(_can_take_over(self.what, gone, layer) for layer in layers):
            kind = "no layer" if gone is None else f"a {type(gone).__name__}"
            raise UnfitEditError(f"folds {self.path:.80}, here {kind}, into {', '.join(self.into):.120}, which does not fit")

    def _check_twin_fits(self, module: nn.Module) -> None:
        tensors, (name,) = named_tensors(module), self.into
        one, other = tensors.get(self.path), tensors.get(name)
        if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
            raise UnfitEditError(f"stores {self.path:.80} as {name:.80}, which is not there or another kind of tensor")

    def apply_(self, module: nn.Module, layout: Layout, values: Mapping[str, Tensor] | None = None) -> None:
        """Take away what goes, and give those that take it over a bias and a shape to hold its values; `values` are their
        weights and biases by name."""
        _HOW[self.what](module, self.path, self.into)
        set_values_(module, values or {})

    def layout_after(self, layout: Layout) -> Layout:
        """Without the site that goes, and without the widths that can no longer be cut."""
        fold = Fold(self.what, self.path, self.into)
        sites = sites_of_fold(fold, layout) or ()
        return forbid_stream_cuts(fold, sites, layout.replace_sites(sites, fold_sites(fold, sites)))

    @property
    def aliases(self) -> dict[str, str]:
        """Of a twin, the tensor that goes."""
        return {self.path: self.into[0]} if self.what == "twin" else {}


def fold_sites(fold: Fold, sites: Sequence[Site]) -> tuple[Site, ...]:
    """The sites that are left of `sites`: the one that goes first, if it is one, and those that take it over."""
    if fold.what == "idle":
        return ()
    if fold.what == "scale" or not sites:
        return tuple(sites)
    gone, *rest = sites
    if fold.what == "twin":
        return (replace(rest[0], tied=(*rest[0].tied, gone.path, *gone.tied)),)
    if fold.what == "linear":
        rest = [replace(rest[0], shape=(rest[0].rows, *gone.shape[1:]), input_axis=gone.input_axis)]
    after = [replace(site, bias=site.bias or gone.bias) for site in rest]
    return tuple(replace(site, stored_bytes=site.dense_bytes) for site in after)


def sites_of_fold(fold: Fold, layout: Layout) -> tuple[Site, ...] | None:
    """The sites that the fold is about, what goes first, as far as it is one; None if one of them is there no longer."""
    known = {site.path: site for site in layout.sites}
    paths = fold.into if fold.what == "scale" else (fold.path, *fold.into)
    if fold.what == "idle" and fold.tensor_bytes:
        return ()
    if fold.what == "twin":
        paths = tuple(name.removesuffix(".weight") for name in paths)
        if not any(path in known for path in paths):
            return ()
    return tuple(known[path] for path in paths) if all(path in known for path in paths) else None


def forbid_stream_cuts(fold: Fold, sites: Sequence[Site], layout: Layout) -> Layout:
    """The `layout` that is left after a fold of one with `sites`: the streams along which something is gone or stored
    elsewhere can no longer be cut, since nobody knows of it."""
    known = {site.path for site in layout.sites}
    gone = [site for site in sites if site.path not in known]
    labels = {axis.label for site in gone for axis in (site.input_axis, site.output_axis) if axis and is_width(axis.label)}
    labels |= {bare.label for bare in layout.free_parameters if bare.path in (fold.path, *fold.into)}
    for label in sorted(labels & set(layout.list_labels())):
        layout = layout.mark_uncuttable(label, "a layer along it was folded into others; prune.width before that")
    return layout


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


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, of any shape, under each of its names, as the object that it is."""
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


def _fold_norm_(module: nn.Module, path: str, into: Sequence[str]) -> None:
    _add_zero_bias_(module.get_submodule(into[0]))
    module.set_submodule(path, nn.Identity())


def _fold_affine_(module: nn.Module, path: str, into: Sequence[str]) -> None:
    norm = module.get_submodule(path)
    if norm._parameters.get("bias") is not None:
        for name in into:
            _add_zero_bias_(module.get_submodule(name))
    module.set_submodule(path, strip_norm_affine(norm))


def _fold_linear_(module: nn.Module, path: str, into: Sequence[str]) -> None:
    first, second = module.get_submodule(path), module.get_submodule(into[0])
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    if first.bias is not None:
        _add_zero_bias_(second)
    old = second.weight
    second.weight = nn.Parameter(old.new_empty(old.shape[0], first.in_features), requires_grad=old.requires_grad)
    second.in_features = first.in_features
    module.set_submodule(path, nn.Identity())


def _fold_scale_(module: nn.Module, path: str, into: Sequence[str]) -> None:
    module.set_submodule(path, nn.Identity())


def _fold_twin_(module: nn.Module, path: str, into: Sequence[str]) -> None:
    kept = named_tensors(module)[into[0]]
    owner, _, name = path.rpartition(".")
    setattr(module.get_submodule(owner), name, kept)


def _remove_unused_(module: nn.Module, path: str, into: Sequence[str]) -> None:
    module.set_submodule(path, RemovedLayer(path, module.get_submodule(path)))


_HOW: Mapping[Folding, Callable[[nn.Module, str, Sequence[str]], None]] = {
    "norm": _fold_norm_,
    "affine": _fold_affine_,
    "linear": _fold_linear_,
    "scale": _fold_scale_,
    "twin": _fold_twin_,
    "idle": _remove_unused_,
}


def _add_zero_bias_(layer: nn.Module) -> None:
    """A bias of zeros where there is none."""
    weight = layer._parameters["weight"]
    if layer._parameters.get("bias") is None and weight is not None:
        zeros = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        layer.register_parameter("bias", nn.Parameter(zeros, requires_grad=weight.requires_grad))


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
