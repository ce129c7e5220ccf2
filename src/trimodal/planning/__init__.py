"""Plan: recipe -> every place by name. Only plans are executed."""

from trimodal.catalogue import built_in
from trimodal.planning.cost import Work, check_memory_for, estimate_cost, measured_pace
from trimodal.planning.planner import place_of, plan_edits, plan_steps
from trimodal.planning.recipe import LARGEST_SEED, Recipe, Step, read_recipe
from trimodal.planning.untouched import untouched_by, with_left_alone

__all__ = [
    "LARGEST_SEED", "Recipe", "Step", "Work", "built_in", "check_disk_for", "check_memory_for", "estimate_cost", "measured_pace",
    "place_of", "plan_edits", "plan_steps", "read_recipe", "untouched_by",
    "with_left_alone",
]  # fmt: skip
