"""Rank by energy: the smallest that keeps enough, never more than was allowed, and a plan that says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimodal.errors import RecipeError
from trimodal.maths.error import quadratic_form
from trimodal.maths.lowrank import choose_rank, kept_energy
from trimodal.methods.factorize import eigen, svd, tucker
from trimodal.models.tensors import tensor_bytes, unique_tensors
from trimodal.verification.checks import bytes_check


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20), st.floats(0, 1), st.integers(1, 20))
def test_smallest_rank_that_keeps_enough(values: list[float], energy: float, most: int) -> None:
    descending = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    rank = choose_rank(descending, energy, most)
    assert 1 <= rank <= most
    assert rank == most or kept_energy(descending, rank) >= energy - 1e-12
    assert rank == 1 or kept_energy(descending, rank - 1) < energy + 1e-12


def test_by_hand() -> None:
    values = torch.tensor([16.0, 3.0, 1.0], dtype=torch.float64)
    assert [choose_rank(values, energy, 3) for energy in (0.0, 0.8, 0.81, 0.95, 0.96, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert choose_rank(values, 0.96, 2) == 2 and choose_rank(values, None, 2) == 2
    assert choose_rank(torch.zeros(3), 0.9, 3) == 1


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


@pytest.mark.parametrize(("name", "method", "where"), [
    ("clip", "factorize.eigen", "*.up"), ("clip", "factorize.svd", "*.up"), ("resnet-basic", "factorize.tucker", "*.conv"),
])  # fmt: skip
def test_plan_is_an_upper_bound_also_of_later_steps(compressed: Any, name: str, method: str, where: str) -> None:
    steps = [{method: {"where": where, "sparsity": 0.2, "energy": 0.7}}, {"quantize.rtn": {"where": "*", "bits": 8}}]
    done = compressed(name, steps)
    first, second = done.plan.edits
    assert done.plan.certainty == "at most"
    assert {place.certainty for place in first.places} == {"at most"}
    links = {"first", "second", "third"} if method == "factorize.tucker" else {"first", "second"}
    assert {p.name.split(".")[-2] for p in second.places if p.certainty == "at most"} == links
    planned = {(i, place.name): place.bytes_after for i, edit in enumerate(done.plan.edits) for place in edit.places}
    assert all(record.bytes_after <= planned[record.edit, record.place] for record in done.records)
    assert any(record.bytes_after < planned[record.edit, record.place] for record in done.records)
    found = tensor_bytes(unique_tensors(done.model.module).values())
    assert found == done.plan.source.tensor_bytes - sum(r.bytes_before - r.bytes_after for r in done.records)
    assert bytes_check(done.model, done.plan, done.records).passed
    assert not bytes_check(done.model, replace(done.plan, expected_tensor_bytes=found - 1), done.records).passed
    for site in done.model.layout.sites:
        weight: Any = done.model.module.get_submodule(site.path).weight
        assert tuple(weight.shape) == site.shape


def kernel() -> torch.Tensor:
    """Two channels each way: (3, 4) from the first to the first, (0, 2) from the second to the second."""
    weight = torch.zeros(2, 2, 2, dtype=torch.float64)
    weight[0, 0], weight[1, 1] = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    return weight


@pytest.mark.parametrize(("loud", "energy", "ranks"), [
    (None, 0.0, (1, 1)), (None, 0.862068, (1, 1)), (None, 0.862070, (2, 2)), (None, 1.0, (2, 2)),
    (16.0, 0.719100, (1, 1)), (16.0, 0.719102, (2, 2)), (None, None, (2, 2)),
])  # fmt: skip
def test_ranks_of_a_kernel_by_hand(loud: float | None, energy: float | None, ranks: tuple[int, int]) -> None:
    moment = None if loud is None else torch.diag(torch.tensor([1.0, 1.0, loud, loud], dtype=torch.float64))
    assert tucker.choose_tucker_ranks(kernel(), moment, energy, (2, 2)) == ranks
    assert tucker.choose_tucker_ranks(kernel(), moment, energy, (1, 2)) == (1, ranks[1])


@pytest.mark.parametrize("seen", [False, True])
def test_a_kernel_loses_no_more_than_both_sides_give_away(layer: Any, seen: bool) -> None:
    """Where the positions of the kernel are alike and not correlated; without data they count so."""
    weight = layer.weight.view(64, 16, 6).double()
    mixing = torch.randn(16, 16, dtype=torch.float64)
    moment = torch.kron(mixing @ mixing.T, torch.eye(6, dtype=torch.float64)) if seen else None
    found = []
    for energy in (0.3, 0.6, 0.9):
        ranks = tucker.choose_tucker_ranks(weight, moment, energy, (16, 64))
        whole, after = (t.flatten(1) for t in (weight, tucker.rebuild_tucker_weight(*tucker.fit_tucker_factors(weight, moment, ranks, 0))))
        by = torch.eye(96, dtype=torch.float64) if moment is None else moment
        assert quadratic_form(whole - after, by) <= 2 * (1 - energy) * quadratic_form(whole, by) * (1 + 1e-9)
        found.append(ranks)
    assert found == sorted(set(found))


def test_all_of_a_kernels_energy_is_the_ranks_that_are_allowed(layer: Any, solve: Any) -> None:
    weight = layer.weight.view(64, 16, 6)
    whole, plain = (solve(tucker.METHOD, weight, layer.moment, **options) for options in ({"energy": 1.0}, {}))
    (a,), (b,) = whole.treatments.values(), plain.treatments.values()
    assert a.options == b.options and not plain.settled
    assert [whole.settled["rank_in"], whole.settled["rank_out"]] == b.options["ranks"]
    assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
    less = solve(tucker.METHOD, weight, layer.moment, energy=0.5)
    assert less.settled["rank_in"] < whole.settled["rank_in"] and less.settled["rank_out"] < whole.settled["rank_out"]


def test_cp_has_no_spectrum_to_share_out(compressed: Any) -> None:
    with pytest.raises(RecipeError, match="has no option 'energy'"):
        compressed("resnet-basic", [{"factorize.cp": {"energy": 0.9}}])
