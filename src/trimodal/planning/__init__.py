"""Plan: recipe -> every place by name. Only plans are executed."""

from trimodal.catalogue import list_recipes
from trimodal.planning.assemble import add_estimate, make_plan
from trimodal.planning.cost import Workload, check_fits_memory, check_memory_for, estimate_cost, measure_speed
from trimodal.planning.executable import check_edits
from trimodal.planning.places import explain_held_weight, list_places, place_of
from trimodal.planning.plan_file import PlanSource, read_plan_file
from trimodal.planning.planner import plan_edits, plan_steps
from trimodal.planning.recipe import LARGEST_SEED, Recipe, RecipeStep, read_recipe
from trimodal.planning.request import RecipeSource, Request, TargetSource, read_request
from trimodal.planning.samples import (
    SampleSets,
    check_floors_can_be_judged,
    make_probe_batch,
    prepare_samples,
    require_data,
    select_verification_samples,
)
from trimodal.planning.untouched import add_declined_places, find_untouched

__all__ = [
    "LARGEST_SEED", "PlanSource", "Recipe", "RecipeSource", "RecipeStep", "Request", "SampleSets", "TargetSource", "Workload",
    "add_declined_places", "add_estimate", "check_edits", "check_fits_memory", "check_floors_can_be_judged", "check_memory_for",
    "estimate_cost", "explain_held_weight", "find_untouched", "list_places", "list_recipes", "make_plan", "make_probe_batch",
    "measure_speed", "place_of", "plan_edits", "plan_steps", "prepare_samples", "read_plan_file", "read_recipe", "read_request",
    "require_data", "select_verification_samples",
]  # fmt: skip
