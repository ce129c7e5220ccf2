"""Treat: one layer's weight is stored in another way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from trimodal.core import Change, Layout, Place, Site
from trimodal.core.model_edit import Effect, ModelEdit
from trimodal.core.storage import BASE, FACTORED, LINKS, StorageError, stored_bytes, tensor_specs_of
from trimodal.edits.edit import UnfitEditError, Whole, read_fields, replace_module_
from trimodal.layers import (
    CodedWeight,
    has_shared_weight,
    is_weight_parametrized,
    parametrize_weight_,
    replace_weight_,
    tie_weight_,
)

_PACKED = ("quantized", "codebook")
_BIAS = "bias"


@dataclass(frozen=True)
class TreatWeight(ModelEdit):
    """The weight of the layer at `path` is stored as `kind` with `options`, see `core/storage.py`.

    `tied` are the paths of modules that use the same weight. `bias` is the shape of a new bias, None where the layer's own
    stays. `table` is the path of the layer whose table of numbers is used, where the storage has none of its own.
    """

    verb: ClassVar[str] = "treat"
    effect: ClassVar[Effect] = "storage"
    is_local: ClassVar[bool] = True

    path: str
    kind: str
    options: dict[str, Any]
    tied: tuple[str, ...]
    bias: Annotated[tuple[Whole, ...], Field(min_length=1, max_length=1)] | None
    table: str = ""

    @classmethod
    def from_change(cls, change: Change, place: Place) -> Iterator[tuple[Self, Mapping[str, Tensor]]]:
        """One for each site that is stored in another way, with all that is stored, and the bias if it is new."""
        for path, new in change.treatments.items():
            site = next(site for site in place.sites if site.path == path)
            bias = None if new.bias is None else tuple(new.bias.shape)
            edit = cls(path, new.kind, dict(new.options), tuple(site.tied), bias, new.table)
            yield edit, {**new.tensors, **({} if new.bias is None else {_BIAS: new.bias})}

    @classmethod
    def from_fields(cls, what: Any, size: int) -> Self:
        """The treatment that a file tells of."""
        found = read_fields(cls, cls.verb, what)
        try:
            total = stored_bytes(found.kind, found.options)
        except StorageError as reason:
            raise UnfitEditError(f"keeps {found.path:.80} with {reason}") from reason
        if ("table" in what) != (found.options.get("tables") == "borrowed"):
            raise UnfitEditError(f"keeps {found.path:.80} with the table of {what.get('table')!r:.40}")
        if total > size:
            raise UnfitEditError(f"wants {total:,} bytes for {found.path:.80}, more than the whole file has")
        return found

    def to_fields(self) -> dict[str, Any]:
        """All fields; `table` only where there is one."""
        bias = None if self.bias is None else list(self.bias)
        found = {"path": self.path, "kind": self.kind, "options": dict(self.options), "tied": list(self.tied), "bias": bias}
        return {**found, "table": self.table} if self.table else found

    def check_fits(self, module: nn.Module, layout: Layout) -> None:
        """Whether the layer is there, of the shape that is stored and of a kind that can be."""
        modules = dict(module.named_modules())
        shape, claimed = _weight_shape_of(modules.get(self.path)), list(self.options["shape"])
        if shape is None or shape != claimed:
            raise UnfitEditError(f"treats {self.path:.80} {claimed}, but here it is {shape or 'no layer with a weight'}")
        layer = modules[self.path]
        if has_shared_weight(layer):
            raise UnfitEditError(f"treats {self.path:.80}, which uses another layer's weight")
        if self.kind in FACTORED and not _can_be_chain(layer, self.kind, self.options):
            raise UnfitEditError(f"factorises {self.path:.80}, a {type(layer).__name__}, as another kind of layer")
        if self.table and not _can_share_codebook(modules.get(self.table), self.options):
            raise UnfitEditError(f"lets {self.path:.80} use the table of {self.table:.80}, which has none that fits")
        for path in self.tied:
            if _weight_shape_of(modules.get(path)) != shape:
                raise UnfitEditError(f"ties {self.path:.80} to {path:.80}, which is no layer of its shape")

    def apply_(self, module: nn.Module, layout: Layout, values: Mapping[str, Tensor] | None = None) -> None:
        """Store the weight anew; modules tied to it share the same store. `values` are the stored tensors by the names of
        `core/storage.py`, and `bias`, the new bias."""
        layer = module.get_submodule(self.path)
        given = dict(self._make_empty_tensors(layer) if values is None else values)
        bias = given.pop(_BIAS, None)
        for other in map(module.get_submodule, self.tied if self.kind != "dense" else ()):
            if has_shared_weight(other):
                tie_weight_(other)
        new = replace_weight_(layer, self.kind, self.options, given, bias)
        if new is not layer:
            replace_module_(module, layer, new)
        if self.table:
            new.stored.share_table_(module.get_submodule(self.table).stored)  # type: ignore[union-attr, operator]
        for other in map(module.get_submodule, self.tied):
            if self.kind != "dense":
                parametrize_weight_(other, new.stored, owner=False)  # type: ignore[arg-type]
            elif not has_shared_weight(other):
                other.weight = new.weight

    def _make_empty_tensors(self, layer: nn.Module) -> dict[str, Tensor]:
        """What `layer` stores, without values, on the meta device."""
        specs = tensor_specs_of(self.kind, self.options).items()
        found = {name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device="meta") for name, spec in specs}
        if self.bias is not None:
            found[_BIAS] = torch.empty(self.bias, dtype=next(layer.parameters()).dtype, device="meta")
        return found

    def layout_after(self, layout: Layout) -> Layout:
        """The site takes the bytes of its storage; a factorised one is several, which can be worked on in turn."""
        old = [site for site in layout.sites if site.path == self.path]
        return layout.replace_sites(old, [new for site in old for new in self._treat_site(site)])

    def _treat_site(self, site: Site) -> Sequence[Site]:
        whole = replace(site, bias=site.bias or self.bias is not None)
        if self.kind in FACTORED:
            return whole.split_into_factors(self.kind, self.options)
        return (whole.store_as(self.kind, self.options),)

    def record_(self, steps: list[ModelEdit]) -> None:
        """Write it down in place of an earlier treatment of the same site, of which nothing is left but the bias that it may
        have given. Before paths moved this one was another site's."""
        begin = max((number for number, step in enumerate(steps) if step.moves_paths), default=0)
        for number, step in enumerate(steps[begin:], start=begin):
            if isinstance(step, TreatWeight) and step.path == self.path:
                del steps[number]
                steps.append(replace(self, bias=step.bias if self.bias is None else self.bias))
                return
        steps.append(self)

    def find_touched_paths(self, layout: Layout) -> set[str]:
        """The layer; for a factor of a factorised one, that one."""
        return {_root_of_factor(self.path)}

    @property
    def is_expressible(self) -> bool:
        """Whether the weight is a plain tensor."""
        return self.kind == "dense"

    @classmethod
    def explain_unsaid(cls, edits: Sequence[Self]) -> str:
        """Configurations know of plain weights only."""
        kinds = sorted({edit.kind.replace("_", " ") for edit in edits if edit.kind != "dense"})
        return f"weights are not plain tensors ({', '.join(kinds)})" if kinds else ""

    def list_packed_codes(self) -> dict[str, tuple[int, int]]:
        """The codes and the mask."""
        columns, stem, found = math.prod(self.options["shape"][1:]), f"{self.path}.stored", {}
        if self.kind in _PACKED:
            found[f"{stem}.codes"] = self.options["bits"], self.options.get("kept", columns)
        if "kept" in self.options:
            found[f"{stem}.mask"] = 1, columns
        return found

    def with_dtype(self, old: str, new: str) -> TreatWeight:
        """Decoded as `new`; layers that were of another type than `old` keep it."""
        return self if self.options["dtype"] != old else replace(self, options={**self.options, "dtype": new})


def _root_of_factor(path: str) -> str:
    """The path of the layer that a factor of a factorised layer is a part of; other paths as they are."""
    while path.endswith(tuple(f".{name}" for name in (*LINKS, BASE))):
        path = path.rpartition(".")[0]
    return path


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
