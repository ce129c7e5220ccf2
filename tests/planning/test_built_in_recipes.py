"""A built-in recipe fits every model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trimodal.catalogue import list_recipes
from trimodal.core import Layout
from trimodal.errors import RecipeError
from trimodal.loading.load import load_source
from trimodal.models.model import Model
from trimodal.networks.tiny import MINIATURES
from trimodal.planning import plan_steps, read_recipe


class Plain(nn.Sequential):
    """Convolutions and nothing else."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))

    def example(self) -> dict[str, Tensor]:
        """One image."""
        return {"input": torch.zeros(1, 3, 12, 12)}


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": Plain,
    "one linear layer": lambda: nn.Linear(64, 32),
    "few columns": lambda: nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 3)),
    "one embedding": lambda: nn.Embedding(50, 16),
    "recurrent": lambda: nn.LSTM(16, 32, num_layers=2),
}


@pytest.mark.parametrize("recipe", list_recipes())
@pytest.mark.parametrize("name", MINIATURES)
def test_every_miniature(name: str, recipe: str, tiny_model: Callable[..., Model]) -> None:
    _fits(tiny_model(name).layout, recipe)


@pytest.mark.parametrize("recipe", list_recipes())
@pytest.mark.parametrize("name", OTHERS)
def test_other_models(name: str, recipe: str) -> None:
    _fits(load_source(OTHERS[name]).layout, recipe)


def _fits(layout: Layout, recipe: str) -> None:
    edits, skipped, after = plan_steps(layout, read_recipe(recipe), data=True)
    assert any(edit.places for edit in edits) and after != layout
    assert all(step.step and step.reason for step in skipped)


@pytest.mark.parametrize("recipe", list_recipes())
def test_nothing_to_do_is_an_error(recipe: str) -> None:
    with pytest.raises(RecipeError, match=f"{recipe} finds nothing to do in this model"):
        plan_steps(load_source(lambda: nn.LayerNorm(8)).layout, read_recipe(recipe), data=True)


def test_the_recipes_for_size_ask_for_their_packing() -> None:
    assert {name for name in list_recipes() if read_recipe(name).pack == "entropy"} == {"deep", "small"}
