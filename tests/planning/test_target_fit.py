"""What a plan would store is forecast in the words of what is stored then, and every target answers to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trimodal import pipeline
from trimodal.catalogue import list_recipes
from trimodal.core import Layout, Plan
from trimodal.core.stored_site import StoredSite, forecast_stored_site
from trimodal.core.target_fit import TargetCaution, TargetFit
from trimodal.errors import RecipeError, TargetError
from trimodal.formats.stored_sites import describe_stored_sites
from trimodal.methods import METHODS, Method
from trimodal.models.model import Model
from trimodal.networks.tiny import write_miniature, write_miniature_data
from trimodal.planning import plan_steps, read_plan_file, read_recipe
from trimodal.planning.target_fit import check_takes_anything, fit_target
from trimodal.targets import list_targets, read_target

Steps = list[dict[str, Any]]
MODELS = ("clip", "whisper", "resnet", "fusion")
STEPS: dict[str, tuple[str, Steps]] = {
    "8 bits": ("clip", [{"quantize.rtn": {"where": "*", "bits": 8, "group": "channel"}}]),
    "one scale in all": ("bert", [{"quantize.rtn": {"where": "*", "bits": 4, "group": "tensor", "grid": "symmetric"}}]),
    "groups": ("bert", [{"quantize.rtn": {"where": "*", "bits": 3, "group": 16, "grid": "asymmetric"}}]),
    "a table": ("bert", [{"quantize.rtn": {"where": "*", "bits": 4, "group": 16, "grid": "nf"}}]),
    "learned numbers": ("bert", [{"quantize.rtn": {"where": "*.down", "bits": 3, "group": "channel", "grid": "kmeans"}}]),
    "float zero-points": ("bert", [{"quantize.hqq": {"where": "*", "bits": 3, "group": 16, "steps": 2}}]),
    "whole numbers": ("bert", [{"quantize.entropy": {"where": "*.down", "bits": 4.0}}]),
    "rotated and scaled": (
        "bert", [{"quantize.rotated": {"where": "*.down", "bits": 4}}, {"quantize.awq": {"where": "*.up", "bits": 4}}]),
    "repaired": ("bert", [{"quantize.rtn": {"where": "*.down", "bits": 4, "rank": 2, "outliers": 0.01}}]),
    "inputs static": ("vit", [{"quantize.smooth": {"where": "*", "bits": 8, "mode": "static"}}]),
    "inputs per token": ("vit", [{"quantize.smooth": {"where": "*", "bits": 8, "mode": "token"}}]),
    "masked": ("vit", [{"prune.wanda": {"where": "*", "optional": True, "sparsity": 0.4}}]),
    "masked codes": (
        "vit", [{"prune.magnitude": {"where": "*.up", "sparsity": 0.4}}, {"quantize.rtn": {"where": "*.up", "bits": 4}}]),
    "pruned and rounded": ("vit", [{"prune.sparsegpt": {"where": "*.up", "sparsity": 0.5, "bits": 4}}]),
    "low rank": ("bert", [{"factorize.eigen": {"where": "*.down", "rank": 8}}]),
}  # fmt: skip


def _known_beforehand(stored: StoredSite) -> StoredSite:
    """`stored` without what only the weights and the data tell."""
    inputs = stored.input and replace(stored.input, range=None)
    return replace(stored, input=inputs, kept=stored.kept and replace(stored.kept, pattern=None), table_from=None, rank=None)


@pytest.mark.parametrize("name", STEPS)
def test_what_is_forecast_is_what_is_stored(compressed: Callable[..., Any], name: str) -> None:
    miniature, steps = STEPS[name]
    done = compressed(miniature, steps)
    forecast = [_known_beforehand(forecast_stored_site(site)) for site in done.expected.sites]
    assert forecast == [_known_beforehand(stored) for stored in describe_stored_sites(done.model.module, done.model.layout)]
    assert any(stored.kind != "dense" or stored.factor_of for stored in forecast)


@pytest.mark.parametrize("recipe", list_recipes())
@pytest.mark.parametrize("name", MODELS)
def test_every_target_answers_to_every_built_in_recipe(name: str, recipe: str, tiny_model: Callable[..., Model]) -> None:
    model = tiny_model(name)
    _, _, after = plan_steps(model.layout, read_recipe(recipe), data=True)
    for target in list_targets():
        fit = fit_target(model, after, read_target(target))
        assert fit.asked > 0 and 0 <= fit.refused + fit.decoded <= fit.asked
        assert {caution.taken_as for caution in fit.cautions} >= {"refused"} if fit.refused else True
        assert all(caution.reason and caution.name for caution in fit.cautions)
        assert sum(caution.taken_as == "refused" for caution in fit.cautions) == fit.refused
        if fit.takes_nothing:
            with pytest.raises(TargetError, match=f"{target} can take nothing of what the plan would store"):
                check_takes_anything(fit)
        else:
            check_takes_anything(fit)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_target_answers_to_every_method(method: Method, tiny_model: Callable[..., Model]) -> None:
    for name in ("fusion", "resnet"):
        model = tiny_model(name)
        after = _plan_with(model.layout, method)
        for target in list_targets():
            fit = fit_target(model, after, read_target(target))
            assert all(caution.reason for caution in fit.cautions)


def _plan_with(layout: Layout, method: Method) -> Layout:
    """The layout after the method at all places that take it; as it was where none does."""
    if method.on in ("model", "fold"):
        return layout
    try:
        return plan_steps(layout, read_recipe({"steps": [{method.name: {"where": "*", "optional": True}}]}), data=True)[2]
    except RecipeError:
        return layout


@pytest.mark.parametrize(
    ("steps", "target", "counts"),
    [  # asked, refused, decoded
        ([{"quantize.rtn": {"where": "*", "bits": 8, "group": "channel"}}], "onnxruntime-vnni", (14, 0, 1)),  # the patch embedding
        ([{"prune.neurons": {"where": "*", "sparsity": 0.5}}], "onnxruntime-vnni", (4, 0, 0)),
        ([{"merge.tokens": {"where": "*"}}], "compressed-tensors", (1, 1, 0)),
        ([{"prune.layers": {"where": "*", "sparsity": 0.5}}], "compressed-tensors", (1, 0, 0)),
        ([{"factorize.eigen": {"where": "*.down", "rank": 8}}], "compressed-tensors", (4, 4, 0)),
        ([{"factorize.eigen": {"where": "*.down", "rank": 8}}], "openvino-avx2", (4, 0, 0)),
    ],
)  # fmt: skip
def test_counts(steps: Steps, target: str, counts: tuple[int, int, int], tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("vit")
    _, _, after = plan_steps(model.layout, read_recipe({"steps": steps}), data=True)
    fit = fit_target(model, after, read_target(target))
    assert (fit.asked, fit.refused, fit.decoded) == counts


def test_what_is_stored_already_is_asked_about(compressed: Callable[..., Any]) -> None:
    model = compressed("bert", [{"quantize.rtn": {"where": "*.up", "bits": 4, "group": 16, "grid": "nf"}}]).model
    fit = fit_target(model, model.layout, read_target("executorch-xnnpack"))
    assert fit.asked == fit.refused == 2
    assert "the grid is nf, not positive" in fit.cautions[0].reason


def test_names_are_grouped_by_reason() -> None:
    a, b = (TargetCaution(name, name, "refused", "no") for name in ("a", "b"))
    cautions = (a, b, TargetCaution("c", "c", "native", "careful"))
    fit = TargetFit("x", 3, 2, 0, "", cautions)
    assert fit.group_names("refused") == {"no": ["a", "b"]} and fit.group_names("native") == {"careful": ["c"]}
    assert not fit.takes_nothing and replace(fit, asked=2).takes_nothing and not TargetFit("x", 0, 0, 0).takes_nothing


def test_a_plan_keeps_what_its_target_said(tmp_path: Path) -> None:
    model, data = write_miniature("vit", tmp_path / "model"), write_miniature_data(tmp_path / "data", 10, ["image"])
    made = pipeline.plan(model, "int8-full", data, target="onnxruntime-avx2")
    assert made.target is not None and (made.target.target, made.target.refused) == ("onnxruntime-avx2", 0)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(made.to_json()))
    assert Plan.from_json(json.loads(file.read_text())).target == made.target
    again = pipeline.plan(model, read_plan_file(file)[0], data)
    assert again.target == made.target and again.recomputed == ""
    assert read_plan_file(file)[0].edits == made.edits and pipeline.plan(model, "int8-full", data) == made
    with pytest.raises(TargetError, match="executorch-xnnpack can take nothing"):
        pipeline.plan(model, "int4", data, target="executorch-xnnpack")
    with pytest.raises(TargetError, match="there is no target"):
        pipeline.plan(model, "int4", data, target="nonsense")
