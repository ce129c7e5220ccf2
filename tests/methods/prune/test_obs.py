"""Exact OBS: the example by hand, the sum of the traces, every sparsity from one run, and the best of its kind."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch

from trimodal.core import Place, Site
from trimodal.maths.error import quadratic_form
from trimodal.maths.masks import refit_weights
from trimodal.methods.options import build_config
from trimodal.methods.prune import sparsegpt, wanda
from trimodal.methods.prune.obs import METHOD, _fit_convex_slopes, build_mask_from_traces, trace_removals


def test_worked_example(solved: Any, moment_of: Any) -> None:
    second = torch.tensor([[1.0, 0.8], [0.8, 4.0]])
    costs, order = trace_removals(torch.tensor([[1.0, 0.6]]), torch.linalg.inv(second.double()))
    assert order.tolist() == [[0, 1]] and costs[0].tolist() == pytest.approx([0.84, 2.56], abs=1e-6)
    found = solved(METHOD, torch.tensor([[1.0, 0.6]]), moment_of(second), damping=1e-9)
    assert found[0].tolist() == pytest.approx([0.0, 0.8], abs=1e-6)


def test_removing_everything_costs_the_whole_energy(layer: Any, solved: Any) -> None:
    second = layer.moment.second.double()
    costs, order = trace_removals(layer.weight, torch.linalg.inv(second))
    assert float(costs.sum()) == pytest.approx(quadratic_form(layer.weight, second), rel=1e-6)
    assert torch.equal(order.sort(dim=1).values, torch.arange(96).expand(64, -1))
    assert not solved(METHOD, layer.weight, layer.moment, sparsity=1.0).any()


def test_traces_tell_the_error_of_every_sparsity(layer: Any) -> None:
    second = layer.moment.second.double()
    row = layer.weight[:1]
    costs, order = trace_removals(row, torch.linalg.inv(second))
    for removed in (1, 20, 60, 90):
        mask = torch.ones(1, 96, dtype=torch.bool).scatter(1, order[:, :removed], False)
        exact = refit_weights(row, mask, second.float(), 1e-9)
        assert quadratic_form(row - exact, second) == pytest.approx(float(costs[:, :removed].sum()), rel=2e-3)


def test_beats_every_other_pruner_on_what_it_was_shown(layer: Any, solved: Any) -> None:
    def error(method: Any, **options: Any) -> float:
        found = solved(method, layer.weight, layer.moment, sparsity=0.6, **options)
        return quadratic_form(layer.weight - found, layer.moment.second)

    ours = error(METHOD)
    assert ours <= error(METHOD, scope="row")
    assert ours < error(wanda.METHOD) and ours < error(sparsegpt.METHOD)


def test_near_the_best_of_all_masks_on_a_tiny_row(moment_of: Any) -> None:
    torch.manual_seed(3)
    x = torch.randn(200, 8) @ torch.randn(8, 8)
    second, row = x.T @ x / 200, torch.randn(1, 8)
    costs, _ = trace_removals(row, torch.linalg.inv(second.double()))
    best = min(
        quadratic_form(row - refit_weights(row, mask, second, 1e-9), second)
        for kept in combinations(range(8), 4)
        for mask in [torch.zeros(1, 8, dtype=torch.bool).index_fill(1, torch.tensor(kept), True)]
    )
    assert best <= float(costs[:, :4].sum()) * (1 + 1e-4) and float(costs[:, :4].sum()) < 1.5 * best


def test_prefixes_are_taken_in_order_and_counted_exactly() -> None:
    costs = torch.tensor([[1.0, 5.0, 1.0], [2.0, 2.5, 9.0]]).double()
    order = torch.tensor([[2, 0, 1], [0, 1, 2]])
    assert torch.allclose(_fit_convex_slopes(costs), torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.5, 9.0]]).double())
    mask = build_mask_from_traces(costs, order, 3)  # 1 from the first row, then 2 and 2.5 from the second
    assert mask.tolist() == [[True, True, False], [False, False, True]]
    assert int((~build_mask_from_traces(costs, order, 4)).sum()) == 4


def test_what_would_never_end_is_refused_with_its_cost() -> None:
    place = Place("text.0.up", (Site("up", "text", 0, "up", "linear", (50_000, 1024)),))
    assert "the exact method would take 1e+14 operations" in str(METHOD.refuse(place, build_config(METHOD.config, {}, "")))
    small = Place("text.0.up", (Site("up", "text", 0, "up", "linear", (1024, 1024)),))
    assert METHOD.refuse(small, build_config(METHOD.config, {}, "")) is None
