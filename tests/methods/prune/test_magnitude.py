"""The smallest weights go."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimodal.methods.prune.magnitude import METHOD


@pytest.mark.parametrize(("row", "scope", "expected"), [
    (-0.2, "layer", [[0.8, 0.0], [0.0, 0.5]]), (-0.2, "row", [[0.8, 0.0], [0.0, 0.5]]),
    (-0.6, "layer", [[0.8, -0.6], [0.0, 0.0]]), (-0.6, "row", [[0.8, 0.0], [0.0, 0.5]]),
])  # fmt: skip
def test_worked_example(solved: Any, row: float, scope: str, expected: list[list[float]]) -> None:
    found = solved(METHOD, torch.tensor([[0.8, row], [0.3, 0.5]]), None, sparsity=0.5, scope=scope)
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("scope", ["layer", "row"])
def test_keeps_more_of_the_weight_than_chance_and_exactly_as_many(layer: Any, solved: Any, scope: str) -> None:
    found = solved(METHOD, layer.weight, None, sparsity=0.7, scope=scope)
    kept = found != 0
    assert torch.equal(found[kept], layer.weight[kept])
    assert int(kept.sum()) == (96 * 64 - round(0.7 * 96 * 64) if scope == "layer" else 64 * (96 - round(0.7 * 96)))
    chance = layer.weight * (torch.rand(64, 96) < 0.3)
    assert layer.error(found) < 0.8 * layer.error(chance)


def test_refit_makes_up_for_much(layer: Any, solved: Any) -> None:
    plain, fitted = (
        layer.error(solved(METHOD, layer.weight, layer.moment, sparsity=0.5, refit=refit)) for refit in (False, True)
    )
    assert fitted < 0.6 * plain


@pytest.mark.parametrize("scope", ["layer", "row"])
def test_removing_nothing_and_removing_all(layer: Any, solved: Any, scope: str) -> None:
    assert torch.equal(solved(METHOD, layer.weight, None, sparsity=0.0, scope=scope), layer.weight)
    assert not solved(METHOD, layer.weight, None, sparsity=1.0, scope=scope).any()
