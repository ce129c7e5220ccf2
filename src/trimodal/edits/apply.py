"""The only file that changes a model.

Six primitives, used alike when a method has just solved a place and when a saved model is loaded again:

    cut_      keep some units of an axis label in every tensor that carries it
    treat_    keep one site's weight in another way
    merge_    let the blocks of a tower merge tokens
    drop_     remove blocks of a tower
    share_    let several layers use one weight
    fold_     let a layer's neighbours take over what it does, see `edits/folding.py`

and `apply_change_`, which carries out a method's `Change` with them and writes the steps down, so that they can be
replayed on the bare architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core import Change, Drop, Fold, Layout, Merge, Place, Site
from trimodal.core.storage import FACTORED, tensor_specs_of
from trimodal.edits.alignment import remap_alignment_blocks_, remap_alignment_heads_
from trimodal.edits.fold_layout import fold_layout, forbid_stream_cuts
from trimodal.edits.folding import apply_fold_
from trimodal.errors import ModelError
from trimodal.layers import (
    BlockMerging,
    FactorChain,
    has_shared_weight,
    is_weight_parametrized,
    merge_factor_chain,
    merge_tokens_,
    parametrize_weight_,
    remove_parametrization_,
    replace_weight_,
    share_weight_,
    tie_weight_,
)
from trimodal.models.blocks import block_list_of, renumber_blocks_
from trimodal.models.model import Model

_STATISTICS = ("running_mean", "running_var")
_SIZES = {
    "linear": (("in_features",), ("out_features",)),
    "conv": (("in_channels",), ("out_channels",)),
    "embedding": ((), ("embedding_dim",)),
    "norm": ((), ("num_features", "num_channels")),
}

RecordedStep = dict[str, Any]


def apply_change_(model: Model, place: Place, change: Change, after: Sequence[Site]) -> tuple[str, ...]:
    """Carry out `change` at `place`, set the layout to hold the sites `after`, and write down the steps taken. Returns what
    else became of the model, in words."""
    said = ""
    if change.cut is not None:
        said = remap_alignment_heads_(model.module, model.layout, change.cut.label, change.cut.kept)
        cut_units_(model.module, model.layout, change.cut.label, change.cut.kept)
        model.steps.append({"cut": {"label": change.cut.label, "kept": list(change.cut.kept)}})
        consumer = model.module.get_submodule(place.observed_site.path)
        _overwrite_parameter_(consumer, "weight", change.cut.weight)
        _overwrite_parameter_(consumer, "bias", change.cut.bias)
        for name, value in change.cut.tensors.items():
            path, _, tensor = name.rpartition(".")
            _overwrite_parameter_(model.module.get_submodule(path), tensor, value)
        model.layout = model.layout.cut_units(change.cut.label, change.cut.kept)
    if change.fold is not None:
        fold = change.fold.fold
        apply_fold_(model.module, fold)
        for name, value in change.fold.tensors.items():
            path, _, tensor = name.rpartition(".")
            _overwrite_parameter_(model.module.get_submodule(path), tensor, value)
        model.steps.append({"fold": {"what": fold.what, "path": fold.path, "into": list(fold.into)}})
    for path, treatment in change.treatments.items():
        site = next(s for s in place.sites if s.path == path)
        apply_treatment_(model.module, site, treatment.kind, treatment.options, treatment.tensors, treatment.bias, treatment.table)
        bias = _pop_treatment_(model.steps, path)
        model.steps.append({"treat": {
            "path": path, "kind": treatment.kind, "options": dict(treatment.options), "tied": list(site.tied),
            "bias": bias if treatment.bias is None else list(treatment.bias.shape),
            **({"table": treatment.table} if treatment.table else {}),
        }})  # fmt: skip
    for paths in change.shared:
        share_layer_weights_(model.module, paths)
        model.steps.append({"share": {"paths": list(paths)}})
    if change.drop is not None:
        said = remap_alignment_blocks_(model.module, model.layout, change.drop.tower, change.drop.kept)
        drop_blocks_(model.module, model.layout, change.drop)
        model.steps.append({"drop": {"tower": change.drop.tower, "kept": list(change.drop.kept)}})
        model.layout = model.layout.drop_blocks(change.drop.tower, change.drop.kept)
    model.layout = model.layout.replace_sites(place.sites, after)
    if change.fold is not None:
        model.layout = forbid_stream_cuts(change.fold.fold, place.sites, model.layout)
    if change.merge is not None:
        merge_tower_tokens_(model.module, model.layout, change.merge)
        model.steps.append({"merge": asdict(change.merge)})
        model.layout = model.layout.mark_tokens_merged(change.merge.tower)
    return (said,) if said else ()


def _pop_treatment_(steps: list[RecordedStep], path: str) -> list[int] | None:
    """Take out of `steps` the earlier treatment of the site at `path`, of which nothing is left but the bias that it
    may have given: its shape is returned. Before blocks were dropped the path was another one's."""
    begin = max((number for number, step in enumerate(steps) if "drop" in step), default=0)
    for number, step in enumerate(steps[begin:], start=begin):
        if "treat" in step and step["treat"]["path"] == path:
            bias: list[int] | None = steps.pop(number)["treat"]["bias"]
            return bias
    return None


def cut_units_(module: nn.Module, layout: Layout, label: str, kept: Sequence[int]) -> None:
    """Keep the units `kept` of `label` in every tensor that carries it, and set the counters that count them."""
    for site in layout.find_label_sites(label):
        layer = module.get_submodule(site.path)
        inputs, outputs = _SIZES[site.kind]
        if site.writes_label(label) and site.output_axis is not None:
            index = site.output_axis.kept_entry_indices(kept, label)
            _select_entries_(layer, index, ("weight", "bias", *_STATISTICS), site.output_dim, outputs)
            _recount_groups_(layer, site, len(index))
        if site.reads_label(label) and site.input_axis is not None and site.kind != "embedding":
            _select_entries_(layer, site.input_axis.kept_entry_indices(kept, label), ("weight",), 1, inputs)
        for other in map(module.get_submodule, site.tied):
            other.weight = layer.weight
            other.in_features = len(kept)  # type: ignore[assignment]
    for bare in layout.free_parameters:
        if bare.label == label:
            path, _, name = bare.path.rpartition(".")
            _select_entries_(module.get_submodule(path), list(kept), (name,), -1, ())
    for counter in layout.size_attributes:
        if counter.label == label:
            setattr(module.get_submodule(counter.path), counter.attribute, len(kept) * counter.per_unit)


def _select_entries_(layer: nn.Module, entries: Sequence[int], names: Sequence[str], dim: int, sizes: Sequence[str]) -> None:
    index = torch.tensor(entries)
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
            setattr(layer, size, len(entries))
    if hasattr(layer, "normalized_shape"):
        layer.normalized_shape = (len(entries),)  # type: ignore[assignment]


def _recount_groups_(layer: nn.Module, site: Site, left: int) -> None:
    """Let a grouped layer, of whose output whole groups were cut and `left` entries stay, count its groups anew."""
    if isinstance(layer, nn.GroupNorm):
        layer.num_groups = layer.num_groups * left // site.shape[0]
    if site.groups > 1:
        groups = site.groups * left // site.shape[0]
        for name, value in (("groups", groups), ("in_channels", groups * site.shape[1])):
            setattr(layer, name, value)


def _overwrite_parameter_(layer: nn.Module, name: str, value: Tensor | None) -> None:
    """Set a parameter's values, keeping its shape and type."""
    if value is not None:
        old: Tensor = getattr(layer, name)
        setattr(layer, name, nn.Parameter(value.to(old).view_as(old), requires_grad=old.requires_grad))


def apply_treatment_(
    module: nn.Module,
    site: Site,
    kind: str,
    options: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    bias: Tensor | None,
    table: str = "",
) -> None:
    """Keep the weight of `site` as `kind`, with the table of the layer at `table` where it has none of its own; modules
    tied to it share the same store."""
    layer = module.get_submodule(site.path)
    for other in map(module.get_submodule, site.tied if kind != "dense" else ()):
        if has_shared_weight(other):
            tie_weight_(other)
    new = replace_weight_(layer, kind, options, tensors, bias)
    if new is not layer:
        _replace_module_(module, layer, new)
    if table:
        new.stored.share_table_(module.get_submodule(table).stored)  # type: ignore[union-attr, operator]
    for other in map(module.get_submodule, site.tied):
        if kind != "dense":
            parametrize_weight_(other, new.stored, owner=False)  # type: ignore[arg-type]
        elif not has_shared_weight(other):
            other.weight = new.weight


def _replace_module_(module: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Let `new` stand wherever `old` does, which may be in several places."""
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def merge_tower_tokens_(module: nn.Module, layout: Layout, how: Merge) -> None:
    """Let the blocks of a tower merge tokens as `how` says: those before `first` stay as they are, those after `last`
    only heed what was merged."""
    tower = layout.get_tower(how.tower)
    factor = round(1 / (1 - how.share)) if how.kind == "strided" else 0
    for number, path in enumerate(tower.blocks[how.first :], start=how.first):
        site = key_site_of(layout, how.tower, number)
        if site is None or site.output_axis is None:
            raise ModelError(f"nobody has declared the keys of {path}, so its tokens cannot be compared")
        done = (number - how.first + 1) / (how.last - how.first + 1)
        merge_tokens_(module.get_submodule(path), BlockMerging(
            start=number == how.first,
            removed=how.share * done if how.kind == "matching" and number <= how.last else None,
            factor=factor if number == how.first else 0,
            key=site.path.removesuffix(".second").removeprefix(f"{path}."),
            width=site.output_axis.width,
            protected=tower.protected,
            proportional=how.proportional,
            restore=tower.restored and number == len(tower.blocks) - 1,
        ))  # fmt: skip


def share_layer_weights_(module: nn.Module, paths: Sequence[str]) -> None:
    """Let the layers at `paths` use the weight of the first; each keeps its own bias."""
    owner, *others = (module.get_submodule(path) for path in paths)
    for other in others:
        share_weight_(other, owner)


def drop_blocks_(module: nn.Module, layout: Layout, what: Drop) -> None:
    """Remove all blocks of a tower but the kept ones, which move up, and let all that counts them count anew."""
    tower = layout.get_tower(what.tower)
    blocks = block_list_of(module, tower)
    for number in sorted(set(range(len(blocks))) - set(what.kept), reverse=True):
        del blocks[number]
    renumber_blocks_(module, tower, what.kept)


def key_site_of(layout: Layout, tower: str, block: int) -> Site | None:
    """The site that gives the keys of the self-attention in a block; of a factorised one, the second factor."""
    here = (site for site in layout.sites if (site.tower, site.block, site.role) == (tower, block, "key"))
    return next((site for site in here if site.branch in ("", "second")), None)


def replay_on_bare_(module: nn.Module, layout: Layout, steps: Sequence[RecordedStep], device: str = "meta") -> Layout:
    """Repeat recorded `steps` on a bare module, with empty tensors on `device`; returns the layout reached.

    Afterwards the module's state dict has the names and shapes of the saved one.
    """
    for step in steps:
        if "cut" in step:
            cut_units_(module, layout, step["cut"]["label"], step["cut"]["kept"])
            layout = layout.cut_units(step["cut"]["label"], step["cut"]["kept"])
            continue
        if "merge" in step:
            how = Merge(**step["merge"])
            merge_tower_tokens_(module, layout, how)
            layout = layout.mark_tokens_merged(how.tower)
            continue
        if "drop" in step:
            what = Drop(step["drop"]["tower"], tuple(step["drop"]["kept"]))
            drop_blocks_(module, layout, what)
            layout = layout.drop_blocks(what.tower, what.kept)
            continue
        if "share" in step:
            share_layer_weights_(module, step["share"]["paths"])
            layout = layout.mark_weight_shared(step["share"]["paths"])
            continue
        if "fold" in step:
            fold = Fold(**{**step["fold"], "into": tuple(step["fold"]["into"])})
            apply_fold_(module, fold)
            layout = fold_layout(fold, layout)
            continue
        treat = step["treat"]
        specs = tensor_specs_of(treat["kind"], treat["options"])
        tensors = {name: _make_empty_tensor(spec.shape, spec.dtype, device) for name, spec in specs.items()}
        layer = module.get_submodule(treat["path"])
        bias = None
        if treat["bias"] is not None:
            bias = _make_empty_tensor(treat["bias"], str(_layer_dtype_of(layer)).removeprefix("torch."), device)
        tied = tuple(treat["tied"])
        site = Site(path=treat["path"], tower="", block=None, role="", kind="linear", shape=(), tied=tied)
        apply_treatment_(module, site, treat["kind"], treat["options"], tensors, bias, treat.get("table", ""))
        if treat["kind"] in FACTORED:  # a later cut has to find the factors
            whole = [known for known in layout.sites if known.path == treat["path"]]
            parts = [part for s in whole for part in s.split_into_factors(treat["kind"], treat["options"])]
            layout = layout.replace_sites(whole, parts)
    return layout


def _make_empty_tensor(shape: Sequence[int], dtype: str, device: str) -> Tensor:
    return torch.empty(shape, dtype=getattr(torch, dtype), device=device)


def _layer_dtype_of(layer: nn.Module) -> torch.dtype:
    return next(layer.parameters()).dtype


def dequantize_module_(module: nn.Module) -> None:
    """Turn every stand-in into a plain float layer of the original's kind. What was cut stays cut."""
    plain: dict[Any, Any] = {}
    for layer in list(module.modules()):
        if is_weight_parametrized(layer):
            store = layer.stored
            remove_parametrization_(layer)
            layer.weight = plain.setdefault(store, layer.weight)  # tied weights stay tied
    for layer in list(module.modules()):
        if has_shared_weight(layer):
            tie_weight_(layer)
    for layer in reversed(list(module.modules())):  # a chain within a chain first
        if isinstance(layer, FactorChain):
            _replace_module_(module, layer, merge_factor_chain(layer))
