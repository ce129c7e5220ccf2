"""One model of the zoo, tried as a user would: its folder looked at, then compressed in several ways, each reloaded in a fresh process."""

from __future__ import annotations

import re
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import trimodal
from benchmarks.zoo.models import Animal
from benchmarks.zoo.processors import make_processors
from trimodal.errors import TrimodalError
from trimodal.models.families import family_of
from trimodal.networks.tiny import write_miniature_data

SAMPLES = 24
CUT = "cut, int4"
RECIPES = {"int8": False, "int8-full": True, "int4": True, CUT: True}
"""Recipes, and whether each is given data. The last is for models whose axes a family declares."""
_CUT_STEPS = {"steps": [
    {"prune.heads": {"where": "*", "optional": True, "sparsity": 0.5}},
    {"prune.neurons": {"where": "*", "optional": True, "sparsity": 0.5}},
    {"distill": {"steps": 4, "batch": 8}},
    {"quantize.rtn": {"where": "*embedding*", "optional": True, "bits": 4, "group": 64, "grid": "nf"}},
    {"quantize.gptq": {"where": "*", "optional": True, "bits": 4, "group": 64, "grid": "nf"}},
]}  # fmt: skip
_DIFFERENCE = re.compile(r"largest absolute difference (\S+)")


@dataclass
class Cell:
    """One way of compressing one model: how many times smaller its weights are, how far the outputs of a fresh process are from those in
    memory, the metrics; or what was said instead."""

    recipe: str
    ratio: float = 0.0
    difference: float = 0.0
    metrics: str = ""
    refused: str = ""
    crashed: str = ""


@dataclass
class Trial:
    """What came of one model."""

    animal: Animal
    family: str = ""
    towers: str = ""
    takes: str = ""
    covered: float = 0.0
    left: str = ""
    counted: str = ""
    cells: dict[str, Cell] = field(default_factory=dict)
    crashed: str = ""


def try_animal(animal: Animal, recipes: tuple[str, ...]) -> Trial:
    """Make the model, write its folder and some data, and do all that is asked."""
    found = Trial(animal)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            module = animal.make()
            module.save_pretrained(folder / "model")
            for part in make_processors(module):
                part.save_pretrained(folder / "model")
            family = family_of(module)
            data = write_miniature_data(folder / "data", SAMPLES, family.modalities(module))
            found.family, found.takes = family.name, ", ".join(family.modalities(module))
            _inspect(found, folder / "model")
        except Exception:  # whatever it is, the table says it
            found.crashed = _last_line()
            return found
        for recipe in recipes if family.declares_axes else [recipe for recipe in recipes if recipe != CUT]:
            found.cells[recipe] = _compress(recipe, folder, data if RECIPES[recipe] else None)
    return found


def _inspect(found: Trial, folder: Path) -> None:
    inventory = trimodal.inspect(folder)
    found.towers = ", ".join(f"{tower.name} {tower.blocks}" for tower in inventory.towers)
    left = inventory.in_no_place
    found.covered, found.counted = 1 - left.share, inventory.macs_note
    found.left = ", ".join(f"{group.name} {group.bytes:,}" for group in left.alike[:3])


def _compress(recipe: str, folder: Path, data: Path | None) -> Cell:
    cell = Cell(recipe)
    try:
        steps = _CUT_STEPS if recipe == CUT else recipe
        result = trimodal.compress(folder / "model", steps, data=data, out=folder / recipe.replace(", ", "-"))
    except TrimodalError as refusal:
        cell.refused = str(refusal)
    except Exception:
        cell.crashed = _last_line()
    else:
        size = result.verdict.size
        cell.ratio = size.weights_before_bytes / size.weights_after_bytes
        told = [_DIFFERENCE.search(check.detail) for check in result.verdict.checks if "reload" in check.name]
        cell.difference = max((float(match.group(1)) for match in told if match), default=0.0)
        cell.metrics = ", ".join(f"{metric.name} {metric.after:.4g}" for metric in result.verdict.metrics[:2])
    return cell


def _last_line() -> str:
    return " ".join(traceback.format_exc().strip().splitlines()[-1].split())[:300]


Progress = Callable[[Trial], None]
