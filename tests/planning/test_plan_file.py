"""What a plan.json may hold: anything else is refused, naming where it stands."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimodal.core import Calibration, Plan, Source
from trimodal.errors import RecipeError
from trimodal.models.model import Model
from trimodal.planning import plan_edits, read_plan_file, read_recipe, read_request

RECIPE: dict[str, Any] = {
    "steps": [{"prune.heads": {"where": "image.*"}}, {"quantize.rtn": {"where": "*", "bits": 8}}],
    "floors": {"all": 1.0},
}


@pytest.fixture(scope="module")
def plan(tiny_model: Callable[..., Model]) -> Plan:
    edits, _ = plan_edits(tiny_model("clip").layout, read_recipe(RECIPE), True)
    source, calibration = Source("clip", "clip", "ab" * 32, 10, 40), Calibration(8, "cd" * 32, ("image",), "tokens")
    return Plan(5, source, calibration, edits, 30, RECIPE, pack="entropy")


def test_file_mapping_and_plan_are_read_alike(plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(plan.to_json()))
    assert read_plan_file(file) == (plan, "mine.json")
    assert read_plan_file(plan.to_json()) == read_plan_file(plan) == (plan, "the plan")
    assert read_plan_file(str(file))[0].pack == "entropy"


def test_what_follows_need_not_be_there(plan: Plan) -> None:
    data = plan.to_json()
    short = {key: data[key] for key in ("seed", "source", "calibration")}
    short["source"] = {"fingerprint": "ab" * 32}
    short["edits"] = [{"method": "quantize.rtn", "places": [{"name": "image.0.up"}]}]
    found, _ = read_plan_file(short)
    assert [place.name for place in found.edits[0].places] == ["image.0.up"] and found.edits[0].where == ("image.0.up",)


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for part in way:
            data = data[part]
        if value is KeyError:
            del data[last]
        else:
            data[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("seed", "three", r"p\.json: seed is 'three', but must be a whole number, 0 or more"),
        ("seed", -1, r"p\.json: seed is -1"),
        ("seed", True, r"p\.json: seed is True"),
        ("sead", 3, r"p\.json has an unknown key 'sead'; did you mean 'seed'\?"),
        ("format", 9, r"p\.json: format is 9, but must be 1"),
        ("edits", {}, r"p\.json: edits is \{\}, but must be a list"),
        ("edits", [], r"p\.json: edits is empty"),
        ("edits", KeyError, r"p\.json has no 'edits'"),
        ("pack", "zip", r"p\.json: pack is 'zip', but must be one of plain, entropy"),
        ("source.fingerprint", "ab", r"p\.json: source\.fingerprint is 'ab', but must be a sha256"),
        ("source", KeyError, r"p\.json has no 'source'"),
        ("calibration.balance", "even", r"p\.json: calibration\.balance is 'even', but must be one of modality"),
        ("calibration.samples", 1.5, r"p\.json: calibration\.samples is 1\.5"),
        ("calibration.samples", 0, r"p\.json: calibration\.samples is 0, but must be a whole number, 1 or more"),
        ("calibration.sha256", None, r"p\.json: calibration\.samples is 8, but must be 0, since sha256 is null"),
        ("edits.1", "quantize.rtn", r"p\.json: edits\[1\] is 'quantize\.rtn', but must be a JSON object"),
        ("edits.1.method", "quantize.rtm", r"p\.json: edits\[1\]\.method: there is no method 'quantize\.rtm'; did you mean 'quantize"),
        ("edits.1.config.bits", "4", r"p\.json: edits\[1\]\.config: bits is '4', but must be"),
        ("edits.1.places.2.config", {"bits": 0}, r"p\.json: edits\[1\]\.places\[2\]\.config: bits is 0, but must be"),
        ("edits.1.places.2.config", {"bit": 4}, r"p\.json: edits\[1\]\.places\[2\]\.config has no option 'bit'; did you mean 'bits'\?"),
        ("edits.1.places.2.config", [4], r"p\.json: edits\[1\]\.places\[2\]\.config is \[4\], but must be a mapping of options"),
        ("edits.1.places.2.name", 7, r"p\.json: edits\[1\]\.places\[2\]\.name is 7, but must be the name of a place"),
        ("edits.1.places.2.nmae", "x", r"p\.json: edits\[1\]\.places\[2\] has an unknown key 'nmae'; did you mean 'name'\?"),
        ("edits.1.places.2.paths", "a.b", r"p\.json: edits\[1\]\.places\[2\]\.paths is 'a\.b', but must be a list of dotted paths"),
        ("edits.1.places.2.bytes_after", "few", r"p\.json: edits\[1\]\.places\[2\]\.bytes_after is 'few'"),
        ("edits.1.places.2.certainty", "sure", r"p\.json: edits\[1\]\.places\[2\]\.certainty is 'sure'"),
        ("edits.1.places.2.fold", {"what": "paper", "path": "a"},
         r"p\.json: edits\[1\]\.places\[2\]\.fold\.what is 'paper', but must be one"),
        ("edits.1.places", [], r"p\.json: edits\[1\] \(quantize\.rtn\) has no places; name at least one, or delete the edit"),
        ("edits.1.left_alone", [{"name": "x"}], r"p\.json: edits\[1\]\.left_alone\[0\] has no 'reason'"),
        ("recipe", [], r"p\.json: recipe is \[\], but must be a mapping"),
    ],
)  # fmt: skip
def test_what_is_wrong_and_where(plan: Plan, tmp_path: Path, path: str, value: Any, words: str) -> None:
    data = copy.deepcopy(json.loads(json.dumps(plan.to_json())))
    _set(path, value)(data)
    (tmp_path / "p.json").write_text(json.dumps(data))
    with pytest.raises(RecipeError, match=f"^{words}"):
        read_plan_file(tmp_path / "p.json")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text('{"seed": ')
    for name, words in (("half.json", "is not valid JSON"), ("none.json", "cannot be read")):
        with pytest.raises(RecipeError, match=rf"{name}.* {words} .*trimodal plan"):
            read_plan_file(tmp_path / name)
    with pytest.raises(RecipeError, match="the plan is no plain data"):
        read_plan_file({"edits": object()})


def test_places_of_a_method_that_has_none(plan: Plan) -> None:
    data = plan.to_json()
    data["edits"] = [{"method": "distill", "places": [{"name": "image.0.up"}]}]
    with pytest.raises(RecipeError, match=r"edits\[0\] \(distill\) works on the whole model and takes no places"):
        read_plan_file(data)


def test_one_of_recipe_and_plan(plan: Plan) -> None:
    for given in ((None, None), ("int8", plan), (plan, plan)):
        with pytest.raises(RecipeError, match="give exactly one of them"):
            read_request(*given)


def test_what_a_plan_says_of_the_whole_run(plan: Plan) -> None:
    found = read_request(plan)
    assert (found.seed, found.samples, found.pack, found.floors, found.built_in) == (5, 8, "entropy", {"all": 1.0}, False)
    assert found == read_request(None, plan) and read_request(plan, pack="plain").pack == "plain"
    assert read_request(plan, seed=5) == found
    with pytest.raises(RecipeError, match=r"the plan has the seed 5, which a run of it keeps; .*seed 6"):
        read_request(plan, seed=6)


def test_floors_of_a_plan_are_checked_as_a_recipes_are(plan: Plan) -> None:
    data = plan.to_json()
    data["recipe"] = {"floors": {"imgae": 1.0}}
    with pytest.raises(RecipeError, match=r"the plan: recipe: floors has no 'imgae'; did you mean 'image'\?"):
        read_request(None, data)


def test_nobody_asked_for_the_floors_of_a_built_in_recipe(plan: Plan) -> None:
    data = plan.to_json()
    data["recipe"] = dict(read_recipe("int4").raw)
    assert read_request(None, data).built_in
