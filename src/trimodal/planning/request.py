"""What the user asks for: a recipe, whose patterns are still to become places, or a plan, which names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trimodal.catalogue import list_recipes
from trimodal.core import Plan
from trimodal.core.record import PackName
from trimodal.errors import RecipeError
from trimodal.planning.plan_file import PlanSource, read_plan_file
from trimodal.planning.recipe import LARGEST_SEED, Recipe, read_recipe
from trimodal.targets import Target, list_targets, read_target

TargetSource = str | Path | Target
RecipeSource = str | Path | Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """A recipe or a plan, and what either says of a whole run: `samples` for statistics (None: as many as is usual) and their
    `balance`, `floors`, whether these are `built_in`, so that nobody asked for them, the recipe's text as plain data, `raw`, and the
    `target` that is to take the result."""

    name: str
    seed: int
    samples: int | None
    pack: PackName
    floors: Mapping[str, float] = field(default_factory=dict)
    built_in: bool = False
    balance: str = "modality"
    raw: Mapping[str, Any] = field(default_factory=dict)
    target: Target | None = None
    recipe: Recipe | None = None
    plan: Plan | None = None


def read_request(
    recipe: RecipeSource | Plan | None, plan: PlanSource | None = None, *, seed: int | None = None, pack: PackName | None = None,
    target: TargetSource | None = None,
) -> Request:  # fmt: skip
    """Read and check the one of `recipe` and `plan` that is given; `seed` and `pack` replace what a recipe says, `pack` also
    what a plan says. `target` is the name or file of one, or the target itself.

    Raises:
        RecipeError: both are given or none, or what is given cannot be used.
        TargetError: there is no such target, or its file cannot be used.
    """
    found = read_target(target) if isinstance(target, str | Path) else target
    if isinstance(recipe, Plan) and plan is None:
        recipe, plan = None, recipe
    if (recipe is None) == (plan is None) or isinstance(recipe, Plan):
        given = "neither a recipe nor a plan was given" if plan is None else "a recipe and a plan were given"
        raise RecipeError(f"{given}; give exactly one of them")
    request = _read_plan_request(plan, seed, pack) if plan is not None else _read_recipe_request(recipe, seed, pack)  # type: ignore[arg-type]
    return replace(request, target=found or _find_planned_target(request.plan))


def _find_planned_target(plan: Plan | None) -> Target | None:
    """The target that a plan was made for, if it is a built-in one: a file of one's own has to be named again."""
    name = plan.target.target if plan is not None and plan.target is not None else ""
    return read_target(name) if name and name in list_targets() else None


def _read_recipe_request(source: RecipeSource, seed: int | None, pack: PackName | None) -> Request:
    recipe = _with_seed(read_recipe(source), seed)
    recipe = recipe if pack is None else replace(recipe, pack=pack)
    return Request(
        recipe.name, recipe.seed, recipe.samples, recipe.pack, recipe.floors, recipe.built_in, recipe.balance, recipe.raw, recipe=recipe
    )  # fmt: skip


def _read_plan_request(source: PlanSource, seed: int | None, pack: PackName | None) -> Request:
    plan, name = read_plan_file(source)
    if seed is not None and seed != plan.seed:
        raise RecipeError(
            f"{name} has the seed {plan.seed}, which a run of it keeps; make a new plan with seed {seed}, or leave --seed out"
        )
    plan = plan if pack is None else replace(plan, pack=pack)
    built_in = any(dict(read_recipe(one).raw) == plan.recipe for one in list_recipes())
    floors, known = _read_floors(plan, name), plan.calibration
    return Request(name, plan.seed, known.samples, plan.pack, floors, built_in, known.balance, plan.recipe, plan=plan)


def _read_floors(plan: Plan, name: str) -> Mapping[str, float]:
    """The floors in the recipe that a plan came from, checked as a recipe's are."""
    floors = plan.recipe.get("floors", {})
    try:
        return read_recipe({"floors": floors, "steps": ["quantize.rtn"]}).floors
    except RecipeError as error:
        raise RecipeError(f"{name}: {error}") from error


def _with_seed(recipe: Recipe, seed: int | None) -> Recipe:
    if seed is None:
        return recipe
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise RecipeError(f"the seed is {seed!r}, but must be a whole number, 0 to {LARGEST_SEED}")
    return replace(recipe, seed=seed)
