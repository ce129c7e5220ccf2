"""The only file that changes a model.

Two primitives, used alike when a method has just solved a place and when a saved model is loaded again:

    cut_      keep some units of an axis label in every tensor that carries it
    treat_    keep one site's weight in another way

and `apply_`, which carries out a method's `Change` with them and writes the steps down, so that they can be
replayed on the bare architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core import Axis, Change, Layout, Place, Site
from trimodal.core.storage import tensors_of
from trimodal.layers import LowRank, host_, is_hosting, merged, replaced_, unhost_
from trimodal.models.model import Model

_STATISTICS = ("running_mean", "running_var")
_SIZES = {
    "linear": (("in_features",), ("out_features",)),
    "conv": (("in_channels",), ("out_channels",)),
    "embedding": ((), ("embedding_dim",)),
    "norm": ((), ("num_features",)),
}

Step = dict[str, Any]


def apply_(model: Model, place: Place, change: Change, after: Sequence[Site]) -> None:
    """Carry out `change` at `place`, set the layout to hold the sites `after`, and write down the steps taken."""
    if change.cut is not None:
        cut_(model.module, model.layout, change.cut.label, change.cut.kept)
        model.steps.append({"cut": {"label": change.cut.label, "kept": list(change.cut.kept)}})
        consumer = model.module.get_submodule(place.observed.path)
        _overwrite_(consumer, "weight", change.cut.weight)
        _overwrite_(consumer, "bias", change.cut.bias)
        model.layout = model.layout.cut(change.cut.label, change.cut.kept)
    for path, treatment in change.treatments.items():
        site = next(s for s in place.sites if s.path == path)
        treat_(model.module, site, treatment.kind, treatment.options, treatment.tensors, treatment.bias)
        bias = _superseded_(model.steps, path)
        model.steps.append({"treat": {
            "path": path, "kind": treatment.kind, "options": dict(treatment.options), "tied": list(site.tied),
            "bias": bias if treatment.bias is None else list(treatment.bias.shape),
        }})  # fmt: skip
    model.layout = model.layout.exchange(place.sites, after)


def _superseded_(steps: list[Step], path: str) -> list[int] | None:
    """Take out of `steps` the earlier treatment of the site at `path`, of which nothing is left but the bias that it
    may have given: its shape is returned."""
    for number, step in enumerate(steps):
        if "treat" in step and step["treat"]["path"] == path:
            bias: list[int] | None = steps.pop(number)["treat"]["bias"]
            return bias
    return None


def cut_(module: nn.Module, layout: Layout, label: str, kept: Sequence[int]) -> None:
    """Keep the units `kept` of `label` in every tensor that carries it, and set the counters that count them."""
    for site in layout.carrying(label):
        layer = module.get_submodule(site.path)
        inputs, outputs = _SIZES[site.kind]
        if site.output_axis is not None and site.output_axis.label == label:
            _select_(layer, site.output_axis, kept, ("weight", "bias", *_STATISTICS), site.output_dim, outputs)
        if site.input_axis is not None and site.input_axis.label == label:
            _select_(layer, site.input_axis, kept, ("weight",), 1, inputs)
    for counter in layout.counters:
        if counter.label == label:
            setattr(module.get_submodule(counter.path), counter.attribute, len(kept) * counter.per_unit)


def _select_(
    layer: nn.Module, axis: Axis, kept: Sequence[int], names: Sequence[str], dim: int, sizes: Sequence[str]
) -> None:
    index = torch.tensor(axis.entries(kept))
    for name in names:
        tensor = getattr(layer, name, None)
        if isinstance(tensor, Tensor) and tensor.dim():
            along = dim if tensor.dim() > 1 else 0
            cut = tensor.detach().index_select(along, index.to(tensor.device)).contiguous()
            if isinstance(tensor, nn.Parameter):
                layer.register_parameter(name, nn.Parameter(cut, requires_grad=tensor.requires_grad))
            else:
                layer.register_buffer(name, cut)
    for size in sizes:
        if hasattr(layer, size):
            setattr(layer, size, axis.cut(kept).size)


def _overwrite_(layer: nn.Module, name: str, value: Tensor | None) -> None:
    """Set a parameter's values, keeping its shape and type."""
    if value is not None:
        old: Tensor = getattr(layer, name)
        setattr(layer, name, nn.Parameter(value.to(old).view_as(old), requires_grad=old.requires_grad))


def treat_(
    module: nn.Module,
    site: Site,
    kind: str,
    options: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    bias: Tensor | None,
) -> None:
    """Keep the weight of `site` as `kind`; modules tied to it share the same store."""
    layer = module.get_submodule(site.path)
    new = replaced_(layer, kind, options, tensors, bias)
    if new is not layer:
        module.set_submodule(site.path, new)
    for path in site.tied:
        other = module.get_submodule(path)
        if kind == "dense":
            other.weight = new.weight
        else:
            host_(other, new.stored, owner=False)  # type: ignore[arg-type]


def replay_(module: nn.Module, layout: Layout, steps: Sequence[Step], device: str = "meta") -> Layout:
    """Repeat recorded `steps` on a bare module, with empty tensors on `device`; returns the layout reached.

    Afterwards the module's state dict has the names and shapes of the saved one.
    """
    for step in steps:
        if "cut" in step:
            cut_(module, layout, step["cut"]["label"], step["cut"]["kept"])
            layout = layout.cut(step["cut"]["label"], step["cut"]["kept"])
            continue
        treat = step["treat"]
        specs = tensors_of(treat["kind"], treat["options"])
        tensors = {name: _empty(spec.shape, spec.dtype, device) for name, spec in specs.items()}
        layer = module.get_submodule(treat["path"])
        bias = None
        if treat["bias"] is not None:
            bias = _empty(treat["bias"], str(_dtype_of(layer)).removeprefix("torch."), device)
        tied = tuple(treat["tied"])
        site = Site(path=treat["path"], tower="", block=None, role="", kind="linear", shape=(), tied=tied)
        treat_(module, site, treat["kind"], treat["options"], tensors, bias)
        if treat["kind"] == "low_rank":  # a later cut has to find the factors
            whole = [known for known in layout.sites if known.path == treat["path"]]
            layout = layout.exchange(whole, [part for s in whole for part in s.factored(treat["options"]["rank"])])
    return layout


def _empty(shape: Sequence[int], dtype: str, device: str) -> Tensor:
    return torch.empty(shape, dtype=getattr(torch, dtype), device=device)


def _dtype_of(layer: nn.Module) -> torch.dtype:
    return next(layer.parameters()).dtype


def dequantize_(module: nn.Module) -> None:
    """Turn every stand-in into a plain float layer of the original's kind. What was cut stays cut."""
    plain: dict[Any, Any] = {}
    for layer in list(module.modules()):
        if is_hosting(layer):
            store = layer.stored
            unhost_(layer)
            layer.weight = plain.setdefault(store, layer.weight)  # tied weights stay tied
    for path, layer in list(module.named_modules()):
        if isinstance(layer, LowRank):
            module.set_submodule(path, merged(layer))
