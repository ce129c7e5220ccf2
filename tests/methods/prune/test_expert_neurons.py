"""Neurons of fused experts: each expert keeps its own, and fits those that stay to its own tokens."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from trimodal.core import Axis, Place, Site
from trimodal.edits.apply import apply_change_
from trimodal.edits.cut import cut_units_
from trimodal.formats.reload_check import collect_outputs
from trimodal.loading.load import build_model
from trimodal.methods.prune.expert_neurons import cut_expert_neurons
from trimodal.methods.prune.structured import NEURONS, StructuredConfig
from trimodal.methods.prune.width import METHOD as WIDTH
from trimodal.methods.prune.width import WidthConfig
from trimodal.networks.tiny import make_miniature, make_miniature_batch
from trimodal.statistics import GroupedMoment

LABEL = "text.0.experts.neurons"


def test_worked_example() -> None:
    up = Site("up", "text", 0, "up", "experts", (4, 1), output_axis=Axis(LABEL, 2, repeats=2), groups=2)
    down = Site("down", "text", 0, "down", "experts", (2, 2), input_axis=Axis(LABEL, 2), groups=2)
    weights = {"up.weight": torch.tensor([[1.0], [0.0], [1.0], [0.0]]), "down.weight": torch.tensor([[3.0, 1.0], [1.0, 3.0]])}
    change = cut_expert_neurons(Place(LABEL, (up, down), LABEL), weights, None, 1, 0.01)
    assert change.cut is not None and change.cut.weight is not None and change.cut.kept == (0,)
    assert change.cut.tensors["up.weight"].tolist() == [[1.0], [0.0]] and change.cut.weight.tolist() == [[3.0], [3.0]]


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss"])
def test_every_expert_keeps_the_largest_of_its_own(name: str) -> None:
    """What is cut computes what a copy does in which each expert's other neurons are masked."""
    model, batch = build_model(make_miniature(name), name), make_miniature_batch(name, 3)
    place = Place.for_label(model.layout, LABEL)
    weights = {f"{site.path}.weight": model.module.get_submodule(site.path).weight.detach() for site in place.sites}
    weights |= {bare.path: model.module.get_parameter(bare.path).detach() for bare in place.free_parameters}
    down = weights[f"{place.observed_site.path}.weight"].view(4, 32, 64)
    up = weights[f"{place.producers[0].path}.weight"]
    runs = up.view(4, 2, 64, 1, 32) if name == "mixtral" else up.view(4, 1, 64, 2, 32)
    gone = (down.square().sum(1) + runs.square().sum((1, 3, 4))).argsort(dim=1)[:, :32]
    masked: Any = copy.deepcopy(model.module)
    for expert in range(4):
        layer = masked.get_submodule(place.observed_site.path)
        layer.weight.data.view(4, 32, 64)[expert][:, gone[expert]] = 0.0
    change = cut_expert_neurons(place, weights, None, 32, 0.01)
    assert change.notes == ("every expert keeps 32 of 64 neurons, its own",)
    apply_change_(model, place, change, [site.cut_units(LABEL, range(32)) for site in place.sites])
    found, expected = collect_outputs(model.module, batch)["logits"], collect_outputs(masked, batch)["logits"]
    assert torch.allclose(found, expected, atol=1e-5)


def test_with_data_each_expert_is_solved_from_its_own_tokens() -> None:
    """Two experts of four neurons. To the first come inputs of which neurons 0 and 1 always agree, to the second of which 2 and 3 do: each
    can spare one of such a pair, and the other takes its weight over. Nothing came to the third."""
    seen = GroupedMoment(3, 4)
    x = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
    first, second = x.clone(), x.clone()
    first[:, 1], second[:, 3] = first[:, 0], second[:, 2]
    seen.update_group(0, first)
    seen.update_group(1, second)
    up = Site("up", "text", 0, "up", "experts", (12, 2), output_axis=Axis(LABEL, 4, repeats=3), groups=3)
    down = Site("down", "text", 0, "down", "experts", (6, 4), input_axis=Axis(LABEL, 4), groups=3)
    weights = {"up.weight": torch.arange(24.0).view(12, 2), "down.weight": torch.ones(6, 4)}
    change = cut_expert_neurons(Place(LABEL, (up, down), LABEL), weights, seen, 3, 1e-6)
    assert change.cut is not None and change.cut.weight is not None
    narrow = change.cut.weight.view(3, 2, 3)
    assert torch.allclose(narrow[0], torch.tensor([2.0, 1.0, 1.0]), atol=1e-3)
    assert torch.allclose(narrow[1], torch.tensor([1.0, 1.0, 2.0]), atol=1e-3)
    assert narrow[2].tolist() == [[1.0] * 3] * 2
    assert change.cut.tensors["up.weight"].view(3, 3, 2)[2].tolist() == [[18, 19], [20, 21], [22, 23]]
    assert "output error" in change.notes[0]


def test_neurons_and_width_of_experts_go_in_eights() -> None:
    layout = build_model(make_miniature("mixtral"), "mixtral").layout
    config = StructuredConfig(sparsity=0.9)
    assert [site.shape for site in NEURONS.forecast(Place.for_label(layout, LABEL), config)] == [(64, 32), (128, 8)]
    assert "rounded, is none" in (NEURONS.refuse(Place.for_label(layout, LABEL), StructuredConfig(sparsity=0.1)) or "")
    reason = WIDTH.refuse(Place.for_label(layout, "text.width"), WidthConfig(multiple=4))
    assert reason is not None and "give a multiple of 8, not 4" in reason


def test_own_choices_lose_less_than_one_for_all(compressed: Any) -> None:
    done = compressed("mixtral", [{"prune.neurons": {"sparsity": 0.5}}], samples=32)
    joint = copy.deepcopy(done.original.module)
    for label in (label for label in done.original.layout.list_labels() if label.endswith("neurons")):
        cut_units_(joint, done.original.layout, label, range(32))
    batch = make_miniature_batch("mixtral", 16, seed=7)
    whole, own, one = (collect_outputs(m, batch)["logits"] for m in (done.original.module, done.model.module, joint))
    assert (own - whole).square().mean() < 0.7 * (one - whole).square().mean()
