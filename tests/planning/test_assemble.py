"""From a recipe or a plan to the plan that is carried out; nothing that is looked at is changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from trimodal.errors import DataError, RecipeError
from trimodal.models.model import Model
from trimodal.models.tensors import fingerprint_module, tensor_bytes, unique_tensors
from trimodal.planning import Request, SampleSets, check_floors_can_be_judged, make_plan, read_request

NONE = SampleSets()
RECIPE: dict[str, Any] = {"steps": ["fold.exact", {"quantize.rtn": {"where": "image.*", "bits": 8}}]}


def test_planning_changes_nothing(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("clip")
    layout, steps, before = model.layout, list(model.steps), fingerprint_module(model.module)
    made = make_plan(model, read_request(RECIPE), NONE)
    assert any(place.fold for place in made.edits[0].places)
    assert model.layout is layout and not layout.folds and not layout.folds_searched
    assert list(model.steps) == steps and fingerprint_module(model.module) == before


def test_what_a_plan_says_of_its_model(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("clip")
    made = make_plan(model, read_request({**RECIPE, "seed": 7, "pack": "entropy"}), NONE)
    total = tensor_bytes(unique_tensors(model.module).values())
    assert (made.source.tensor_bytes, made.source.fingerprint) == (total, fingerprint_module(model.module))
    assert made.expected_tensor_bytes == total - sum(p.bytes_before - p.bytes_after for edit in made.edits for p in edit.places) < total
    assert (made.seed, made.pack, made.calibration.samples, made.calibration.sha256) == (7, "entropy", 0, None)
    assert made.untouched is not None and made.untouched.of_bytes >= total


def test_a_plan_is_the_plan_again(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("clip")
    made = make_plan(model, read_request(RECIPE), NONE)
    again = make_plan(model, read_request(None, json.loads(json.dumps(made.to_json()))), NONE)
    assert again == made and again.recomputed == "" and "recomputed" not in again.to_json()


def test_consequences_that_a_person_left_as_they_were(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("clip")
    made = make_plan(model, read_request(RECIPE), NONE)
    data = made.to_json()
    rounded = data["edits"][1]
    first, *rest = rounded["places"]
    rounded["places"] = [{**first, "config": {"bits": 4}}, *rest[:-1]]
    found = make_plan(model, read_request(None, data), NONE)
    saved, kept = first["bytes_after"] - found.edits[1].places[0].bytes_after, rest[-1]["bytes_before"] - rest[-1]["bytes_after"]
    assert saved > 0 and found.expected_tensor_bytes == made.expected_tensor_bytes - saved + kept
    assert found.recomputed == (
        f"recomputed from the plan's edits: {made.expected_tensor_bytes:,} → {found.expected_tensor_bytes:,} bytes of tensors, "
        f"at {first['name']}, and what stays untouched"
    )
    assert found.untouched is not None and made.untouched is not None
    assert found.untouched.bytes - made.untouched.bytes == rest[-1]["bytes_before"]


def test_a_plan_for_another_model(tiny_model: Callable[..., Model]) -> None:
    made = make_plan(tiny_model("clip"), read_request(RECIPE), NONE)
    found = rf"the plan was made for another model \(clip, fingerprint {made.source.fingerprint[:12]}; .*new plan"
    with pytest.raises(RecipeError, match=found):
        make_plan(tiny_model("clip", 1), read_request(None, made), NONE)


def test_floors_that_nothing_can_be_held_against() -> None:
    asked = Request("mine.yaml", 0, None, "plain", {"all": 1.0})
    with pytest.raises(DataError, match=r"mine\.yaml sets floors, but there are no held-out samples"):
        check_floors_can_be_judged(asked, NONE)
    check_floors_can_be_judged(replace(asked, built_in=True), NONE)
    check_floors_can_be_judged(replace(asked, floors={}), NONE)
