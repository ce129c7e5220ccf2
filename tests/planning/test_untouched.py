"""What a plan leaves as it is: by name, bytes, tower and reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trimodal.core import Calibration, Plan, Source, UntouchedTensors
from trimodal.inventory import inspect
from trimodal.loading.load import build_model
from trimodal.models.model import Model
from trimodal.networks.tiny import make_miniature
from trimodal.planning import add_declined_places, find_untouched, plan_edits, read_recipe


class Bare(nn.Module):
    """A matrix that no layer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.randn(48, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x @ self.mixing.T @ self.mixing


class Blocks(nn.Module):
    """Two attention blocks whose query, key and value stand in one bare parameter, a tied table and a running norm."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.layers = nn.ModuleList([Bare() for _ in range(2)])
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.table.weight


def left(model: Model, *steps: dict[str, Any]) -> UntouchedTensors:
    edits, _ = plan_edits(model.layout, read_recipe({"steps": list(steps)}), data=True)
    return find_untouched(model, edits)


def model_of(module: nn.Module) -> Model:
    return build_model(module.eval(), "blocks")


INT8 = {"quantize.rtn": {"where": "*", "bits": 8}}


def test_what_is_in_no_place_is_named_with_a_star_and_counted_once() -> None:
    model = model_of(Blocks())
    found = inspect(model)
    names = {one.name: one for one in found.in_no_place.alike}
    bare = names["layers.*.mixing"]
    assert (bare.tensors, bare.bytes, bare.why) == (2, 2 * 48 * 16 * 4, "in no place")
    total = sum(value.numel() * value.element_size() for name, value in model.module.state_dict().items() if name != "head.weight")
    assert found.in_no_place.of_bytes == total  # the tied table once
    assert left(model, INT8).select_reasons("in no place") == found.in_no_place
    assert found.in_no_place.share > 0.7


def test_norms_and_biases_count_and_say_why() -> None:
    whys = {one.name: one.why for one in left(model_of(make_miniature("clip")), INT8).alike}
    assert whys["text_model.encoder.layers.*.mlp.fc1.bias"] == "declined"
    assert whys["text_model.encoder.layers.*.layer_norm1.weight"] == "declined"
    assert whys["vision_model.embeddings.class_embedding"] == "in no place"
    assert "text_model.encoder.layers.*.mlp.fc1.weight" not in whys


def test_what_a_recipe_does_not_name_was_not_asked_for() -> None:
    model = model_of(make_miniature("clip"))
    found = left(model, {"quantize.rtn": {"where": "image.*", "bits": 8}})
    text = [one for one in found.alike if one.tower == "text"]
    assert text and {one.why for one in text} == {"not asked for"}
    assert next(iter(found.bytes_by_tower())) == "text"  # the largest first
    assert sum(found.bytes_by_tower().values()) == found.bytes


@pytest.mark.parametrize(
    "step",
    [
        {"prune.neurons": {"where": "*", "sparsity": 0.5}},
        {"prune.width": {"where": "*", "sparsity": 0.25}},
        {"factorize.svd": {"where": "*", "sparsity": 0.5}},
    ],
)
def test_cuts_and_factors_touch_what_they_work_on(step: dict[str, Any]) -> None:
    model = model_of(make_miniature("clip"))
    found = {one.name for one in left(model, step).alike}
    assert "text_model.encoder.layers.*.mlp.fc1.weight" not in found
    twice = left(model, step, INT8)
    assert twice.bytes <= left(model, step).bytes


def test_what_the_run_left_alone_counts_too() -> None:
    model = model_of(make_miniature("clip"))
    edits, _ = plan_edits(model.layout, read_recipe({"steps": [INT8]}), data=False)
    plan = Plan(0, Source("m", "clip", "", 0, 0), Calibration(0, None, (), "modality"), edits, 0, untouched=find_untouched(model, edits))
    place = edits[0].places[0]
    found = add_declined_places(plan, {(0, place.name)})
    assert plan.untouched is not None and found is not None
    assert found.bytes == plan.untouched.bytes + place.bytes_before
    assert add_declined_places(plan, set()) == plan.untouched


def test_survives_json_and_old_plans_have_none() -> None:
    found = left(model_of(Blocks()), INT8)
    assert UntouchedTensors.from_json(found.to_json()) == found
    assert UntouchedTensors.from_json(None) is None and Plan.from_json is not None
