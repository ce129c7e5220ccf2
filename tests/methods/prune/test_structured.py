"""Heads and neurons: the example by hand, and what the update gains."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimodal.core import Axis, Place, Site
from trimodal.maths.error import quadratic_form
from trimodal.methods.options import build_config
from trimodal.methods.prune.structured import HEADS, NEURONS, count_kept_units
from trimodal.methods.prune.unit_removal import remove_units


def whole(change: Any, weight: torch.Tensor, width: int = 1) -> torch.Tensor:
    """The consumer's weight with zeros where columns were cut."""
    entries = [unit * width + i for unit in change.cut.kept for i in range(width)]
    found = torch.zeros_like(weight)
    found[:, entries] = change.cut.weight
    return found


def test_worked_example() -> None:
    moment = torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    weight = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    kept, updated = remove_units(weight, torch.linalg.inv(moment), torch.tensor([[0], [1]]), keep=1)
    assert kept == [0]
    assert updated[0].tolist() == pytest.approx([1.5, 0.0], abs=1e-12)
    assert quadratic_form(weight - updated, moment) == pytest.approx(0.5, abs=1e-12)
    assert quadratic_form(weight - torch.tensor([[1.0, 0.0]]), moment) == pytest.approx(1.0)


@pytest.mark.parametrize("units", [96, 12])
def test_update_beats_plain_removal_of_the_smallest_columns(layer: Any, solve: Any, units: int) -> None:
    method, width = (NEURONS, 1) if units == 96 else (HEADS, 8)
    change = solve(method, layer.weight, layer.moment, units=units, sparsity=0.25)
    norms = layer.weight.square().sum(0).view(units, width).sum(1)
    plain = layer.weight.clone().view(64, units, width)
    plain[:, norms.argsort()[: units // 4]] = 0.0
    assert len(change.cut.kept) == units - units // 4
    assert layer.error(whole(change, layer.weight, width)) < 0.5 * layer.error(plain.view(64, 96))


def test_update_is_the_least_squares_fit_of_what_stays(layer: Any, solve: Any) -> None:
    change = solve(HEADS, layer.weight, layer.moment, units=12, sparsity=0.5, damping=1e-6)
    kept = [unit * 8 + i for unit in change.cut.kept for i in range(8)]
    c = layer.moment.second.double()
    c = c + 1e-6 * c.diagonal().mean() * torch.eye(96)
    expected = torch.linalg.solve(c[kept][:, kept], (layer.weight.double() @ c)[:, kept].T).T
    assert torch.allclose(change.cut.weight.double(), expected, atol=1e-4)


def test_mean_of_what_goes_ends_up_in_the_bias(layer: Any, solve: Any, moment_of: Any) -> None:
    x = layer.fresh + 3.0
    moment = moment_of(x.T @ x / len(x), x.mean(0))
    bias = torch.randn(64)
    change = solve(NEURONS, layer.weight, moment, bias, units=96, sparsity=0.5, damping=1e-6)
    assert change.cut.kept == tuple(sorted(change.cut.kept))
    residual = x @ layer.weight.T + bias - (x @ whole(change, layer.weight).T + change.cut.bias)
    assert residual.mean(0).abs().max() < 1e-2 * (x @ layer.weight.T).std()


@pytest.mark.parametrize("bias", [None, torch.ones(64)])
def test_removing_nothing_changes_nothing(layer: Any, solve: Any, bias: torch.Tensor | None) -> None:
    change = solve(NEURONS, layer.weight, layer.moment, bias, units=96, sparsity=0.0)
    assert change.cut.kept == tuple(range(96))
    assert torch.equal(change.cut.weight, layer.weight)
    assert bias is None or torch.equal(change.cut.bias, bias)


def test_one_unit_always_stays(layer: Any, solve: Any) -> None:
    assert len(solve(HEADS, layer.weight, layer.moment, units=12, sparsity=1.0).cut.kept) == 1
    assert [count_kept_units(4, s) for s in (0.0, 0.25, 0.5, 1.0)] == [4, 3, 2, 1]


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_units_that_never_fire_are_judged_by_their_weights_whatever_the_scale(
    layer: Any, solve: Any, moment_of: Any, size: float
) -> None:
    second = layer.moment.second * size
    loud, quiet = [3, 50], [95]
    second[loud + quiet], second[:, loud + quiet] = 0.0, 0.0
    weight = layer.weight.clone()
    weight[:, loud], weight[:, quiet] = 10.0, 1e-4
    change = solve(NEURONS, weight, moment_of(second), units=96, sparsity=1 / 96)
    assert set(change.cut.kept) == set(range(96)) - set(quiet)
    assert torch.equal(whole(change, weight)[:, list(change.cut.kept)], weight[:, list(change.cut.kept)])
    half = solve(NEURONS, weight, moment_of(second), units=96, sparsity=0.5)
    assert set(loud) <= set(half.cut.kept) and torch.equal(whole(half, weight)[:, loud], weight[:, loud])


def test_a_copy_of_a_unit_can_go_for_free(solve: Any, moment_of: Any) -> None:
    x = torch.randn(500, 4)
    x = torch.cat((x, x[:, :1]), dim=1)
    weight = torch.randn(3, 5) + 2.0
    change = solve(NEURONS, weight, moment_of(x.T @ x / 500), units=5, sparsity=0.2, damping=1e-6)
    assert set(change.cut.kept) in ({0, 1, 2, 3}, {1, 2, 3, 4})
    assert torch.allclose(x @ whole(change, weight).T, x @ weight.T, atol=1e-3)


@pytest.mark.parametrize(("units", "options", "reason"), [
    (1, {}, "it is one unit only, which has to stay"), (1, {"scope": "global"}, "it is one unit only"),
    (4, {"sparsity": 0.1}, "0.1 of its 4 units, rounded, is none"), (4, {"sparsity": 0.1, "score": "magnitude"}, "is none"),
    (4, {"sparsity": 0.1, "scope": "tower"}, None), (4, {"sparsity": 0.0}, None), (4, {"sparsity": 0.25}, None),
])  # fmt: skip
def test_a_cut_that_cuts_nothing_is_declined(units: int, options: dict[str, Any], reason: str | None) -> None:
    axis = Axis("text.0.units", units, 8)
    site = Site("layer", "text", 0, "down", "linear", (16, 8 * units), input_axis=axis)
    found = NEURONS.refuse(Place("text.0.units", (site,), "text.0.units"), build_config(NEURONS.config, options, ""))
    assert found is None if reason is None else reason in str(found)
