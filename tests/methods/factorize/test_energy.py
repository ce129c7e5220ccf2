"""Rank by energy: the smallest that keeps enough, never more than was allowed, and a plan that says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimodal.maths.lowrank import kept_energy, rank_for
from trimodal.methods.factorize import eigen, svd
from trimodal.models.load import tensor_bytes, unique_tensors
from trimodal.pipeline import _bytes_check


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20), st.floats(0, 1), st.integers(1, 20))
def test_smallest_rank_that_keeps_enough(values: list[float], energy: float, most: int) -> None:
    descending = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    rank = rank_for(descending, energy, most)
    assert 1 <= rank <= most
    assert rank == most or kept_energy(descending, rank) >= energy - 1e-12
    assert rank == 1 or kept_energy(descending, rank - 1) < energy + 1e-12


def test_by_hand() -> None:
    values = torch.tensor([16.0, 3.0, 1.0], dtype=torch.float64)
    assert [rank_for(values, energy, 3) for energy in (0.0, 0.8, 0.81, 0.95, 0.96, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert rank_for(values, 0.96, 2) == 2 and rank_for(values, None, 2) == 2
    assert rank_for(torch.zeros(3), 0.9, 3) == 1


@pytest.mark.parametrize("method", [eigen.METHOD, svd.METHOD], ids=lambda m: m.name)
def test_all_of_the_energy_is_the_rank_that_is_allowed(layer: Any, solve: Any, method: Any) -> None:
    whole, plain = (
        solve(method, layer.weight, layer.moment, sparsity=0.5, **options) for options in ({"energy": 1.0}, {})
    )
    (a,), (b,) = whole.treatments.values(), plain.treatments.values()
    assert a.options == b.options and whole.settled == {"rank": b.options["rank"]} and not plain.settled
    assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def test_error_is_no_more_than_the_energy_given_away(layer: Any, solve: Any, solved: Any) -> None:
    ranks = []
    for energy in (0.5, 0.8, 0.9):
        change = solve(eigen.METHOD, layer.weight, layer.moment, sparsity=0.1, energy=energy)
        ranks.append(change.settled["rank"])
        after = solved(eigen.METHOD, layer.weight, layer.moment, sparsity=0.1, energy=energy)
        delta = (layer.weight - after).double()
        c = layer.moment.second.double()
        error = float((delta @ c * delta).sum() / (layer.weight.double() @ c * layer.weight.double()).sum())
        assert error <= 1 - energy + 1e-6
    assert ranks == sorted(set(ranks))


@pytest.mark.parametrize("method", ["factorize.eigen", "factorize.svd"])
def test_plan_is_an_upper_bound_also_of_later_steps(compressed: Any, method: str) -> None:
    steps = [{method: {"where": "*.up", "sparsity": 0.2, "energy": 0.7}}, {"quantize.rtn": {"where": "*", "bits": 8}}]
    done = compressed("clip", steps)
    first, second = done.plan.edits
    assert done.plan.certainty == "at most"
    assert {place.certainty for place in first.places} == {"at most"}
    assert {p.name.split(".")[-2] for p in second.places if p.certainty == "at most"} == {"first", "second"}
    planned = {(i, place.name): place.bytes_after for i, edit in enumerate(done.plan.edits) for place in edit.places}
    assert all(record.bytes_after <= planned[record.edit, record.place] for record in done.records)
    assert any(record.bytes_after < planned[record.edit, record.place] for record in done.records)
    found = tensor_bytes(unique_tensors(done.model.module).values())
    assert found == done.plan.source.tensor_bytes - sum(r.bytes_before - r.bytes_after for r in done.records)
    assert _bytes_check(done.model, done.plan, done.records).passed
    assert not _bytes_check(done.model, replace(done.plan, expected_tensor_bytes=found - 1), done.records).passed
    for site in done.model.layout.sites:
        weight: Any = done.model.module.get_submodule(site.path).weight
        assert tuple(weight.shape) == site.shape
