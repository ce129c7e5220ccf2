"""What the user asks for: a short YAML file, or the name of a built-in one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trimodal.catalogue import list_recipes, read_recipe_text
from trimodal.core.record import PackName
from trimodal.core.validation import parse_yaml_mapping
from trimodal.errors import RecipeError, suggest_names
from trimodal.methods import Method, get_method, recovery_method
from trimodal.methods.options import build_config
from trimodal.planning.gradual import expand_schedule, read_gradual_schedule
from trimodal.planning.recipe_file import LARGEST_SEED, StepKeys, check_recipe_keys, check_step_keys
from trimodal.statistics import Balance

__all__ = ["LARGEST_SEED", "Recipe", "RecipeStep", "read_recipe"]


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
    content = parse_yaml_mapping(name, text, " with the key 'steps'")
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
    found = check_recipe_keys(content, name)
    calibration = found.calibration
    return Recipe(
        name=name,
        steps=tuple(step for i, line in enumerate(found.steps, start=1) for step in _parse_step(f"{name}: step {i}", line)),
        seed=found.seed,
        samples=calibration.samples if "samples" in calibration.model_fields_set else None,
        balance=calibration.balance,
        floors=found.floors.model_dump(exclude_unset=True),
        pack=found.pack,
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
    found, here = get_method(str(name), place), f"{place} ({name})"
    own, values = check_step_keys(_check_mapping(options if options is not None else {}, here), here)
    where = (own.where,) if isinstance(own.where, str) else tuple(own.where)
    if found.on == "model":
        _check_whole_model_step(where, own, here)
    config = build_config(found.config, values, here, beside=StepKeys.model_fields)
    but = tuple((str(p), build_config(found.config, {**values, **one}, f"{here}: but '{p}'")) for p, one in own.but.items())
    whole = RecipeStep(found, where, config, place, but, optional=own.optional)
    if own.gradual is None:
        yield whole
    else:
        yield from _expand_gradual_step(whole, own.gradual)


def _check_whole_model_step(where: tuple[str, ...], own: StepKeys, here: str) -> None:
    """Refuse what a step that works on the whole model cannot take."""
    if where != ("*",):
        raise RecipeError(f"{here}: works on the whole model and takes no 'where'")
    if own.optional:
        raise RecipeError(f"{here}: works on the whole model, which is always there, and takes no 'optional'")
    if own.but:
        raise RecipeError(f"{here}: works on the whole model and takes no 'but'")


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
