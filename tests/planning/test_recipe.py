"""Reading recipes, and everything that can be wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trimodal.core import MODALITIES
from trimodal.errors import RecipeError
from trimodal.planning import list_recipes, read_recipe
from trimodal.planning.recipe_file import FloorKeys

STEP = {"quantize.rtn": {"bits": 8}}


def test_full_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "seed: 3\ncalibration: {samples: 64, balance: tokens}\nfloors: {image: 1, all: 0.5}\n"
        "steps:\n  - prune.neurons: {where: 'image.*', sparsity: 0.25}\n  - quantize.rtn\n"
        "  - quantize.gptq: {where: [a, b]}\n"
    )
    recipe = read_recipe(file)
    assert (recipe.name, recipe.seed, recipe.samples, recipe.balance) == ("mine.yaml", 3, 64, "tokens")
    assert recipe.floors == {"image": 1.0, "all": 0.5}
    assert [(s.method.name, s.where) for s in recipe.steps] == [
        ("prune.neurons", ("image.*",)), ("quantize.rtn", ("*",)), ("quantize.gptq", ("a", "b")),
    ]  # fmt: skip
    assert recipe.steps[0].config.sparsity == 0.25
    assert recipe.steps[1].place == "mine.yaml: step 2"
    assert read_recipe(str(file)) == recipe


def test_what_is_left_out_has_a_default() -> None:
    recipe = read_recipe({"steps": ["quantize.rtn"]})
    assert (recipe.name, recipe.seed, recipe.samples, recipe.balance) == ("recipe", 0, None, "modality")
    assert recipe.floors == {} and recipe.steps[0].config.bits == 8


@pytest.mark.parametrize("name", sorted(list_recipes()))
def test_built_in_recipes_are_right(name: str) -> None:
    assert read_recipe(name).steps
    assert len(list_recipes()[name]) > 10


def test_packing_and_optional_steps() -> None:
    recipe = read_recipe({"pack": "entropy", "steps": [{"quantize.rtn": {"optional": True}}, STEP]})
    assert recipe.pack == "entropy" and [step.optional for step in recipe.steps] == [True, False]
    assert read_recipe({"steps": [STEP]}).pack == "plain"


def test_every_modality_can_have_a_floor() -> None:
    assert set(FloorKeys.model_fields) == {"all", *MODALITIES}
    assert read_recipe({"steps": [STEP], "floors": dict.fromkeys(MODALITIES, 2)}).floors == dict.fromkeys(MODALITIES, 2.0)


def test_built_in_names() -> None:
    assert {"int8", "int4", "demo"} <= set(list_recipes())


@pytest.mark.parametrize(("content", "message"), [
    ({}, r"recipe: 'steps' must be a list with at least one step such as `- quantize.rtn"),
    ({"steps": []}, r"'steps' must be a list"),
    ({"steps": {"quantize.rtn": {}}}, r"'steps' must be a list"),
    ({"steps": [STEP], "pak": "entropy"}, r"unknown key 'pak'; did you mean 'pack'\?"),
    ({"steps": [STEP], "pack": "entropi"}, r"pack is 'entropi', but must be one of plain, entropy; did you mean 'entropy'\?"),
    ({"steps": [STEP], "pack": None}, r"pack is None, but must be one of plain, entropy"),
    ({"steps": [STEP], "pack": ["entropy"]}, r"pack is \['entropy'\], but must be one of plain, entropy"),
    ({"steps": [{"quantize.rtn": {"optional": "yes"}}]}, r"step 1 \(quantize.rtn\): optional is 'yes', but must be true or false"),
    ({"steps": [{"quantize.rtn": {"optionl": True}}]}, r"has no option 'optionl'; did you mean 'optional'\?"),
    ({"steps": [{"quantize.rtn": {"wher": "image.*"}}]}, r"has no option 'wher'; did you mean 'where'\?"),
    ({"steps": [{"quantize.rtn": {"but": {"a": 3}}}]}, r"step 1 \(quantize.rtn\): but 'a' is 3, but must be a mapping of options"),
    ({"steps": [{"quantize.rtn": {"but": {"a": {"bits": 9}}}}]}, r"step 1 \(quantize.rtn\): but 'a': bits is 9, but must be 2 to 8"),
    ({"steps": [{"quantize.rtn": {"but": None}}]}, r"step 1 \(quantize.rtn\): but is None, but must be a mapping of options"),
    ({"steps": [{"distill": {"optional": True}}]}, r"works on the whole model, which is always there, and takes no 'optional'"),
    ({"step": [STEP]}, r"unknown key 'step'; did you mean 'steps'\?"),
    ({1: 2, "steps": [STEP]}, r"unknown key '1'"),
    ({"steps": [{"quantise.rtn": {}}]}, r"step 1: there is no method 'quantise.rtn'; did you mean 'quantize.rtn'\?"),
    ({"steps": [STEP, {"quantize.rtn": {"bitz": 4}}]}, r"step 2 .* has no option 'bitz'; did you mean 'bits'"),
    ({"steps": [{"quantize.rtn": {}, "distill": {}}]}, r"step 1 is .* but must name one method"),
    ({"steps": [None]}, r"step 1 is None, but must name one method"),
    ({"steps": [7]}, r"step 1 is 7"),
    ({"steps": [{}]}, r"step 1 is {}"),
    ({"steps": [{"quantize.rtn": 8}]}, r"step 1 \(quantize.rtn\) is 8, but must be a mapping of options"),
    ({"steps": [{"quantize.rtn": [8]}]}, r"must be a mapping of options"),
    ({"steps": [{"quantize.rtn": {"where": 3}}]}, r"where is 3, but must be a pattern such as \"image"),
    ({"steps": [{"quantize.rtn": {"where": []}}]}, r"where is \[\]"),
    ({"steps": [{"quantize.rtn": {"where": ["a", 1]}}]}, r"where is \['a', 1\]"),
    ({"steps": [{"quantize.rtn": {"where": ""}}]}, r"where is ''"),
    ({"steps": [{"distill": {"where": "image.*"}}]}, r"works on the whole model and takes no 'where'"),
    ({"steps": [STEP], "seed": "a"}, r"seed is 'a', but must be a whole number, 0 "),
    ({"steps": [STEP], "seed": -1}, r"seed is -1"),
    ({"steps": [STEP], "seed": 2**63}, r"seed is 9223372036854775808"),
    ({"steps": [STEP], "seed": True}, r"seed is True"),
    ({"steps": [STEP], "seed": 1.5}, r"seed is 1.5"),
    ({"steps": [STEP], "calibration": 5}, r"calibration is 5, but must be a mapping"),
    ({"steps": [STEP], "calibration": {"sample": 5}}, r"calibration has no option 'sample'; did you mean 'samples'"),
    ({"steps": [STEP], "calibration": {"samples": 0}}, r"calibration.samples is 0, but must be .* 1 or more"),
    ({"steps": [STEP], "calibration": {"balance": "even"}}, r"balance is 'even', but must be one of modality, tokens"),
    ({"steps": [STEP], "floors": {"picture": 1}}, r"floors has no 'picture'"),
    ({"steps": [STEP], "floors": {"image": "1"}}, r"floors.image is '1', but must be the largest drop"),
    ({"steps": [STEP], "floors": {"image": -1}}, r"floors.image is -1"),
    ({"steps": [STEP], "floors": {"image": float("nan")}}, r"floors.image is nan, but must be the largest drop"),
    ({"steps": [STEP], "floors": {"all": float("inf")}}, r"floors.all is inf"),
    ({"steps": [STEP], "floors": {"image": True}}, r"floors.image is True"),
    ({"steps": [STEP], "floors": [1]}, r"floors is \[1\], but must be a mapping"),
])  # fmt: skip
def test_mistake_is_named(content: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        read_recipe(content)
    assert str(caught.value).startswith("recipe")


@pytest.mark.parametrize(("text", "message"), [
    ("", r"bad.yaml: found NoneType, expected a mapping"),
    ("- a\n- b\n", r"bad.yaml: found list, expected a mapping"),
    ("steps:\n  - {quantize.rtn: {bits: 8}\n", r"bad.yaml, line \d: not valid YAML"),
    ("steps: !!python/object/apply:os.system [ls]\n", r"bad.yaml, line 1: not valid YAML"),
    ("\x00", r"bad.yaml.*: not valid YAML"),
])  # fmt: skip
def test_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_recipe(file)


def test_missing_file_gets_the_nearest_built_in(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe file int44, and no built-in recipe .* did you mean 'int4'\?"):
        read_recipe("int44")
    with pytest.raises(RecipeError, match="there is no recipe file"):
        read_recipe(tmp_path)


def test_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(b"\xff\xfe\x00\xd8steps")
    with pytest.raises(RecipeError, match=r"bad\.yaml is no text in UTF-8"):
        read_recipe(file)
