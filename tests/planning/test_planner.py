"""From patterns to places, on miniatures."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.core import Calibration, Edit, Layout, Plan, SkippedStep, Source
from trimodal.errors import RecipeError
from trimodal.loading.load import load_source
from trimodal.methods import get_method
from trimodal.models.model import Model
from trimodal.planning import place_of, plan_edits, plan_steps, read_recipe


@pytest.fixture
def clip(tiny_model: Callable[..., Model]) -> Layout:
    return tiny_model("clip").layout


def planned(layout: Layout, *steps: Any, data: bool = True) -> tuple[tuple[Edit, ...], Layout]:
    return plan_edits(layout, read_recipe({"steps": list(steps)}), data)


def names(edit: Edit) -> list[str]:
    return [place.name for place in edit.places]


@pytest.mark.parametrize(("where", "expected"), [
    ("image.0.query", ["image.0.query"]),
    ("*.1.up", ["image.1.up", "text.1.up"]),
    ("text.0.*", ["text.0.query", "text.0.key", "text.0.value", "text.0.output", "text.0.up", "text.0.down"]),
    ("image.[01].down", ["image.0.down", "image.1.down"]),
    (["text.embedding", "image.patch"], ["image.patch", "text.embedding"]),
    ("path:text_model.encoder.layers.1.mlp.*", ["text.1.up", "text.1.down"]),
    ("path:visual_projection", ["image.projector"]),
])  # fmt: skip
def test_pattern_becomes_places_in_running_order(clip: Layout, where: Any, expected: list[str]) -> None:
    (edit,), _ = planned(clip, {"quantize.rtn": {"where": where}})
    assert names(edit) == expected
    assert edit.where == ((where,) if isinstance(where, str) else tuple(where))


@pytest.mark.parametrize(("where", "expected"), [
    ("*", ["image"]), ("image", ["image"]), ("image.*", ["image"]), (["*.1.up"], ["image"]),
])  # fmt: skip
def test_pattern_becomes_towers(clip: Layout, where: Any, expected: list[str]) -> None:
    (edit,), after = planned(clip, {"merge.tokens": {"where": where}}, data=False)
    assert names(edit) == expected
    assert [alone.name for alone in edit.left_alone] == ["text"] * (where != "image" and where != "image.*")
    assert set(edit.places[0].paths) == {site.path for site in clip.sites if site.tower == "image"}
    assert after.sites == clip.sites and after.get_tower("image").whole_tokens == "its tokens are merged already"
    place = place_of(after, get_method("merge.tokens"), edit.places[0])
    assert place.whole_tower == after.get_tower("image") and place.tower == "image"


def test_pattern_that_is_no_tower(clip: Layout) -> None:
    with pytest.raises(RecipeError, match=r"the pattern 'audio' matches nothing; .*image"):
        planned(clip, {"merge.tokens": {"where": "audio"}})


def test_forecast_counts_every_byte(clip: Layout) -> None:
    how = {"bits": 4, "group": 16, "grid": "asymmetric"}
    (edit,), after = planned(clip, {"quantize.rtn": {"where": "image.0.up", **how}})
    (place,) = edit.places
    rows, columns = 64, 32
    assert place.bytes_before == 4 * (rows * columns + rows)
    assert place.bytes_after == rows * columns // 2 + rows * 2 * 3 + 4 * rows  # codes, (scale, zero) per group, bias
    assert after.get_site(place.paths[0]).stored_bytes == place.bytes_after
    changed = [s.path for s, t in zip(clip.sites, after.sites) if s != t]
    assert changed == list(place.paths)


def test_plan_counts_a_sites_bytes_once_when_heads_are_cut(clip: Layout) -> None:
    (edit,), after = planned(clip, {"prune.heads": {"where": "text.1.*", "sparsity": 0.5}})
    (place,) = edit.places
    assert (place.name, len(place.paths)) == ("text.1.heads", 4)
    assert place.bytes_before == 4 * 4 * (32 * 32 + 32)
    assert place.bytes_after == 4 * (3 * (16 * 32 + 16) + 32 * 16 + 32)
    assert after.get_site(place.paths[0]).shape == (16, 32)


def test_next_step_sees_halved_shapes(clip: Layout) -> None:
    (_, quantize), after = planned(
        clip, {"prune.neurons": {"where": "image.*", "sparsity": 0.5}}, {"quantize.rtn": {"where": "image.0.up"}}
    )
    assert quantize.places[0].bytes_before == 4 * (32 * 32 + 32)
    assert after.get_site(quantize.places[0].paths[0]).shape == (32, 32)


def test_factors_are_places_of_their_own(clip: Layout) -> None:
    (_, quantize), after = planned(
        clip, {"factorize.eigen": {"where": "image.0.up", "rank": 5}}, {"quantize.rtn": {"where": "image.0.*up"}}
    )
    assert names(quantize) == ["image.0.first.up", "image.0.second.up"]
    assert [after.get_site(p.paths[0]).shape for p in quantize.places] == [(5, 32), (64, 5)]
    assert all(place.paths[0].endswith(end) for place, end in zip(quantize.places, (".first", ".second")))


def test_quantized_places_are_left_alone_with_the_reason(clip: Layout) -> None:
    (_, second), _ = planned(clip, {"quantize.rtn": {"where": "text.0.up"}}, {"quantize.gptq": {"where": "text.0.*"}})
    assert "text.0.up" not in names(second) and "text.0.down" in names(second)
    left = {alone.name: alone.reason for alone in second.left_alone}
    assert left["text.0.up"] == "already quantized"
    assert "norm" in left["text.0.attention.norm"]


def test_axis_of_a_quantized_layer_is_left_alone(clip: Layout) -> None:
    (_, prune), _ = planned(clip, {"quantize.rtn": {"where": "text.0.up"}}, {"prune.neurons": {"where": "text.*"}})
    assert names(prune) == ["text.1.neurons"]
    assert prune.left_alone[0].reason == "text.0.up is already quantized; prune before that"


def test_whole_model_methods_have_no_places(clip: Layout) -> None:
    (edit,), after = planned(clip, {"distill": {"steps": 2}})
    assert edit.places == () and after == clip


@pytest.mark.parametrize(("step", "message"), [
    ({"quantize.rtn": {"where": "vision.*"}}, r"recipe: step 1 .*: the pattern 'vision.\*' matches nothing; for"),
    ({"quantize.rtn": {"where": "image.*.quer"}}, r"for 'quer' did you mean 'query'\? Places are called"),
    ({"quantize.rtn": {"where": ["image.*", "image.7.up"]}}, r"'image.7.up' matches nothing; towers here: image, text"),
    ({"quantize.rtn": {"where": "path:nowhere.*"}}, r"the pattern 'path:nowhere.\*' matches nothing"),
    ({"prune.heads": {"where": "image.9.*"}}, r"matches nothing"),
    ({"quantize.rtn": {"where": "*.norm"}}, r"can be worked on; image.stem.norm: a norm's few weights"),
    ({"quantize.gptq": {"where": "*embedding"}}, r"can be worked on; .*an embedding's input is an index"),
    ({"prune.wanda": {"where": "image.0.up", "kept": 2}}, r"kept and of must be given together"),
])  # fmt: skip
def test_pattern_that_comes_to_nothing_is_an_error_with_a_hint(clip: Layout, step: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        planned(clip, step)


def test_second_pass_over_everything_is_an_error(clip: Layout) -> None:
    with pytest.raises(RecipeError, match=r"step 2 .*: nothing that '\*.up' matches .* already quantized"):
        planned(clip, {"quantize.rtn": {"where": "*.up"}}, {"quantize.rtn": {"where": "*.up", "bits": 4}})


def test_model_without_units_says_so(tiny_model: Callable[..., Model]) -> None:
    with pytest.raises(RecipeError, match="this model has no heads that can be cut"):
        planned(tiny_model("generic").layout, {"prune.heads": {}})


@pytest.mark.parametrize("step", ["quantize.gptq", "prune.wanda", "prune.heads", "distill"])
def test_method_that_needs_data_says_so(clip: Layout, step: str) -> None:
    with pytest.raises(RecipeError, match=r"give --data"):
        planned(clip, step, data=False)


def test_methods_without_data_need_none(clip: Layout) -> None:
    steps = {"prune.magnitude": {"where": "text.*"}}, {"quantize.rtn": {"where": "image.*"}}
    edits, _ = planned(clip, *steps, data=False)
    assert [len(edit.places) > 5 for edit in edits] == [True, True]


def test_place_is_found_again_by_its_plan(clip: Layout) -> None:
    steps = {"prune.heads": {"where": "text.0.*"}}, {"quantize.rtn": {"where": "text.0.up"}}
    (heads, quantize), _ = planned(clip, *steps)
    place = place_of(clip, get_method("prune.heads"), heads.places[0])
    assert place.label == "text.0.heads" and place.observed_site.role == "output"
    assert [site.role for site in place.producers] == ["query", "key", "value"]
    assert place_of(clip, get_method("quantize.rtn"), quantize.places[0]).label is None


def test_plan_survives_json(clip: Layout, compressed: Any) -> None:
    plan = compressed("generic", [{"quantize.rtn": {}}], data=False).plan
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_exceptions_have_options_of_their_own(clip: Layout) -> None:
    but = {"*.down": {"bits": 8}, "image.1.*": {"bits": 3, "group": 16}}
    (edit,), after = planned(clip, {"quantize.rtn": {"where": ["*.up", "*.down"], "bits": 4, "but": but}})
    found = {place.name: place.config for place in edit.places}
    assert found["image.0.up"] == {} and found["image.0.down"] == {"bits": 8}
    assert found["image.1.down"] == {"bits": 3, "group": 16}  # the later exception goes before the earlier
    stored = {site.name: site.stored_bytes for site in after.sites}
    assert stored["image.0.up"] < stored["image.0.down"]
    assert {place.name: place.bytes_after for place in edit.places} == {name: stored[name] for name in found}


@pytest.mark.parametrize(("but", "message"), [
    ({"*.middle": {"bits": 8}}, r"the exception '\*.middle' matches none of the places"),
    ({"*.down": {"bit": 8}}, r"but '\*.down' has no option 'bit'; did you mean 'bits'"),
    ({"*.down": 8}, r"but '\*.down' is 8, but must be a mapping"),
    ("*.down", r"but is '\*.down', but must be a mapping"),
])  # fmt: skip
def test_exceptions_that_cannot_be_meant(clip: Layout, but: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        planned(clip, {"quantize.rtn": {"where": ["*.up", "*.down"], "but": but}})


def test_plan_says_which_bytes_are_an_estimate(clip: Layout) -> None:
    steps = [
        {"prune.neurons": {"where": "image.*", "scope": "tower"}}, {"quantize.rtn": {"where": "*"}},
        {"prune.heads": {"where": "text.*", "scope": "layer"}},
    ]  # fmt: skip
    (first, second, third), _ = planned(clip, steps[0], steps[2], steps[1])
    assert {place.certainty for place in first.places} == {"estimate"}
    assert {place.certainty for place in second.places} == {"exact"}
    doubtful = {place.name for place in third.places if place.certainty == "estimate"}
    assert doubtful == {f"image.{block}.{role}" for block in (0, 1) for role in ("up", "down")}


def test_n_of_m_leaves_nothing_to_rank(clip: Layout) -> None:
    with pytest.raises(RecipeError, match="kept and of say what every layer loses; nothing is left for scope: tower"):
        planned(clip, {"prune.wanda": {"kept": 2, "of": 4, "scope": "tower"}})


@pytest.mark.parametrize("step", [
    {"prune.heads": {"where": "text.*", "scope": "tower"}}, {"factorize.eigen": {"where": "text.*", "energy": 0.9}},
], ids=["scope", "energy"])  # fmt: skip
def test_blocks_that_may_be_unlike_share_nothing(clip: Layout, step: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"an earlier step leaves open how much text\.0\.\S* loses.*leave its scope or"):
        planned(clip, step, {"share.layers": {"where": "text"}})
    edits, _ = planned(clip, {"prune.heads": {"scope": "tower"}}, {"share.layers": {"layers": "up"}})
    assert names(edits[1]) == ["image", "text"]


def test_an_optional_step_may_find_nothing(clip: Layout) -> None:
    edits, skipped, after = plan_steps(clip, read_recipe({"steps": [
        {"quantize.rtn": {"where": "audio.*", "optional": True}},
        {"quantize.rtn": {"where": "text.0.up"}},
        {"quantize.gptq": {"where": "text.0.up", "optional": True}},
    ]}), data=True)  # fmt: skip
    assert [names(edit) for edit in edits] == [["text.0.up"]]
    assert [(step.step, step.method) for step in skipped] == [("recipe: step 1", "quantize.rtn"), ("recipe: step 3", "quantize.gptq")]
    assert "the pattern 'audio.*' matches nothing" in skipped[0].reason and "already quantized" in skipped[1].reason
    assert after == planned(clip, {"quantize.rtn": {"where": "text.0.up"}})[1]


def test_patterns_of_an_optional_step_that_match_nothing_are_listed(clip: Layout) -> None:
    how = {"where": ["text.0.up", "audio.*"], "but": {"image.*": {"bits": 4}}, "optional": True}
    (edit,), _ = planned(clip, {"quantize.rtn": how})
    assert names(edit) == ["text.0.up"]
    assert [alone.name for alone in edit.left_alone] == ["audio.*", "but image.*"]
    for without in ({**how, "optional": False}, {key: value for key, value in how.items() if key != "optional"}):
        with pytest.raises(RecipeError, match=r"'audio\.\*' matches nothing"):
            planned(clip, {"quantize.rtn": without})


def test_a_gradual_step_that_finds_nothing_is_not_recovered_from(clip: Layout) -> None:
    how = {"where": "audio.*", "sparsity": 0.5, "gradual": {"times": 3}, "optional": True}
    edits, skipped, _ = plan_steps(clip, read_recipe({"steps": [{"prune.magnitude": how}, {"quantize.rtn": {}}]}), data=True)
    assert [edit.method for edit in edits] == ["quantize.rtn"] and [step.step for step in skipped] == ["recipe: step 1, 1 of 3"]
    edits, _, _ = plan_steps(clip, read_recipe({"steps": [{"prune.magnitude": {**how, "where": "*"}}]}), data=True)
    assert [edit.method for edit in edits] == ["prune.magnitude", "distill"] * 3


def test_a_recipe_of_which_nothing_is_left_is_refused(clip: Layout) -> None:
    steps = [{"quantize.rtn": {"where": "audio.*", "optional": True}}, {"distill": {"steps": 2}}]
    with pytest.raises(RecipeError, match=r"recipe finds nothing to do in this model \(quantize\.rtn: the pattern 'audio\.\*'"):
        planned(clip, *steps)
    planned(clip, steps[1])  # training alone may be what somebody wants


def test_a_step_that_lacks_data_is_not_skipped(clip: Layout) -> None:
    with pytest.raises(RecipeError, match="needs calibration data"):
        planned(clip, {"quantize.gptq": {"where": "*", "optional": True}}, data=False)


def test_a_plan_with_skipped_steps_and_packing_survives_json() -> None:
    plan = Plan(
        0, Source("m", "clip", "", 1, 4), Calibration(0, None, (), "modality"), (), 4, skipped=(SkippedStep("step 1", "m", "why"),),
        pack="entropy",
    )  # fmt: skip
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan and again.pack == "entropy"


def test_a_weight_that_others_read_is_left_alone() -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 32), nn.Linear(32, 16)
            self.proj = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.b(self.a(x).relu()), self.proj)

        def example(self) -> dict[str, Tensor]:
            return {"x": torch.zeros(1, 16)}

    (edit,), _ = planned(load_source(Held).layout, {"quantize.rtn": {"where": "*"}})
    assert names(edit) == ["model.b.linear"]
    assert edit.left_alone[0].reason == "the weight of a is also proj, which is read by no layer"


def test_a_model_without_layers_has_a_reason() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

    for method_name in ("quantize.rtn", "prune.magnitude", "factorize.eigen"):
        with pytest.raises(RecipeError, match="this model has no linear layer, convolution, embedding or norm"):
            planned(load_source(Bare).layout, {method_name: {}})
    with pytest.raises(RecipeError, match="this model has no heads that can be cut"):
        planned(load_source(Bare).layout, {"prune.heads": {}})
