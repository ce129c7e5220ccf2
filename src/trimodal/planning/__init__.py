"""Plan: recipe -> every place by name. Only plans are executed."""

from trimodal.planning.planner import place_of, plan_edits, plan_steps
from trimodal.planning.recipe import LARGEST_SEED, Recipe, Step, built_in, read_recipe
from trimodal.planning.untouched import untouched_by

__all__ = ["LARGEST_SEED", "Recipe", "Step", "built_in", "place_of", "plan_edits", "plan_steps", "read_recipe", "untouched_by"]
