"""Plan: recipe -> every place by name. Only plans are executed."""

from trimodal.catalogue import list_recipes
from trimodal.planning.cost import Workload, check_memory_for, estimate_cost, measure_speed
from trimodal.planning.places import explain_held_weight, list_places, place_of
from trimodal.planning.planner import plan_edits, plan_steps
from trimodal.planning.recipe import LARGEST_SEED, Recipe, RecipeStep, read_recipe
from trimodal.planning.untouched import add_declined_places, find_untouched

__all__ = [
    "LARGEST_SEED", "Recipe", "RecipeStep", "Workload", "list_recipes", "check_disk_for", "check_memory_for", "estimate_cost", "measure_speed",
    "explain_held_weight", "list_places", "place_of", "plan_edits", "plan_steps", "read_recipe", "find_untouched",
    "add_declined_places",
]  # fmt: skip
