"""The JSON schema of a recipe, for editors: every key, every method and its options, with meanings, ranges and defaults.

A line of `steps` is a method's name, or a mapping whose one key is the name. So the schema has no `oneOf` over the methods: a
mapping with their names as the properties it may have, of which it has exactly one. Editors complete the names from it, and
say of a wrong option that it is wrong, where with `oneOf` they can but say that none of all methods fits.

What depends on two options at once no schema says: `gradual` needs a sparsity above its `begin`, and goes with no `kept`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trimodal.methods import METHODS, Method, recovery_method
from trimodal.methods.options import make_options_model
from trimodal.planning.gradual import GradualSchedule, can_be_gradual
from trimodal.planning.recipe_file import RecipeKeys, StepKeys

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN_LINE = "a method with the options that it has unasked"
_LINE = "a method, and behind its name where it works and its options"


def build_recipe_schema() -> dict[str, Any]:
    """The schema as plain data, in JSON Schema 2020-12."""
    recipe = RecipeKeys.model_json_schema()
    own, steps = recipe.pop("$defs"), recipe["properties"]["steps"]
    steps["items"] = {"$ref": "#/$defs/step"}
    methods = {method.name: _describe_method(method) for method in METHODS}
    parts = {**own, "step": _describe_step(), "gradual": _describe_gradual(), **methods}
    schema: dict[str, Any] = _omit_made_titles({**recipe, "$defs": parts})
    return {"$schema": DIALECT, "title": "A recipe of trimodal", **schema}


def _describe_step() -> dict[str, Any]:
    names = [method.name for method in METHODS]
    line = _make_closed_mapping({name: _refer_to(name) for name in names})
    return {
        "oneOf": [
            {"enum": names, "description": _PLAIN_LINE},
            {**line, "minProperties": 1, "maxProperties": 1, "description": _LINE},
        ]
    }


def _describe_method(method: Method) -> dict[str, Any]:
    options = make_options_model(method.config).model_json_schema()
    own = {**StepKeys.model_json_schema()["properties"], **_describe_own_keys(method)}
    return {
        **_make_closed_mapping({**own, **options["properties"]}),
        "type": ["object", "null"],
        "description": f"{method.idea} ({method.paper})" if method.paper else method.idea,
    }


def _describe_own_keys(method: Method) -> dict[str, Any]:
    """What of the keys that all steps share is particular to the method."""
    if method.on == "model":
        whole = "this method works on the whole model"
        return {
            "where": {"enum": ["*", ["*"]], "description": whole},
            "optional": {"const": False, "description": whole},
            "but": {"type": "object", "maxProperties": 0, "description": whole},
            "gradual": {"type": "null", "description": "for steps that prune"},
        }
    keys = StepKeys.model_json_schema()["properties"]
    found = {"but": {**keys["but"], "additionalProperties": _make_options_of(method)}}
    if can_be_gradual(method):
        return {**found, "gradual": {**keys["gradual"], "anyOf": [_refer_to("gradual"), {"type": "null"}]}}
    return {**found, "gradual": {"type": "null", "description": "for steps that prune"}}


def _describe_gradual() -> dict[str, Any]:
    """The schema of what stands behind `gradual`: the schedule, and the options of the recovery after each of its steps."""
    schedule, recovery = make_options_model(GradualSchedule).model_json_schema(), _make_options_of(recovery_method())
    return {
        **schedule,
        "description": "How a pruning step is spread out.",
        "properties": {
            **schedule["properties"],
            "recover": {**recovery, "description": f"options of `{recovery_method().name}`, which follows each of the steps"},
            "final": {**recovery, "description": f"options of `{recovery_method().name}` that are others after the last of them"},
        },
    }


def _make_options_of(method: Method) -> dict[str, Any]:
    """A mapping of the method's options alone, any of them."""
    names = make_options_model(method.config).model_fields
    return _make_closed_mapping({name: _refer_to(f"{method.name}/properties/{name}") for name in names})


def _make_closed_mapping(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _refer_to(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


def _omit_made_titles(part: Any) -> Any:
    """`part` without the titles that pydantic makes of names: editors show these themselves."""
    if isinstance(part, dict):
        return {key: _omit_made_titles(value) for key, value in part.items() if key != "title" or not isinstance(value, str)}
    return [_omit_made_titles(one) for one in part] if isinstance(part, list) else part
