"""Cut: some units of an axis label stay, in every tensor that carries it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from trimodal.core import Axis, Change, Layout, Place, Site
from trimodal.core.model_edit import Effect, ModelEdit, Resize
from trimodal.core.site import is_width
from trimodal.edits.alignment import remap_alignment_heads_
from trimodal.edits.edit import UnfitEditError, Whole, read_fields, set_values_
from trimodal.edits.own_config import set_size_

_STATISTICS = ("running_mean", "running_var")
_KEYS = ("key", "kv", "qkv")
_SIZES = {
    "linear": (("in_features",), ("out_features",)),
    "conv": (("in_channels",), ("out_channels",)),
    "embedding": ((), ("embedding_dim",)),
    "norm": ((), ("num_features", "num_channels")),
    "experts": ((), ()),
}


@dataclass(frozen=True)
class CutUnits(ModelEdit):
    """Of `label` only the units `kept` stay, ascending."""

    verb: ClassVar[str] = "cut"
    effect: ClassVar[Effect] = "sizes"
    is_local: ClassVar[bool] = True

    label: str
    kept: tuple[Whole, ...]

    @classmethod
    def from_change(cls, change: Change, place: Place) -> Iterator[tuple[Self, Mapping[str, Tensor]]]:
        """The cut, with what makes up for it in the consumer and elsewhere."""
        if change.cut is not None:
            path = place.observed_site.path
            own = {f"{path}.weight": change.cut.weight, f"{path}.bias": change.cut.bias}
            given = {name: value for name, value in own.items() if value is not None}
            yield cls(change.cut.label, tuple(change.cut.kept)), {**given, **change.cut.tensors}

    @classmethod
    def from_fields(cls, what: Any, size: int) -> Self:
        """The cut that a file tells of."""
        return read_fields(cls, cls.verb, what)

    def to_fields(self) -> dict[str, Any]:
        """Label and units."""
        return {"label": self.label, "kept": list(self.kept)}

    def check_fits(self, module: nn.Module, layout: Layout) -> None:
        """Whether the units are there, in plain weights that nothing else uses."""
        sites, kept = list(layout.find_label_sites(self.label)), list(self.kept)
        axes = (axis for site in sites for axis in (site.input_axis, site.output_axis) if axis)
        units = {axis.units_of(self.label) for axis in axes if self.label in axis.labels}
        if not units or not kept or sorted(set(kept)) != kept or kept[-1] >= min(units):
            raise UnfitEditError(f"keeps {len(kept)} units of '{self.label:.80}', of which there are {min(units, default=0)}")
        if any(module.get_submodule(site.path)._parameters.get("weight") is None for site in sites):
            raise UnfitEditError(f"cuts '{self.label:.80}' where a weight is no longer plain")
        if any(site.stored == "shared" or (site.tied and not site.goes_with_tied) for site in sites):
            raise UnfitEditError(f"cuts '{self.label:.80}' where a weight is shared")

    def apply_(self, module: nn.Module, layout: Layout, values: Mapping[str, Tensor] | None = None) -> None:
        """Cut every tensor with the label; `values` are new weights by name, of the sizes after the cut."""
        cut_units_(module, layout, self.label, self.kept)
        set_values_(module, values or {})

    def layout_after(self, layout: Layout) -> Layout:
        """Every dimension with the label is shorter."""
        return layout.cut_units(self.label, self.kept)

    def update_references_(self, module: nn.Module, layout: Layout) -> str:
        """The heads that tell the times of words are named by their new numbers."""
        return remap_alignment_heads_(module, layout, self.label, self.kept)

    def find_touched_paths(self, layout: Layout) -> set[str]:
        """All layers with the label."""
        return {site.path for site in layout.find_label_sites(self.label)}

    def find_resize(self, layout: Layout) -> Resize | None:
        """Units, entries, and with grouped queries the heads of queries."""
        sites, label, kept = list(layout.find_label_sites(self.label)), self.label, len(self.kept)
        if not sites:
            return None
        axes = [axis for site in sites for axis in (site.input_axis, site.output_axis) if axis and label in axis.labels]
        heads = [axis for site in sites for axis in (site.input_axis, site.output_axis) if axis and site.kind != "embedding"]
        widths = {part.width for axis in heads for part in axis.parts if part.label == label} or {1}
        units, least = axes[0].units_of(label), min(widths)
        numbers = {(axis.size, axis.cut_units(range(kept), label).size) for axis in axes}
        numbers |= {(units * times, kept * times) for times in {width // least for width in widths}}
        if is_width(label):
            keys = (site.output_axis for site in sites if site.role in _KEYS and site.output_axis is not None)
            return Resize(frozenset(numbers), min((part.width for axis in keys for part in axis.parts), default=None), stream=True)
        return Resize(frozenset(numbers), least if label.endswith(".heads") else None)

    @property
    def narrows_stream(self) -> bool:
        """Whether the units are dimensions of a tower's stream."""
        return is_width(self.label)


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
            setattr(other, "embedding_dim" if isinstance(other, nn.Embedding) else "in_features", len(kept))
    for bare in layout.free_parameters:
        if bare.label == label:
            path, _, name = bare.path.rpartition(".")
            owner = module.get_submodule(path)
            units = owner.get_parameter(name).shape[-1] // (bare.width * bare.repeats)
            index = Axis(label, units, bare.width, bare.repeats).entry_indices(kept)
            _select_entries_(owner, index, (name,), -1, ())
    for counter in layout.size_attributes:
        if counter.label == label and counter.per_unit:
            set_size_(module.get_submodule(counter.path), counter.attribute, len(kept) * counter.per_unit)


def _select_entries_(layer: nn.Module, entries: Sequence[int], names: Sequence[str], dim: int, sizes: Sequence[str]) -> None:
    for name in names:
        tensor = getattr(layer, name, None)
        if isinstance(tensor, Tensor) and tensor.dim():
            along = dim if tensor.dim() > 1 else 0
            index = torch.tensor(entries, device=tensor.device)  # a bare model may hold some on the CPU
            cut = tensor.detach().index_select(along, index).contiguous()
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
    if site.groups > 1 and site.kind == "conv":
        groups = site.groups * left // site.shape[0]
        for name, value in (("groups", groups), ("in_channels", groups * site.shape[1])):
            setattr(layer, name, value)
