"""From what a method returns to the recorded edits, and from these to the same architecture again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from trimodal.core import Change, Cut, Place, Treatment
from trimodal.edits import EDIT_KINDS, CutUnits, TreatWeight, read_edit
from trimodal.edits.apply import apply_change_
from trimodal.edits.steps import replay_step_
from trimodal.errors import TrimodalError
from trimodal.models.model import Model
from trimodal.networks.tiny import make_miniature

RECIPES: dict[str, list[Any]] = {
    "cut": [{"prune.heads": {"score": "magnitude"}}],
    "treat": [{"quantize.rtn": {"bits": 8}}],
    "merge": ["merge.tokens"],
    "thin": [{"prune.tokens": {"by": "question"}}],
    "drop": [{"prune.layers": {"sparsity": 0.5}}],
    "share": ["share.layers"],
    "fold": ["fold.exact"],
    "all": ["fold.exact", {"prune.neurons": {"score": "magnitude"}}, {"prune.layers": {"sparsity": 0.5, "where": "text"}},
            {"factorize.svd": {"where": "*.up", "rank": 4}}, "quantize.rtn", "merge.tokens"],
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_recorded_rebuilds_what_was_made(compressed: Callable[..., Any], name: str) -> None:
    kind = "llava" if name == "thin" else "clip"
    done = compressed(kind, RECIPES[name])
    assert done.model.steps and name in {"all", *(step.verb for step in done.model.steps)}
    module, layout = make_miniature(kind), done.original.layout
    for number, step in enumerate(done.model.steps, start=1):
        layout = replay_step_(module, layout, read_edit(step.to_json(), 1 << 40), number)
    assert layout == done.model.layout == done.expected
    found, expected = ({key: (t.shape, t.dtype) for key, t in part.state_dict().items()} for part in (module, done.model.module))
    assert found == expected


def test_every_kind_is_tried() -> None:
    assert {kind.verb for kind in EDIT_KINDS} == RECIPES.keys() - {"all"}


def test_new_values_get_where_they_belong(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("clip")
    label = "image.0.neurons"
    sites = tuple(model.layout.find_label_sites(label))
    place = Place(label, sites, label=label)
    path = place.observed_site.path
    new = {"weight": torch.randn(32, 2), "bias": torch.randn(32)}
    change = Change(cut=Cut(label, (3, 5), new["weight"], new["bias"], {"vision_model.post_layernorm.bias": torch.ones(32)}))
    assert apply_change_(model, place, change, [site.cut_units(label, (3, 5)) for site in sites]) == ()
    layer = model.module.get_submodule(path)
    assert all(torch.equal(getattr(layer, name), value) for name, value in new.items())
    assert model.module.get_submodule("vision_model.post_layernorm").bias.tolist() == [1.0] * 32  # type: ignore[union-attr, operator]
    assert model.steps == [CutUnits(label, (3, 5))] and model.layout.get_site(path).shape == (32, 2)


def test_a_new_bias_is_recorded_with_its_shape(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("clip")
    site = model.layout.get_site("visual_projection")
    options, bias = {"shape": [16, 32], "dtype": "float32"}, torch.randn(16)
    change = Change({site.path: Treatment("dense", options, {"weight": torch.zeros(16, 32)}, bias)})
    after = replace(site, bias=True, stored_bytes=site.stored_bytes + 16 * 4)
    apply_change_(model, Place(site.name, (site,)), change, (after,))
    assert model.steps == [TreatWeight(site.path, "dense", options, (), (16,))]
    layer = model.module.get_submodule(site.path)
    assert torch.equal(layer.bias, bias) and not layer.weight.any()  # type: ignore[arg-type, operator]
    assert model.layout.get_site(site.path) == after


def test_another_result_than_was_forecast_is_an_error(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("clip")
    site = model.layout.get_site("visual_projection")
    change = Change({site.path: Treatment("dense", {"shape": [16, 32], "dtype": "float32"}, {"weight": torch.zeros(16, 32)})})
    place = Place(site.name, (site,))
    with pytest.raises(TrimodalError, match=r"visual_projection is dense \(2,048 bytes\), but was forecast to be dense \(7 bytes\)"):
        apply_change_(model, place, change, (replace(site, stored_bytes=7),))
    with pytest.raises(TrimodalError, match=r"elsewhere is gone \(0 bytes\)"):
        apply_change_(model, place, change, (replace(site, path="elsewhere"),))
