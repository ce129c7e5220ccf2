"""What stands in a recipe file, as pydantic models: they check it, and are what `recipe.schema.json` is made of.

What a method takes is no part of them; `methods/options.py` makes a model of each method's config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimodal.core.record import PackName
from trimodal.core.validation import Mistake, format_location, get_first_mistake
from trimodal.errors import RecipeError, suggest_names
from trimodal.statistics import Balance

LARGEST_SEED = 2**63 - 1
_RULES = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _drop_default(schema: dict[str, Any]) -> None:
    """Say of a key that has no number of its own where it is not given that it has none."""
    schema.pop("default", None)


class CalibrationKeys(BaseModel):
    """Which samples statistics are taken from, and how they are mixed."""

    model_config = _RULES

    samples: Annotated[
        int, Field(ge=1, description="how many; all there are, up to 256, if not given", json_schema_extra=_drop_default)
    ] = 256
    balance: Annotated[
        Balance,
        Field(description="`modality`: each counts the same; `tokens`: as often as it has tokens; `gradient`: by the loss's gradient"),
    ] = "modality"


_Floor = Annotated[
    float, Field(ge=0, description="points for a metric in percent, hundredths for a cosine", json_schema_extra=_drop_default)
]


class FloorKeys(BaseModel):
    """The largest drop allowed, per modality or for all."""

    model_config = _RULES

    all: _Floor = 0.0
    image: _Floor = 0.0
    audio: _Floor = 0.0
    text: _Floor = 0.0


class RecipeKeys(BaseModel):
    """What a model is to become: the steps, in order, and what they are held to."""

    model_config = _RULES

    steps: Annotated[list[Any], Field(min_length=1, description="one line per step: a method, where, and its options")]
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED, description="seed of all that is random")] = 0
    calibration: Annotated[CalibrationKeys, Field(json_schema_extra=_drop_default)] = CalibrationKeys()
    floors: Annotated[FloorKeys, Field(json_schema_extra=_drop_default)] = FloorKeys()
    pack: Annotated[
        PackName, Field(description="how weights are stored in the file: as they are, or entropy-coded")
    ] = "plain"


_Pattern = Annotated[str, Field(min_length=1)]


class StepKeys(BaseModel):
    """What every step may say besides its method's options."""

    model_config = _RULES

    where: Annotated[
        _Pattern | Annotated[list[_Pattern], Field(min_length=1)],
        Field(description="a pattern of places, or a list of them", examples=["*", "image.*", ["text.*.up", "*.head"]]),
    ] = "*"
    optional: Annotated[bool, Field(description="the step may find nothing to do")] = False
    but: Annotated[
        dict[Any, dict[Any, Any]], Field(description="patterns, each with the options as they are there instead; the last that fits counts")
    ] = {}
    gradual: Annotated[
        dict[Any, Any] | None, Field(description="prune in many steps, each followed by recovery")
    ] = None


_EXPECTED = {
    "seed": f"a whole number, 0 to {LARGEST_SEED}",
    "calibration": "a mapping of options",
    "calibration.samples": "a whole number, 1 or more",
    "calibration.balance": f"one of {', '.join(get_args(Balance))}",
    "floors": "a mapping of modalities, or all, to the largest drop allowed",
    "pack": f"one of {', '.join(get_args(PackName))}",
    "where": 'a pattern such as "image.*", or a list of them',
    "optional": "true or false",
    "but": "a mapping of options",
    "gradual": "a mapping of options",
}
_HOLDERS: Mapping[str, type[BaseModel]] = {"": RecipeKeys, "calibration": CalibrationKeys, "floors": FloorKeys}


def check_recipe_keys(content: Mapping[str, Any], name: str) -> RecipeKeys:
    """The recipe's `content`, all but its steps checked.

    Raises:
        RecipeError: a key is unknown, or what it says cannot be; `name` begins the message.
    """
    try:
        return RecipeKeys.model_validate(dict(content))
    except ValidationError as error:
        raise RecipeError(f"{name}: {_describe_recipe_mistake(get_first_mistake(error))}") from error


def check_step_keys(options: Mapping[Any, Any], place: str) -> tuple[StepKeys, dict[Any, Any]]:
    """What a step says besides its method's options, and these, unchecked.

    Raises:
        RecipeError: what a key says cannot be; `place` begins the message.
    """
    own = {key: value for key, value in options.items() if key in StepKeys.model_fields}
    try:
        return StepKeys.model_validate(own), {key: value for key, value in options.items() if key not in own}
    except ValidationError as error:
        raise RecipeError(f"{place}: {_describe_step_mistake(get_first_mistake(error), own)}") from error


def _describe_recipe_mistake(mistake: Mistake) -> str:
    holder, key = format_location(mistake.location[:-1]), str(mistake.location[-1])
    if mistake.is_unknown_key:
        subject = {"": "unknown key", "floors": "floors has no"}.get(holder, f"{holder} has no option")
        return f"{subject} '{key}'; {suggest_names(key, _HOLDERS[holder].model_fields)}"
    if key == "steps":
        return "'steps' must be a list with at least one step such as `- quantize.rtn: {bits: 8}`"
    place = format_location(mistake.location)
    expected = _EXPECTED.get(place, "the largest drop allowed, 0 or more")
    advice = f"; {suggest_names(str(mistake.found), get_args(PackName))}" if place == "pack" else ""
    return f"{place} is {mistake.found!r}, but must be {expected}{advice}"


def _describe_step_mistake(mistake: Mistake, own: Mapping[str, Any]) -> str:
    key, *inside = mistake.location
    if key == "but" and inside:
        return f"but '{inside[0]}' is {mistake.found!r}, but must be {_EXPECTED['but']}"
    return f"{key} is {own[str(key)]!r}, but must be {_EXPECTED[str(key)]}"
