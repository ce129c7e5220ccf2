"""From what a method returned to a changed model, and from a compressed model back to plain layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from trimodal.core import Change, Layout, Place, Site
from trimodal.edits import EDIT_KINDS
from trimodal.edits.edit import replace_module_
from trimodal.errors import TrimodalError
from trimodal.layers import (
    FactorChain,
    has_shared_weight,
    is_weight_parametrized,
    merge_factor_chain,
    remove_parametrization_,
    tie_weight_,
)
from trimodal.models.model import Model


def apply_change_(model: Model, place: Place, change: Change, after: Sequence[Site]) -> tuple[str, ...]:
    """Carry out `change` at `place`, let the layout be what it is then, and write down the steps taken. Returns what else
    became of the model, in words.

    Raises:
        TrimodalError: the sites are not those that were forecast, `after`.
    """
    said = []
    for kind in EDIT_KINDS:
        for edit, values in kind.from_change(change, place):
            said.append(edit.update_references_(model.module, model.layout))
            edit.apply_(model.module, model.layout, values)
            edit.record_(model.steps)
            model.layout = edit.layout_after(model.layout)
    _check_forecast(model.layout, after)
    return tuple(filter(None, said))


def _check_forecast(layout: Layout, after: Sequence[Site]) -> None:
    """Whether what became of the sites is what was said beforehand: a plan's bytes rest on that."""
    known = {site.path: (site.stored, site.stored_bytes) for site in layout.sites}
    for site in after:
        if known.get(site.path) != (site.stored, site.stored_bytes):
            stored, size = known.get(site.path, ("gone", 0))
            raise TrimodalError(
                f"{site.path} is {stored} ({size:,} bytes), but was forecast to be {site.stored} ({site.stored_bytes:,} bytes); "
                "this is an error of trimodal's"
            )


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
            replace_module_(module, layer, merge_factor_chain(layer))
