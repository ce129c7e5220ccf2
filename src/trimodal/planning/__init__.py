"""Plan: recipe -> every place by name. Only plans are executed."""

from trimodal.catalogue import built_in
from trimodal.planning.cost import Work, check_disk_for, check_memory_for, estimate_cost, measured_pace
from trimodal.planning.planner import place_of, plan_edits
from trimodal.planning.recipe import LARGEST_SEED, Recipe, Step, read_recipe

__all__ = [
    "LARGEST_SEED", "Recipe", "Step", "Work", "built_in", "check_disk_for", "check_memory_for", "estimate_cost", "measured_pace",
    "place_of", "plan_edits", "read_recipe",
]  # fmt: skip
