"""CP: the example by hand, what it recovers, what the ridge is for, and the gain from inputs that were seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from trimodal.core import Place, Site
from trimodal.maths.error import quadratic_form
from trimodal.methods.factorize.cp import (
    METHOD,
    CpConfig,
    cp_rank_of,
    fit_cp_factors,
    forecast,
    init_cp_factors,
    rebuild_cp_weight,
    refuse,
    run_alternating_least_squares,
)

SITE = Site("c", "image", 0, "conv", "conv", (64, 32, 3, 3), bias=True)


@pytest.mark.parametrize(("loud", "kept", "error"), [(1.0, 0, 4 / 29), (16.0, 1, 25 / 89)])
def test_worked_example(loud: float, kept: int, error: float) -> None:
    weight, moment = torch.zeros(2, 2, 2), torch.diag(torch.tensor([1.0, 1.0, loud, loud])).double()
    weight[0, 0], weight[1, 1] = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    a, b, d = fit_cp_factors(weight, None if loud == 1 else moment, 1, 20, 1e-9)
    assert torch.allclose(b.abs()[:, 0], torch.eye(2, dtype=torch.float64)[kept], atol=1e-6)
    assert torch.allclose(d.abs()[:, 0], torch.tensor([[0.6, 0.8], [0.0, 1.0]][kept]).double(), atol=1e-6)
    assert float(a.norm()) == pytest.approx((5.0, 2.0)[kept], abs=1e-6)
    change = (weight - rebuild_cp_weight([a, b, d])).flatten(1)
    assert quadratic_form(change, moment) / quadratic_form(weight.flatten(1), moment) == pytest.approx(error, abs=1e-6)


def made_of(rank: int, *shape: int, seed: int = 0) -> Tensor:
    """A kernel that is a sum of `rank` separable terms."""
    random = torch.Generator().manual_seed(seed)
    return rebuild_cp_weight([torch.randn(n, rank, generator=random, dtype=torch.float64) for n in shape])


def test_product_written_out() -> None:
    parts = [torch.randn(n, 5) for n in (4, 3, 2, 6)]
    assert torch.allclose(rebuild_cp_weight(parts), torch.einsum("tr,sr,ir,jr->tsij", *parts), atol=1e-5)
    assert torch.allclose(rebuild_cp_weight(parts[:3]), torch.einsum("tr,sr,ir->tsi", *parts[:3]), atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("rank", "shape"), [(1, (6, 5, 3, 3)), (3, (12, 8, 3, 3)), (4, (10, 9, 5))])
def test_recovers_a_kernel_that_is_such_a_sum(rank: int, shape: tuple[int, ...], seed: int) -> None:
    weight = made_of(rank, *shape, seed=seed)
    found = rebuild_cp_weight(fit_cp_factors(weight, None, rank, 1000, 1e-9))
    assert float((found - weight).norm() / weight.norm()) < 1e-3


def test_as_many_terms_as_positions_need_give_the_weight_back() -> None:
    weight = torch.randn(6, 4, 3, 2)
    assert torch.allclose(rebuild_cp_weight(init_cp_factors(weight.double(), 24)), weight.double(), atol=1e-9)
    x = torch.randn(200, 24, dtype=torch.float64)
    assert torch.allclose(rebuild_cp_weight(fit_cp_factors(weight, x.T @ x, 24, 3, 1e-9)), weight.double(), atol=1e-5)


def test_sweeps_never_hurt() -> None:
    weight = torch.randn(10, 8, 3, 3, dtype=torch.float64)
    ridge = 1e-3

    def loss(sweeps: int) -> float:
        parts = run_alternating_least_squares(weight, init_cp_factors(weight, 12), sweeps, ridge)
        return float((rebuild_cp_weight(parts) - weight).square().sum() + ridge * parts[0].square().sum())

    losses = [loss(sweeps) for sweeps in (0, 1, 2, 3, 5, 10, 40)]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.8 * losses[0]


def test_ridge_holds_back_terms_that_cancel() -> None:
    """a∘a∘b + a∘b∘a + b∘a∘a has rank 3, and sums of two terms come as near as one likes, by growing without bound."""
    a, b = torch.eye(2, dtype=torch.float64)
    weight = sum(torch.einsum("i,j,k->ijk", *three) for three in ((a, a, b), (a, b, a), (b, a, a)))
    assert isinstance(weight, Tensor)
    start_at = [torch.tensor([[1.0, 0.9], [0.1, 0.3]], dtype=torch.float64) for _ in range(3)]

    def longest(sweeps: int, ridge: float) -> float:
        return float(run_alternating_least_squares(weight, start_at, sweeps, ridge)[0].norm(dim=0).max())

    assert 3 < longest(30, 1e-9) < longest(100, 1e-9) < longest(300, 1e-9)
    assert longest(300, 1e-9) > 2 * longest(300, 1e-3)


def test_what_inputs_were_seen_halves_the_error(layer: Any, solved: Any) -> None:
    kernel = layer.weight.view(64, 16, 2, 3)
    assert layer.error(solved(METHOD, kernel, layer.moment)) <= 0.5 * layer.error(solved(METHOD, kernel, None))


def test_last_factor_is_the_best_for_what_was_seen(layer: Any) -> None:
    weight, moment = layer.weight.view(64, 16, 6).double(), layer.moment.second.double()
    outer, *inner = fit_cp_factors(weight, moment, 20, 10, 1e-6)
    outer.requires_grad_()
    change = (weight - rebuild_cp_weight([outer, *inner])).flatten(1)
    loss = ((change @ moment) * change).sum()
    (slope,) = torch.autograd.grad(loss, outer)
    assert float(slope.norm()) < 1e-6 * quadratic_form(weight.flatten(1), moment)


def test_bias_takes_up_the_mean(layer: Any, solve: Any, moment_of: Any) -> None:
    x, bias = layer.fresh + 3.0, torch.randn(64)
    kernel = layer.weight.view(64, 16, 6)
    treatment = solve(METHOD, kernel, moment_of(x.T @ x / len(x), x.mean(0)), bias).treatments["layer"]
    b, d, a = (treatment.tensors[name].squeeze() for name in ("first", "second", "third"))
    found = rebuild_cp_weight([a, b.T, d.T]).flatten(1)
    assert float((x @ (layer.weight - found).T + bias - treatment.bias).mean(0).abs().max()) < 1e-3


def test_kernel_of_zeros(solved: Any) -> None:
    assert not solved(METHOD, torch.zeros(8, 8, 3), None).any()


def test_rank_removes_at_least_the_fraction_asked_for() -> None:
    for sparsity in (0.1, 0.5, 0.9):
        rank = cp_rank_of(SITE, CpConfig(sparsity=sparsity))
        assert rank * (64 + 32 + 6) <= (1 - sparsity) * 64 * 32 * 9 < (rank + 1) * (64 + 32 + 6)


def test_parts_of_the_site() -> None:
    parts = forecast(Place("c", (SITE,)), CpConfig(rank=7))
    assert [part.path for part in parts] == ["c.first", "c.second", "c.third", "c.fourth"]
    assert [part.shape for part in parts] == [(7, 32, 1, 1), (7, 1, 3, 1), (7, 1, 1, 3), (64, 7, 1, 1)]
    assert [part.groups for part in parts] == [1, 7, 7, 1]
    assert [part.bias for part in parts] == [False, False, False, True]


@pytest.mark.parametrize(("site", "options", "reason"), [
    (SITE, {}, None),
    (SITE, {"rank": 181}, "rank 181 saves nothing: 18,462 numbers in place of 18,432"),
    (SITE, {"rank": 180}, None),
    (replace(SITE, shape=(64, 32, 1, 1)), {}, "1 × 1"),
    (replace(SITE, shape=(64, 32), kind="embedding"), {}, "no convolution"),
    (replace(SITE, groups=2), {}, "rows read several inputs"),
    (replace(SITE, stored="low_rank"), {}, "already low_rank"),
])  # fmt: skip
def test_reasons_to_refuse(site: Site, options: dict[str, Any], reason: str | None) -> None:
    found = refuse(Place("c", (site,)), CpConfig(**options))
    assert found is None if reason is None else reason in (found or "")
