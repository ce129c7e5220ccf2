"""What all tests share: quiet libraries, one thread, one seed, and miniatures compressed without any file."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
import torch
from torch import Tensor, nn

from trimodal.compression import compress_, run
from trimodal.compression import given as given_module
from trimodal.core import Calibration, FitRecord, Layout, PlaceRecord, Plan, Sample, Source
from trimodal.models.load import describe, tensor_bytes, unique_tensors
from trimodal.models.model import Model
from trimodal.models.tiny import miniature, miniature_batch
from trimodal.models.watching import with_folds
from trimodal.planning import plan_edits, read_recipe

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


@dataclass
class Compressed:
    """A miniature after a recipe, and what it was before. `batches` is what it was calibrated on."""

    model: Model
    original: Model
    plan: Plan
    expected: Layout
    records: Sequence[PlaceRecord | FitRecord]
    batches: Sequence[Mapping[str, Tensor]]


def tiny(name: str, seed: int = 0) -> Model:
    """The miniature called `name` with its layout."""
    return describe(miniature(name, seed), name)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Model]:
    return tiny


def carry_out(
    name: str | nn.Module, steps: Sequence[Mapping[str, Any]], samples: int = 4, data: bool = True,
    given: Sequence[Mapping[str, Tensor]] = (), **recipe: Any,
) -> Compressed:  # fmt: skip
    """Plan `steps` for the miniature called `name`, or any module, and carry them out; `recipe` holds the recipe's other keys.

    Two batches of so many `samples`, or those `given`, stand in for what would be read from files.
    """
    model = tiny(name) if isinstance(name, str) else describe(name.eval(), "net")
    original = replace(model, module=copy.deepcopy(model.module))
    batches = list(given)
    if isinstance(name, str) and data and not given:
        batches = [miniature_batch(name, samples, seed) for seed in (1, 2)]
    wanted = read_recipe({"steps": list(steps), **recipe})
    if any(step.method.on == "fold" for step in wanted.steps):
        model.layout = with_folds(model, batches)
    edits, after = plan_edits(model.layout, wanted, data)
    before = tensor_bytes(unique_tensors(model.module).values())
    saved = sum(place.bytes_before - place.bytes_after for edit in edits for place in edit.places)
    source = Source(model.name, model.family.name, "", 0, before)
    calibration = Calibration(2 * samples, None, (), recipe.get("calibration", {}).get("balance", "modality"))
    plan = Plan(recipe.get("seed", 0), source, calibration, edits, before - saved)
    with pytest.MonkeyPatch.context() as patch:
        for module in (run, given_module):
            patch.setattr(
                module, "make_batches", lambda model, samples, size: [batches[sample.line] for sample in samples]
            )
        stand_ins = [Sample(line) for line in range(len(batches))]
        records = compress_(model, plan, stand_ins, stand_ins, original)
    return Compressed(model, original, plan, after, records, batches)


@pytest.fixture(scope="session")
def compressed() -> Callable[..., Compressed]:
    """The function `carry_out`."""
    return carry_out
