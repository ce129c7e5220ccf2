"""The observed weight of a place as a change would leave it, worked out beside the model: nothing in the model changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core import Change, Cut, Place, Site, Treatment
from trimodal.core.storage import FACTORED
from trimodal.layers import make_weight_store
from trimodal.layers.chain import build_factor_chain
from trimodal.models.model import Model


def compare_weights(
    model: Model, place: Place, change: Change, weights: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The observed weight before and after `change` (m, n), with zeros where columns would be cut, and b − b̂ (m,).

    Of a layer that loses rows too (a recurrent one reads its own units) only the rows that stay are compared.

    Args:
        model: as it is; it is left so.
        place: where the change belongs.
        change: what the method made of the place; nothing that merges, drops or folds.
        weights: weight and bias of the place's sites in float32, by `path.weight` and `path.bias`.
    """
    site, cut = place.observed_site, change.cut
    old, old_bias = weights[f"{site.path}.weight"], weights.get(f"{site.path}.bias")
    new, new_bias = _weight_and_bias_after(model.module, site, change)
    if cut is not None and site.output_axis is not None and site.writes_label(cut.label):
        rows = site.output_axis.kept_entry_indices(cut.kept, cut.label)
        old, old_bias = old[rows], None if old_bias is None else old_bias[rows]
    if cut is not None and site.input_axis is not None:
        whole = torch.zeros_like(old)
        whole[:, site.input_axis.kept_entry_indices(cut.kept, cut.label)] = new
        new = whole
    bias_change = None if old_bias is None or new_bias is None else old_bias - new_bias
    return old.flatten(1), new.flatten(1), bias_change


def _weight_and_bias_after(module: nn.Module, site: Site, change: Change) -> tuple[Tensor, Tensor | None]:
    """What the site would compute with, in float32."""
    layer: Any = module.get_submodule(site.path)
    weight, bias = layer.weight.detach(), getattr(layer, "bias", None)
    treatment = change.treatments.get(site.path)
    if treatment is not None:
        weight = decode_treatment(module, layer, treatment)
        bias = bias if treatment.bias is None else treatment.bias
    elif change.cut is not None:
        weight, bias = _cut_weight_and_bias(site, weight, bias, change.cut)
    return weight.float(), None if bias is None else bias.detach().float()


def decode_treatment(module: nn.Module, layer: nn.Module, treatment: Treatment) -> Tensor:
    """The weight that `layer` would have with `treatment`, in its own shape and type: the store decoded, or the product of
    the factors. A table that it borrows is that of the layer which stores it in `module`."""
    with torch.no_grad():
        if treatment.kind == "dense":
            return treatment.tensors["weight"].detach()
        if treatment.kind in FACTORED:
            return build_factor_chain(layer, treatment.kind, treatment.tensors, None).weight.detach()
        store: Any = make_weight_store(treatment.kind, treatment.options, treatment.tensors)
        if treatment.table:
            store.share_table_(module.get_submodule(treatment.table).stored)
        decoded: Tensor = store()
        return decoded.detach()


def _cut_weight_and_bias(site: Site, weight: Tensor, bias: Tensor | None, cut: Cut) -> tuple[Tensor, Tensor | None]:
    """Weight and bias with the units that stay, or with the values that `cut` has for them."""
    if site.writes_label(cut.label) and site.output_axis is not None:
        rows = torch.tensor(site.output_axis.kept_entry_indices(cut.kept, cut.label), device=weight.device)
        weight = weight.index_select(site.output_dim, rows)
        bias = None if bias is None else bias.detach().index_select(0, rows)
    if site.reads_label(cut.label) and site.input_axis is not None and site.kind != "embedding":
        columns = torch.tensor(site.input_axis.kept_entry_indices(cut.kept, cut.label), device=weight.device)
        weight = weight.index_select(1, columns)
    weight = _overwrite_values(weight, cut.tensors.get(f"{site.path}.weight", cut.weight))
    if bias is not None:
        bias = _overwrite_values(bias, cut.tensors.get(f"{site.path}.bias", cut.bias))
    return weight, bias


def _overwrite_values(old: Tensor, value: Tensor | None) -> Tensor:
    """`value` in the shape and type of `old`, or `old` where none is given."""
    return old if value is None else value.to(old).view_as(old)
