"""Codebooks: the published tables, the nearest level, and k-means beside the best there is."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimodal.core.storage import tensor_specs_of
from trimodal.core.stored_site import GRIDS
from trimodal.maths.codebook import (
    TABLES,
    Codebook,
    _find_student_quantile,
    find_table_name,
    fit_codebook,
    kmeans,
    make_fixed_table,
)

NF4 = [
    -1.0, -0.6961928, -0.5250730, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
]  # fmt: skip
SF4 = [
    -1.0, -0.627781, -0.454736, -0.334331, -0.237434, -0.152899, -0.074982, 0.0,
    0.065513, 0.132965, 0.204661, 0.283835, 0.375805, 0.491076, 0.656781, 1.0,
]  # fmt: skip
SF3 = [-1.0, -0.410848, -0.180119, 0.0, 0.132965, 0.283835, 0.491076, 1.0]
GROUPS: list[int | str] = ["tensor", "channel", 8, 16]
books = st.fixed_dictionaries({
    "bits": st.integers(2, 8), "group": st.sampled_from(GROUPS), "name": st.sampled_from(TABLES),
    "clip": st.sampled_from(["max", "mse"]),
})  # fmt: skip
weights = st.builds(
    lambda rows, columns, seed, scale: scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)),
    st.integers(1, 4), st.integers(1, 37), st.integers(0, 99), st.sampled_from([1.0, 1e-6, 1e4]),
)  # fmt: skip


def test_normal_float_is_the_published_table() -> None:
    assert make_fixed_table("nf", 4).tolist() == pytest.approx(NF4, abs=1e-6)


def test_student_float_is_the_published_table() -> None:
    """`SF4_5` and `SF3_5` of the authors' code, to the six digits that stand there."""
    assert make_fixed_table("sf", 4).tolist() == pytest.approx(SF4, abs=1e-6)
    assert make_fixed_table("sf", 3).tolist() == pytest.approx(SF3, abs=1e-6)


@pytest.mark.parametrize(("probability", "value"), [(0.75, 0.726687), (0.9, 1.475884), (0.975, 2.570582), (0.995, 4.032143)])
def test_students_quantiles_are_those_in_any_table(probability: float, value: float) -> None:
    found = _find_student_quantile(torch.tensor([probability], dtype=torch.float64))
    assert found.item() == pytest.approx(value, abs=1e-6)


def relative_error(weight: Tensor, name: Any, bits: int, group: int | str, clip: str) -> float:
    book = fit_codebook(weight, bits, group, name, clip)
    return float((book.decode(book.encode(weight)) - weight).square().sum() / weight.square().sum())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clip", ["max", "mse"])
@pytest.mark.parametrize("group", [128, "channel"])
@pytest.mark.parametrize("bits", [4, 5, 6])
def test_student_float_fits_heavy_tails_and_normal_float_the_normal(bits: int, group: int | str, clip: str, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    normal = torch.randn(64, 512, generator=random)
    heavy = normal / torch.randn(5, 64, 512, generator=random).square().mean(0).sqrt()  # t, 5 degrees of freedom
    on_heavy, on_normal = ([relative_error(w, name, bits, group, clip) for name in ("sf", "nf")] for w in (heavy, normal))
    assert on_heavy[0] < 0.97 * on_heavy[1]
    assert on_normal[0] > 1.05 * on_normal[1]


def test_a_manifest_may_name_every_fixed_table() -> None:
    assert set(TABLES) - {"kmeans"} <= set(GRIDS)


def test_small_float_is_e2m1() -> None:
    positive = [n / 6 for n in (0, 0.5, 1, 1.5, 2, 3, 4, 6)]
    assert make_fixed_table("fp", 4)[8:].tolist() == pytest.approx(positive, abs=1e-7)
    assert make_fixed_table("fp", 4)[:8].tolist() == pytest.approx([-n for n in reversed(positive)], abs=1e-7)


def test_powers() -> None:
    assert make_fixed_table("pot", 3).tolist() == [-1.0, -0.5, -0.25, 0.0, 0.125, 0.25, 0.5, 1.0]
    assert make_fixed_table("log", 3).tolist() == pytest.approx([-1, -(0.5**0.5), -0.5, 0, 0.5**1.5, 0.5, 0.5**0.5, 1])


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("name", [name for name in TABLES if name != "kmeans"])
def test_tables_ascend_hold_zero_and_reach_one(name: Any, bits: int) -> None:
    levels = make_fixed_table(name, bits)
    assert len(levels) == 2**bits and bool((levels.diff() >= 0).all())
    assert float(levels.abs().max()) == 1.0 and 0.0 in levels.tolist()


@settings(max_examples=60, deadline=None)
@given(weight=weights, how=books)
def test_codes_are_those_of_the_nearest_level(weight: Tensor, how: dict[str, Any]) -> None:
    book = fit_codebook(weight, **how)
    codes = book.encode(weight)
    found = (book.decode(codes) - weight).abs()
    every = torch.stack([book.decode(torch.full(weight.shape, code)) for code in range(2 ** how["bits"])])
    assert torch.allclose(found, (every - weight).abs().amin(0), rtol=1e-4, atol=1e-6 * float(weight.abs().max()))
    assert torch.equal(book.decode(book.encode(book.decode(codes))), book.decode(codes))


@settings(max_examples=40, deadline=None)
@given(weight=weights, how=books)
def test_one_column_at_a_time_gives_the_same(weight: Tensor, how: dict[str, Any]) -> None:
    book = fit_codebook(weight, **how)
    nearest, codes = book.make_rounder(), book.encode(weight)
    for number, column in enumerate(weight.T):
        code, value = nearest(column, number)
        assert torch.equal(book.as_codes(code), codes[:, number])
        assert torch.equal(value, book.decode(codes)[:, number])


@settings(max_examples=60, deadline=None)
@given(weight=weights, how=books)
def test_stored_tensors_are_those_said_and_hold_everything(weight: Tensor, how: dict[str, Any]) -> None:
    book = fit_codebook(weight, **how)
    codes = book.encode(weight)
    tensors, options = book.storage_tensors(codes), book.storage_options()
    specs = tensor_specs_of("codebook", {**options, "shape": list(weight.shape), "dtype": "float32"})
    found = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
    assert found == {name: (spec.shape, spec.dtype) for name, spec in specs.items()}
    again, same = Codebook.from_storage(options, tensors, weight.shape[1])
    assert torch.equal(same, codes) and torch.equal(again.decode(same), book.decode(codes))
    index = torch.tensor([len(weight) - 1, 0])
    part, some = Codebook.from_storage(options, Codebook.take_rows(tensors, index), weight.shape[1])
    assert torch.equal(part.decode(some), book.decode(codes)[index])


def test_kmeans_by_hand() -> None:
    levels = kmeans(torch.tensor([[0.0, 0.1, 0.9, 1.0]]), torch.tensor([[1.0, 1.0, 3.0, 1.0]]), 2)
    assert levels[0].tolist() == pytest.approx([0.05, 0.925], abs=1e-6)


def best_error(values: Tensor, counts: Tensor, levels: int) -> float:
    """The least error of all ways to cut the sorted values into so many runs."""
    values, order = values.double().sort()
    counts, least = counts.double()[order], float("inf")
    for cuts in combinations(range(1, len(values)), levels - 1):
        edges, total = (0, *cuts, len(values)), 0.0
        for start, stop in pairwise(edges):
            run, count = values[start:stop], counts[start:stop]
            total += float((count * (run - (count * run).sum() / count.sum()).square()).sum())
        least = min(least, total)
    return least


@pytest.mark.parametrize(("count", "levels"), [(8, 2), (9, 4), (12, 3)])
def test_kmeans_is_within_five_percent_of_the_optimum(count: int, levels: int) -> None:
    for seed in range(25):
        random = torch.Generator().manual_seed(seed)
        values, counts = torch.randn(count, generator=random), torch.rand(count, generator=random) + 0.05
        found = kmeans(values[None], counts[None], levels)[0].double()
        error = float((counts * (values.double()[:, None] - found).square().amin(1)).sum())
        assert error <= 1.05 * best_error(values, counts, levels) + 1e-9, seed


def test_as_many_levels_as_numbers_are_exact() -> None:
    values = torch.tensor([[3.0, -1.0, 0.5, 3.0, -1.0, 2.0]])
    assert torch.allclose(kmeans(values, torch.ones(1, 6), 4).sort().values, torch.tensor([[-1.0, 0.5, 2.0, 3.0]]))


def test_importance_draws_the_levels() -> None:
    weight, importance = torch.randn(4, 64), torch.ones(64)
    importance[:8] = 100.0
    plain, counted = (fit_codebook(weight, 2, "channel", "kmeans", importance=i) for i in (None, importance))
    errors = [(b.decode(b.encode(weight)) - weight)[:, :8].square().sum() for b in (plain, counted)]
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("group", ["tensor", "channel", 16])
def test_pruned_weights_stay_zero(group: Any) -> None:
    weight = torch.randn(6, 32) * (torch.rand(6, 32) < 0.5)
    book = fit_codebook(weight, 3, group, "kmeans")
    assert not book.decode(book.encode(weight))[weight == 0].any()


def test_searched_scales_are_never_worse() -> None:
    weight = torch.distributions.StudentT(4.0).sample((32, 64))
    for name in ("nf", "sf", "fp", "pot", "log"):
        found = (fit_codebook(weight, 4, 16, name, clip) for clip in ("mse", "max"))  # type: ignore[arg-type]
        mse, largest = (float((b.decode(b.encode(weight)) - weight).square().sum()) for b in found)
        assert mse < largest


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_fixed_tables_are_known_by_their_numbers(bits: int) -> None:
    tables = {name: make_fixed_table(name, bits) for name in ("nf", "sf", "fp", "pot", "log")}
    for name, table in tables.items():
        same = [other for other, found in tables.items() if found.half().equal(table.half())]
        assert find_table_name(table.half()) in same and name in same
    assert find_table_name(tables["nf"] * 0.5) is None
