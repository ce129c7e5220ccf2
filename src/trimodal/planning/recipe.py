"""What the user asks for: a short YAML file, or the name of a built-in one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import yaml

from trimodal.catalogue import list_recipes, read_recipe_text
from trimodal.core import MODALITIES
from trimodal.core.record import PackName
from trimodal.errors import RecipeError, suggest_names
from trimodal.methods import Method, get_method, recovery_method
from trimodal.methods.options import build_config
from trimodal.planning.gradual import expand_schedule, read_gradual_schedule
from trimodal.statistics import Balance

_KEYS = ("seed", "calibration", "floors", "pack", "steps")
_CALIBRATION_KEYS = ("samples", "balance")
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class RecipeStep:
    """One line of a recipe: a method, where, and its options. `place` says where the line stands; `but` holds
    patterns with the options as they are there instead, the later before the earlier. `number` counts the steps of a
    gradual schedule from 1; its sparsities are shares of what there was before the first. A step that is `optional` may
    find nothing to do; `recovery` marks one that only mends what the step before it did."""

    method: Method
    where: tuple[str, ...]
    config: Any
    place: str
    but: tuple[tuple[str, Any], ...] = ()
    number: int = 0
    optional: bool = False
    recovery: bool = False


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    `samples` are the calibration samples that statistics are taken from (None: up to 256 of those there
    are); `balance` says how they are mixed over modalities; `floors` is the largest drop allowed per modality (or
    `all`), in points for a metric in percent and in hundredths for a cosine; `pack` is how the weights are stored in the
    file. `list_recipes` recipes come with floors that nobody asked for: where nothing can be measured, these are not judged.
    """

    name: str
    steps: tuple[RecipeStep, ...]
    seed: int = 0
    samples: int | None = None
    balance: Balance = "modality"
    floors: Mapping[str, float] = field(default_factory=dict)
    pack: PackName = "plain"
    raw: Mapping[str, Any] = field(default_factory=dict)
    built_in: bool = False


def read_recipe(source: str | Path | Mapping[str, Any]) -> Recipe:
    """Read and check a recipe: a YAML file, the name of a built-in one, or its content as a mapping.

    Raises:
        RecipeError: naming the file, the step and what is wrong with it.
    """
    if isinstance(source, Mapping):
        return _parse_recipe("recipe", source)
    name, text, own = _read_recipe_text(source)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{name}{line}: not valid YAML ({getattr(error, 'problem', error)})") from error
    except (ValueError, RecursionError) as error:  # a date that is none, or brackets without end
        raise RecipeError(f"{name}: not valid YAML ({error}); expected a mapping with the key 'steps'") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{name}: found {type(content).__name__}, expected a mapping with the key 'steps'")
    return replace(_parse_recipe(name, content), built_in=own)


def _read_recipe_text(source: str | Path) -> tuple[str, str, bool]:
    """The recipe's name and text, and whether it is built in."""
    path = Path(source)
    try:
        if path.is_file():
            return path.name, path.read_text(encoding="utf-8"), False
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path.name} is no text in UTF-8 ({error.reason}); expected a recipe in YAML") from error
    except OSError as error:
        raise RecipeError(f"the recipe {path!s:.80} cannot be read ({error.strerror})") from error
    known = read_recipe_text(str(source))
    if known is not None:
        return str(source), known, True
    raise RecipeError(
        f"there is no recipe file {source}, and no built-in recipe of that name; {suggest_names(str(source), list_recipes())}"
    )


def _parse_recipe(name: str, content: Mapping[str, Any]) -> Recipe:
    for key in content:
        if key not in _KEYS:
            raise RecipeError(f"{name}: unknown key '{key}'; {suggest_names(str(key), _KEYS)}")
    steps = content.get("steps")
    if not isinstance(steps, list) or not steps:
        raise RecipeError(
            f"{name}: 'steps' must be a list with at least one step such as `- quantize.rtn: {{bits: 8}}`"
        )
    calibration = _check_mapping(content.get("calibration", {}), f"{name}: calibration")
    for key in calibration:
        if key not in _CALIBRATION_KEYS:
            raise RecipeError(f"{name}: calibration has no option '{key}'; {suggest_names(str(key), _CALIBRATION_KEYS)}")
    balance = calibration.get("balance", "modality")
    if balance not in get_args(Balance):
        raise RecipeError(
            f"{name}: calibration.balance is {balance!r}, but must be one of {', '.join(get_args(Balance))}"
        )
    return Recipe(
        name=name,
        steps=tuple(found for i, step in enumerate(steps, start=1) for found in _parse_step(f"{name}: step {i}", step)),
        seed=_check_integer(content.get("seed", 0), f"{name}: seed", 0, LARGEST_SEED),
        samples=_check_integer(calibration["samples"], f"{name}: calibration.samples", 1)
        if "samples" in calibration
        else None,
        balance=balance,
        floors=_check_floors(content.get("floors", {}), name),
        pack=_check_pack(content.get("pack", "plain"), name),
        raw=dict(content),
    )


def _parse_step(place: str, step: Any) -> Iterator[RecipeStep]:
    """The step that a line stands for; with `gradual` the many."""
    if isinstance(step, str):
        step = {step: {}}
    if not isinstance(step, dict) or len(step) != 1:
        raise RecipeError(
            f'{place} is {step!r}, but must name one method, such as `quantize.rtn: {{where: "*", bits: 8}}`'
        )
    ((name, options),) = step.items()
    found = get_method(str(name), place)
    values = dict(_check_mapping(options if options is not None else {}, f"{place} ({name})"))
    schedule, optional = values.pop("gradual", None), values.pop("optional", False)
    if type(optional) is not bool:
        raise RecipeError(f"{place} ({name}): optional is {optional!r}, but must be true or false")
    where = values.pop("where", "*")
    patterns = (where,) if isinstance(where, str) else tuple(where) if isinstance(where, list) else ()
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise RecipeError(
            f'{place} ({name}): where is {where!r}, but must be a pattern such as "image.*", or a list of them'
        )
    if found.on == "model" and patterns != ("*",):
        raise RecipeError(f"{place} ({name}): works on the whole model and takes no 'where'")
    if found.on == "model" and optional:
        raise RecipeError(f"{place} ({name}): works on the whole model, which is always there, and takes no 'optional'")
    exceptions = _check_mapping(values.pop("but", {}), f"{place} ({name}): but")
    if exceptions and found.on == "model":
        raise RecipeError(f"{place} ({name}): works on the whole model and takes no 'but'")
    config = build_config(found.config, values, f"{place} ({name})")
    but = []
    for pattern, options in exceptions.items():
        here = f"{place} ({name}): but '{pattern}'"
        but.append((str(pattern), build_config(found.config, {**values, **_check_mapping(options, here)}, here)))
    whole = RecipeStep(found, patterns, config, place, tuple(but), optional=optional)
    if schedule is None:
        yield whole
    else:
        yield from _expand_gradual_step(whole, _check_mapping(schedule, f"{place} ({name}): gradual"))


def _expand_gradual_step(whole: RecipeStep, schedule: Mapping[str, Any]) -> Iterator[RecipeStep]:
    """The steps of a gradual schedule, each followed by its recovery."""
    here = f"{whole.place} ({whole.method.name})"
    gradual, options, last = read_gradual_schedule(whole.method, schedule, here)
    recovery = recovery_method()
    recover = build_config(recovery.config, options, f"{here}: gradual.recover")
    final = build_config(recovery.config, last, f"{here}: gradual.final")
    configs = expand_schedule(gradual, whole.config, here)
    but = [(pattern, expand_schedule(gradual, config, f"{here}: but '{pattern}'")) for pattern, config in whole.but]
    for i, config in enumerate(configs):
        place = f"{whole.place}, {i + 1} of {len(configs)}"
        here_but = tuple((p, found[i]) for p, found in but)
        yield RecipeStep(whole.method, whole.where, config, place, here_but, number=i + 1, optional=whole.optional)
        yield RecipeStep(recovery, ("*",), recover if i + 1 < len(configs) else final, place, recovery=True)


def _check_mapping(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError(f"{place} is {value!r}, but must be a mapping of options")
    return value


def _check_integer(value: Any, place: str, low: int, high: int | None = None) -> int:
    if type(value) is not int or value < low or (high is not None and value > high):
        limits = f"{low} or more" if high is None else f"{low} to {high}"
        raise RecipeError(f"{place} is {value!r}, but must be a whole number, {limits}")
    return value


def _check_pack(value: Any, name: str) -> PackName:
    known: tuple[PackName, ...] = get_args(PackName)
    if value not in known:
        raise RecipeError(f"{name}: pack is {value!r}, but must be one of {', '.join(known)}; {suggest_names(str(value), known)}")
    found: PackName = value
    return found


def _check_floors(value: Any, name: str) -> dict[str, float]:
    known = ("all", *MODALITIES)
    for key, floor in _check_mapping(value, f"{name}: floors").items():
        if key not in known:
            raise RecipeError(f"{name}: floors has no '{key}'; {suggest_names(str(key), known)}")
        if type(floor) not in (int, float) or not 0 <= floor < math.inf:
            raise RecipeError(f"{name}: floors.{key} is {floor!r}, but must be the largest drop allowed, 0 or more")
    return {key: float(floor) for key, floor in value.items()}
