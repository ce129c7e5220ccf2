"""Whether a recorded step may be carried out.

A step comes from a file that anybody may have written. It can name only layers that are there, kinds and types that we
know, and no more bytes than the file has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import nn

from trimodal.core import Layout, Merge
from trimodal.core.change import LARGEST_SHARE
from trimodal.core.storage import FACTORED, StorageError, stored_bytes
from trimodal.edits.apply import key_site_of
from trimodal.edits.fold_checks import UnfitStepError, check_fold_fits, check_fold_form
from trimodal.errors import ModelError
from trimodal.layers import CodedWeight, has_shared_weight, is_weight_parametrized
from trimodal.models.blocks import block_list_of

Step = Mapping[str, Any]
_VERBS = {"cut", "treat", "merge", "drop", "share", "fold"}


def check_step_form(step: Any, size: int) -> None:
    """Whether `step` from a file of `size` bytes is of a form that trimodal writes."""
    if not isinstance(step, dict) or len(step) != 1 or not step.keys() <= _VERBS:
        raise UnfitStepError(f"is none of {', '.join(sorted(_VERBS))}")
    ((verb, what),) = step.items()
    if not isinstance(what, dict):
        raise UnfitStepError(f"is a {verb} of {what!r:.40}")
    if verb == "cut":
        if what.keys() != {"label", "kept"} or not isinstance(what["label"], str) or not _is_whole_numbers(what["kept"]):
            raise UnfitStepError("is a cut without a label and a list of kept units")
        return
    if verb == "merge":
        _check_merge_form(what)
        return
    if verb == "share":
        paths = what.get("paths")
        if what.keys() != {"paths"} or not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
            raise UnfitStepError("is a sharing without a list of layers")
        if len(set(paths)) != len(paths) or len(paths) < 2:
            raise UnfitStepError(f"lets {len(set(paths))} different layers share a weight {len(paths)} times")
        return
    if verb == "drop":
        if what.keys() != {"tower", "kept"} or not isinstance(what["tower"], str) or not _is_whole_numbers(what["kept"]):
            raise UnfitStepError("is a drop without a tower and a list of kept blocks")
        return
    if verb == "fold":
        check_fold_form(what)
        return
    if what.keys() - {"table"} != {"path", "kind", "options", "tied", "bias"} or not isinstance(what["path"], str):
        raise UnfitStepError("is a treatment without its path, kind, options, ties and bias")
    if not isinstance(what["kind"], str) or not isinstance(what["options"], dict):
        raise UnfitStepError(f"keeps {what['path']:.80} as {what['kind']!r:.40}")
    if not isinstance(what["tied"], list) or not all(isinstance(path, str) for path in what["tied"]):
        raise UnfitStepError(f"ties {what['path']:.80} to {what['tied']!r:.40}")
    if what["bias"] is not None and not (_is_whole_numbers(what["bias"]) and len(what["bias"]) == 1):
        raise UnfitStepError(f"gives {what['path']:.80} a bias of {what['bias']!r:.40}")
    try:
        total = stored_bytes(what["kind"], what["options"])
    except StorageError as reason:
        raise UnfitStepError(f"keeps {what['path']:.80} with {reason}") from reason
    if not isinstance(what.get("table", ""), str) or ("table" in what) != (what["options"].get("tables") == "borrowed"):
        raise UnfitStepError(f"keeps {what['path']:.80} with the table of {what.get('table')!r:.40}")
    if total > size:
        raise UnfitStepError(f"wants {total:,} bytes for {what['path']:.80}, more than the whole file has")


def check_step_fits(step: Step, module: nn.Module, layout: Layout) -> None:
    """Whether `step` can be carried out on `module` as it is now."""
    if "cut" in step:
        label, kept = step["cut"]["label"], step["cut"]["kept"]
        axes = (axis for site in layout.find_label_sites(label) for axis in (site.input_axis, site.output_axis) if axis)
        units = {axis.units_of(label) for axis in axes if label in axis.labels}
        if not units or not kept or sorted(set(kept)) != kept or kept[-1] >= min(units):
            raise UnfitStepError(f"keeps {len(kept)} units of '{label:.80}', of which there are {min(units, default=0)}")
        if any(module.get_submodule(site.path)._parameters.get("weight") is None for site in layout.find_label_sites(label)):
            raise UnfitStepError(f"cuts '{label:.80}' where a weight is no longer plain")
        alone = (site.stored != "shared" and (not site.tied or site.is_read_again) for site in layout.find_label_sites(label))
        if not all(alone):
            raise UnfitStepError(f"cuts '{label:.80}' where a weight is shared")
        return
    if "merge" in step:
        _check_merge_fits(step["merge"], layout)
        return
    if "drop" in step:
        _check_drop_fits(step["drop"], module, layout)
        return
    if "share" in step:
        _check_sharing_fits(step["share"]["paths"], dict(module.named_modules()))
        return
    if "fold" in step:
        check_fold_fits(step["fold"], module)
        return
    treat = step["treat"]
    modules = dict(module.named_modules())
    shape, claimed = _weight_shape_of(modules.get(treat["path"])), list(treat["options"]["shape"])
    if shape is None or shape != claimed:
        raise UnfitStepError(f"treats {treat['path']:.80} {claimed}, but here it is {shape or 'no layer with a weight'}")
    layer = modules[treat["path"]]
    if has_shared_weight(layer):
        raise UnfitStepError(f"treats {treat['path']:.80}, which uses another layer's weight")
    if treat["kind"] in FACTORED and not _can_be_chain(layer, treat["kind"], treat["options"]):
        raise UnfitStepError(f"factorises {treat['path']:.80}, a {type(layer).__name__}, as another kind of layer")
    if "table" in treat and not _can_share_codebook(modules.get(treat["table"]), treat["options"]):
        raise UnfitStepError(f"lets {treat['path']:.80} use the table of {treat['table']:.80}, which has none that fits")
    for path in treat["tied"]:
        if _weight_shape_of(modules.get(path)) != shape:
            raise UnfitStepError(f"ties {treat['path']:.80} to {path:.80}, which is no layer of its shape")


def _check_merge_form(what: Mapping[str, Any]) -> None:
    """Whether `what` has the form of a `TokenMerge`."""
    if what.keys() != {field.name for field in fields(Merge)} or not isinstance(what["tower"], str):
        raise UnfitStepError("is a merge without its tower, kind, share, blocks and attention")
    share, tower = what["share"], what["tower"]
    if what["kind"] not in ("matching", "strided") or type(what["proportional"]) is not bool:
        raise UnfitStepError(f"merges tokens of {tower:.80} by {what['kind']!r:.40}, {what['proportional']!r:.40}")
    if type(share) is not float or not 0 <= share <= LARGEST_SHARE:
        raise UnfitStepError(f"merges a share of {share!r:.40} of the tokens of {tower:.80}")
    if not _is_whole_numbers([what["first"], what["last"]]) or what["first"] > what["last"]:
        raise UnfitStepError(f"merges tokens of {tower:.80} from block {what['first']!r:.40} to {what['last']!r:.40}")


def _check_merge_fits(what: Mapping[str, Any], layout: Layout) -> None:
    """Whether the tower is there with all that merging its tokens needs."""
    tower = next((tower for tower in layout.towers if tower.name == what["tower"]), None)
    if tower is None or tower.whole_tokens:
        raise UnfitStepError(f"merges tokens of {what['tower']:.80}: {'no such tower' if tower is None else tower.whole_tokens}")
    if what["last"] >= len(tower.blocks):
        raise UnfitStepError(f"merges tokens of {tower.name:.80} up to block {what['last']} of {len(tower.blocks)}")
    for number, block in enumerate(tower.blocks):
        site = key_site_of(layout, tower.name, number)
        if site is None or site.output_axis is None or not site.path.startswith(f"{block}."):
            raise UnfitStepError(f"merges tokens of {tower.name:.80}, of which block {number} has no keys")


def _check_drop_fits(what: Mapping[str, Any], module: nn.Module, layout: Layout) -> None:
    """Whether the tower is there, may lose blocks, and has those that are kept."""
    tower = next((tower for tower in layout.towers if tower.name == what["tower"]), None)
    if tower is None or tower.whole_blocks:
        raise UnfitStepError(f"drops blocks of {what['tower']:.80}: {'no such tower' if tower is None else tower.whole_blocks}")
    kept = what["kept"]
    if not kept or sorted(set(kept)) != kept or kept[-1] >= len(tower.blocks):
        raise UnfitStepError(f"keeps {len(kept)} blocks of {tower.name:.80}, of which there are {len(tower.blocks)}")
    try:
        blocks = block_list_of(module, tower)
    except ModelError as reason:
        raise UnfitStepError(f"drops blocks of {tower.name:.80}: {reason}") from reason
    gone = {part for number, block in enumerate(blocks) if number not in kept for part in block.modules()}
    used = (getattr(part, name, None) for part in module.modules() if part not in gone for name in ("lender", "table_of"))
    if not gone.isdisjoint(used):
        raise UnfitStepError(f"drops blocks of {tower.name:.80} that others use a weight or a table of")


def _check_sharing_fits(paths: list[str], modules: Mapping[str, nn.Module]) -> None:
    """Whether all layers are plain linear ones of one shape and type."""
    for path in paths:
        layer, first = modules.get(path), modules.get(paths[0])
        if not isinstance(layer, nn.Linear) or not isinstance(first, nn.Linear) or _has_changed_weight(layer) or _has_changed_weight(first):
            raise UnfitStepError(f"lets {path:.80} share a weight, which is no plain linear layer")
        if layer.weight.shape != first.weight.shape or layer.weight.dtype != first.weight.dtype:
            raise UnfitStepError(f"lets {path:.80} use the weight of {paths[0]:.80}, which has another shape or type")


def _has_changed_weight(layer: nn.Module) -> bool:
    """Whether the layer's weight is not its own plain parameter."""
    return "weight" not in layer._parameters


def _can_share_codebook(layer: nn.Module | None, options: Mapping[str, Any]) -> bool:
    """Whether `layer` has a table of numbers for a codebook with `options`."""
    stored = getattr(layer, "stored", None)
    if not isinstance(stored, CodedWeight) or stored.options.get("tables") != "tower":
        return False
    return all(stored.options[name] == options[name] for name in ("bits", "scaled"))


def _can_be_chain(layer: nn.Module, kind: str, options: Mapping[str, Any]) -> bool:
    """Whether a chain of `kind` may take the place of `layer`: a linear layer, an embedding, an ungrouped convolution."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return layer.groups == 1 and not options.get("embedding")
    fits = isinstance(layer, nn.Embedding if options.get("embedding") else nn.Linear)
    return kind in ("low_rank", "residual") and fits


def _weight_shape_of(layer: nn.Module | None) -> list[int] | None:
    """The shape of a layer's weight, None where it has none of its own."""
    if layer is None:
        return None
    if has_shared_weight(layer):
        return list(layer.weight.shape)  # type: ignore[union-attr, arg-type]
    if is_weight_parametrized(layer):
        return list(layer.stored.shape)  # type: ignore[union-attr, arg-type]
    weight = layer._parameters.get("weight")
    return None if weight is None else list(weight.shape)


def _is_whole_numbers(value: Any) -> bool:
    """Whether `value` is a list of whole numbers from 0."""
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)
