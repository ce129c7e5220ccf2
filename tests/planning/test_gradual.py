"""Gradual pruning: the curves, what a line expands to, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimodal.errors import RecipeError
from trimodal.models.model import Model
from trimodal.planning import plan_edits, read_recipe
from trimodal.planning.gradual import GradualSchedule


def test_worked_example() -> None:
    assert GradualSchedule(2).list_sparsities(0.9) == [0.7875, 0.9]
    assert GradualSchedule(3, "linear", 0.3).list_sparsities(0.9) == [0.5, 0.7, 0.9]
    assert GradualSchedule(3, "geometric").list_sparsities(0.875) == [0.5, 0.75, 0.875]
    assert GradualSchedule(2, "geometric").list_sparsities(1 - 1e-16) == [1 - 1e-16] * 2  # rounded, the curve would be above its end
    assert GradualSchedule(4, "cubic", 0.2).list_sparsities(0.8) == pytest.approx([0.546875, 0.725, 0.790625, 0.8])


@given(
    times=st.integers(2, 20), shape=st.sampled_from(["cubic", "linear", "geometric"]), begin=st.floats(0, 0.4),
    final=st.floats(0.5, 1.0),
)  # fmt: skip
def test_curves_rise_from_begin_to_the_sparsity_asked_for(times: int, shape: Any, begin: float, final: float) -> None:
    found = GradualSchedule(times, shape, begin).list_sparsities(final)
    assert len(found) == times and found[-1] == final
    assert found == sorted(found) and found[0] >= begin - 1e-6


def expanded(*steps: Any) -> list[tuple[str, Any]]:
    return [(step.method.name, step.config) for step in read_recipe({"steps": list(steps)}).steps]


def test_line_stands_for_pruning_and_recovery_in_turn() -> None:
    line = {"where": "*.up", "sparsity": 0.9, "gradual": {"times": 2, "recover": {"steps": 7}}, "scope": "row"}
    found = read_recipe({"steps": [{"prune.magnitude": line}, "quantize.rtn"]}).steps
    assert [step.method.name for step in found] == ["prune.magnitude", "distill", "prune.magnitude", "distill", "quantize.rtn"]
    assert [step.config.sparsity for step in found[:3:2]] == [0.7875, 0.9]
    assert all(step.config.scope == "row" and step.where == ("*.up",) for step in found[:3:2])
    assert [step.config.steps for step in found[1::2]] == [7, 7]
    assert found[2].place == "recipe: step 1, 2 of 2" and found[-1].place == "recipe: step 2"
    default = expanded({"prune.wanda": {"gradual": {"times": 3}}})
    assert len(default) == 6 and default[1] == default[3] == ("distill", default[5][1])


def test_last_recovery_can_be_another() -> None:
    schedule = {"times": 3, "recover": {"steps": 7, "batch": 8}, "final": {"steps": 50}}
    found = [config for name, config in expanded({"prune.wanda": {"gradual": schedule}}) if name == "distill"]
    assert [(config.steps, config.batch) for config in found] == [(7, 8), (7, 8), (50, 8)]


def test_exceptions_have_their_own_curve(tiny_model: Callable[..., Model]) -> None:
    line = {"where": "*.up", "sparsity": 0.8, "but": {"*.0.*": {"sparsity": 0.4}}, "gradual": {"times": 2, "shape": "linear"}}
    edits, after = plan_edits(tiny_model("clip").layout, read_recipe({"steps": [{"prune.magnitude": line}]}), True)
    assert [edit.method for edit in edits] == ["prune.magnitude", "distill"] * 2
    assert [edit.config["sparsity"] for edit in edits[::2]] == [0.4, 0.8]
    differing = [{place.name: place.config for place in edit.places} for edit in edits[::2]]
    assert [found["image.0.up"] for found in differing] == [{"sparsity": 0.2}, {"sparsity": 0.4}]
    assert differing[0]["image.1.up"] == {}
    site = next(site for site in after.sites if site.name == "image.1.up")
    assert site.stored == "sparse" and site.kept_weights == site.rows * site.columns - round(0.8 * site.rows * site.columns)


@pytest.mark.parametrize(("method", "unit"), [("prune.neurons", "neurons"), ("prune.heads", "heads")])
def test_units_that_are_cut_still_count(tiny_model: Callable[..., Model], method: str, unit: str) -> None:
    """After all steps as many are left as one step leaves, however they were rounded on the way."""
    layout = tiny_model("clip").layout
    once, gradual = (
        plan_edits(layout, read_recipe({"steps": [{method: {"sparsity": 0.5, **more}}]}), True)[1]
        for more in ({}, {"gradual": {"times": 5}})
    )
    assert gradual == once and gradual != layout


def test_carried_out_the_last_mask_has_the_count(compressed: Any) -> None:
    line = {"where": "*.up", "sparsity": 0.75, "gradual": {"times": 3, "recover": {"steps": 2}}}
    done = compressed("clip", [{"prune.magnitude": line}])
    assert done.model.layout == done.expected
    for site in done.expected.sites:
        if site.stored == "sparse":
            weight = done.model.module.get_submodule(site.path).weight
            assert int((weight != 0).sum()) == site.kept_weights == weight.numel() // 4
    assert [record.step for record in done.records if hasattr(record, "step")] == [1, 2] * 3


@pytest.mark.parametrize(("step", "message"), [
    ({"prune.magnitude": {"gradual": 3}}, r"step 1 \(prune.magnitude\): gradual is 3, but must be a mapping of options"),
    ({"prune.magnitude": {"gradual": {}}}, r"gradual needs the option 'times'"),
    ({"prune.magnitude": {"gradual": {"times": 1}}}, r"gradual: times is 1, but must be 2 to 100"),
    ({"prune.magnitude": {"gradual": {"times": 2.5}}}, r"gradual: times is 2.5"),
    ({"prune.magnitude": {"gradual": {"time": 2}}}, r"gradual has no option 'time'; did you mean 'times'\?"),
    ({"prune.magnitude": {"gradual": {"times": 2, "shape": "cubik"}}}, r"shape is 'cubik', .* did you mean 'cubic'\?"),
    ({"prune.magnitude": {"gradual": {"times": 2, "begin": 0.5}}}, r"gradual.begin is 0.5, .* less than the sparsity 0.5"),
    ({"prune.magnitude": {"sparsity": 0.9, "but": {"a": {"sparsity": 0.1}}, "gradual": {"times": 2, "begin": 0.2}}},
     r"but 'a': gradual.begin is 0.2, but must be less than the sparsity 0.1"),
    ({"prune.magnitude": {"gradual": {"times": 2, "recover": 5}}}, r"gradual.recover is 5, but must be a mapping"),
    ({"prune.magnitude": {"gradual": {"times": 2, "final": 5}}}, r"gradual.final is 5, but must be a mapping"),
    ({"prune.magnitude": {"gradual": {"times": 2, "final": {"step": 5}}}}, r"gradual.final has no option 'step'"),
    ({"prune.magnitude": {"gradual": {"times": 2, "recover": {"step": 5}}}},
     r"gradual.recover has no option 'step'; did you mean 'steps'\?"),
    ({"prune.wanda": {"kept": 2, "of": 4, "gradual": {"times": 2}}}, r"kept and of take its place"),
    ({"quantize.rtn": {"gradual": {"times": 2}}}, r"step 1 \(quantize.rtn\): gradual is for steps that prune"),
    ({"factorize.eigen": {"gradual": {"times": 2}}}, r"gradual is for steps that prune"),
    ({"distill": {"gradual": {"times": 2}}}, r"gradual is for steps that prune"),
])  # fmt: skip
def test_mistake_is_named(step: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe({"steps": [step]})


def test_without_data_there_is_no_recovery(tiny_model: Callable[..., Model]) -> None:
    recipe = read_recipe({"steps": [{"prune.magnitude": {"gradual": {"times": 2}}}]})
    with pytest.raises(RecipeError, match=r"step 1, 1 of 2 \(distill\) trains on calibration data, and there is none"):
        plan_edits(tiny_model("clip").layout, recipe, False)


@pytest.mark.parametrize("name", ["clip", "llama", "resnet", "lstm"])
def test_recipe_deep_ends_in_masked_codebooks_of_a_tenth_of_the_bytes(tiny_model: Callable[..., Model], name: str) -> None:
    """A bit per weight for the mask and four for every tenth, tables aside: 1.4 of 32 bits."""
    layout = tiny_model(name).layout
    edits, after = plan_edits(layout, read_recipe("deep"), True)
    assert [edit.method for edit in edits] == ["prune.magnitude", "distill"] * 6 + ["quantize.rtn", "distill"]
    before = {site.path: site for site in layout.sites}
    coded = [site for site in after.sites if site.stored == "codebook"]
    assert len(coded) == len([site for site in layout.sites if site.kind != "norm"])
    for site in coded:
        weight = 4 * site.rows * site.columns
        assert site.stored_bytes - site.bias_bytes - 32 < weight * 1.4 / 32 + site.rows + 4
        assert before[site.path].stored == "dense"


@pytest.mark.parametrize("method", ["prune.neurons", "prune.heads"])
def test_units_are_cut_step_by_step(compressed: Any, method: str) -> None:
    done = compressed("clip", [{method: {"sparsity": 0.5, "gradual": {"times": 4, "recover": {"steps": 1}}}}])
    once = compressed("clip", [{method: {"sparsity": 0.5}}])
    assert done.model.layout == done.expected == once.model.layout
