"""Tucker-2: the example by hand, what is exact, and the claims: sweeps never hurt, inputs that are seen help."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimodal.core import Place, Site
from trimodal.errors import TrimodalError
from trimodal.maths.error import output_error, quadratic_form
from trimodal.methods.factorize import svd
from trimodal.methods.factorize.tucker import (
    METHOD,
    TuckerConfig,
    fit_output_and_core,
    fit_tucker_factors,
    forecast,
    rebuild_tucker_weight,
    refuse,
    tucker_ranks_of,
)

SITE = Site("c", "image", 0, "conv", "conv", (64, 32, 3, 3), bias=True)


def example() -> Tensor:
    weight = torch.zeros(2, 2, 2)
    weight[0, 0], weight[1, 1] = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    return weight


@pytest.mark.parametrize(("loud", "kept", "error"), [(1.0, 0, 4 / 29), (16.0, 1, 25 / 89)])
def test_worked_example(loud: float, kept: int, error: float) -> None:
    weight, moment = example(), torch.diag(torch.tensor([1.0, 1.0, loud, loud])).double()
    for sweeps in (0, 3):
        v, g, u = fit_tucker_factors(weight, None if loud == 1 else moment, (1, 1), sweeps)
        assert torch.allclose(v.abs()[:, 0], torch.eye(2, dtype=torch.float64)[kept], atol=1e-6)
        assert torch.allclose(u.abs()[:, 0], torch.eye(2, dtype=torch.float64)[kept], atol=1e-6)
        assert torch.allclose(g.abs().flatten(), weight[kept, kept].double(), atol=1e-6)
        found = rebuild_tucker_weight(v, g, u).flatten(1)
        assert quadratic_form(weight.flatten(1) - found, moment) / quadratic_form(weight.flatten(1), moment) == pytest.approx(
            error, abs=1e-6
        )


def test_plain_start_would_keep_the_wrong_channel() -> None:
    weight, moment = example().flatten(1), torch.diag(torch.tensor([1.0, 1.0, 16.0, 16.0]))
    found = rebuild_tucker_weight(*fit_tucker_factors(example(), None, (1, 1), 3)).flatten(1)
    assert quadratic_form(weight - found, moment) / quadratic_form(weight, moment) == pytest.approx(64 / 89, abs=1e-6)


@pytest.fixture
def kernel(layer: Any) -> Tensor:
    """The layer's weight (64, 96) as a kernel of 16 channels and 2 × 3."""
    found: Tensor = layer.weight.view(64, 16, 6)
    return found


@pytest.mark.parametrize("seen", [True, False])
def test_full_ranks_give_the_weight_back(layer: Any, kernel: Tensor, seen: bool) -> None:
    moment = layer.moment.second.double() if seen else None
    found = rebuild_tucker_weight(*fit_tucker_factors(kernel, moment, (16, 64), 2))
    assert torch.allclose(found, kernel.double(), atol=1e-6)


def error(layer: Any, found: Tensor) -> float:
    return output_error(layer.weight, found.flatten(1), layer.moment.second, layer.moment.mean)


@pytest.mark.parametrize("ranks", [(4, 10), (8, 32), (14, 20)])
def test_sweeps_never_hurt(layer: Any, kernel: Tensor, ranks: tuple[int, int]) -> None:
    moment = layer.moment.second.double()
    seen = [error(layer, rebuild_tucker_weight(*fit_tucker_factors(kernel, moment, ranks, sweeps))) for sweeps in (0, 1, 3, 10)]
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(seen))
    assert seen[-1] < seen[0]
    plain = [float((rebuild_tucker_weight(*fit_tucker_factors(kernel, None, ranks, n)) - kernel).square().sum()) for n in (0, 1, 3, 10)]
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(plain))


def test_never_worse_than_truncating_both_unfoldings(kernel: Tensor) -> None:
    """The textbook's truncated HOSVD: leading directions of either side of the weight, taken independently."""
    v = torch.linalg.svd(kernel.double().transpose(0, 1).flatten(1), full_matrices=False)[0][:, :8]
    u = torch.linalg.svd(kernel.double().flatten(1), full_matrices=False)[0][:, :20]
    textbook = torch.einsum("tsk,ta,sb,xa,yb->xyk", kernel.double(), u, v, u, v)
    for sweeps in (0, 3):
        found = rebuild_tucker_weight(*fit_tucker_factors(kernel, None, (8, 20), sweeps))
        assert float((found - kernel).square().sum()) <= float((textbook - kernel).square().sum()) * (1 + 1e-9)


def test_what_inputs_were_seen_halves_the_error(layer: Any, solved: Any) -> None:
    kernel = layer.weight.view(64, 16, 2, 3)
    ours, plain = solved(METHOD, kernel, layer.moment), solved(METHOD, kernel, None)
    assert layer.error(ours) <= 0.5 * layer.error(plain)
    assert layer.error(ours) < layer.error(solved(svd.METHOD, kernel, layer.moment))


def test_core_and_outer_factor_are_the_best_behind_the_inner_one(layer: Any, kernel: Tensor) -> None:
    """The gradient of the error by the core vanishes, and no neighbouring outer factor does better."""
    moment, w = layer.moment.second.double(), kernel.double()
    v = torch.linalg.qr(torch.randn(16, 5, dtype=torch.float64))[0]
    u, g = fit_output_and_core(w, moment, v, 7)

    def loss(core: Tensor, outer: Tensor) -> Tensor:
        change = (w - rebuild_tucker_weight(v, core, outer)).flatten(1)
        return ((change @ moment) * change).sum()

    core = g.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(core, u), core)
    assert float(slope.norm()) < 1e-6 * float(loss(torch.zeros_like(g), u))
    for _ in range(5):
        other = torch.linalg.qr(u + 0.05 * torch.randn_like(u))[0]
        refitted = torch.einsum("ax,xbk->abk", other.T @ u, g)
        assert loss(g, u) < loss(refitted, other)


def test_bias_takes_up_the_mean(layer: Any, solve: Any, moment_of: Any) -> None:
    x = layer.fresh + 3.0
    second, mean, bias = x.T @ x / len(x), x.mean(0), torch.randn(64)
    kernel = layer.weight.view(64, 16, 6)
    treatment = solve(METHOD, kernel, moment_of(second, mean), bias).treatments["layer"]
    v, g, u = (treatment.tensors[name] for name in ("first", "second", "third"))
    found = rebuild_tucker_weight(v[:, :, 0].T, g, u[:, :, 0]).flatten(1)
    output = x @ layer.weight.T + bias - (x @ found.T + treatment.bias)
    assert float(output.mean(0).abs().max()) < 1e-3
    without = solve(METHOD, kernel, moment_of(second), None).treatments["layer"].tensors
    v, g, u = (without[name] for name in ("first", "second", "third"))
    other = rebuild_tucker_weight(v[:, :, 0].T, g, u[:, :, 0]).flatten(1)
    assert float(output.square().sum()) < float((x @ (layer.weight - other).T).square().sum())


def test_few_tokens_and_dead_inputs(layer: Any, solved: Any, moment_of: Any) -> None:
    x = layer.fresh[:20] * (torch.arange(96) % 5 != 0)
    found = solved(METHOD, layer.weight.view(64, 16, 6), moment_of(x.T @ x / 20, tokens=20))
    assert found.isfinite().all()
    silent = solved(METHOD, layer.weight.view(64, 16, 6), moment_of(torch.zeros(96, 96)))
    assert torch.equal(silent, solved(METHOD, layer.weight.view(64, 16, 6), None))
    with pytest.raises(TrimodalError, match="non-finite values"):
        solved(METHOD, layer.weight.view(64, 16, 6), moment_of(torch.full((96, 96), torch.inf)))


@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 40), inputs=st.integers(1, 40), kernel=st.integers(2, 5), sparsity=st.sampled_from([0, 0.3, 0.5, 0.9])
)  # fmt: skip
def test_ranks_remove_what_was_asked_for_or_the_place_is_refused(
    outputs: int, inputs: int, kernel: int, sparsity: float
) -> None:
    site = Site("c", "image", 0, "conv", "conv", (outputs, inputs, kernel, kernel))
    config = TuckerConfig(sparsity=sparsity)
    place, whole = Place("c", (site,)), outputs * inputs * kernel**2
    held = sum(part.rows * part.columns for part in forecast(place, config))
    if refuse(place, config) is None:
        assert held < whole
        assert held <= (1 - sparsity) * whole or tucker_ranks_of(site, config) == (1, 1)
    else:
        assert held >= whole


def test_parts_of_the_site() -> None:
    first, second, third = forecast(Place("c", (SITE,)), TuckerConfig(rank_in=8, rank_out=20))
    assert [part.path for part in (first, second, third)] == ["c.first", "c.second", "c.third"]
    assert [part.shape for part in (first, second, third)] == [(8, 32, 1, 1), (20, 8, 3, 3), (64, 20, 1, 1)]
    assert [part.bias for part in (first, second, third)] == [False, False, True]
    assert first.stored_bytes == 4 * 8 * 32 and third.stored_bytes == 4 * (64 * 20 + 64)


@pytest.mark.parametrize(("site", "options", "reason"), [
    (SITE, {}, None),
    (SITE, {"rank_in": 32, "rank_out": 64}, "rank 32 and 64 saves nothing: 23,552 numbers in place of 18,432"),
    (SITE, {"rank_out": 30}, None),
    (replace(SITE, shape=(64, 32, 1, 1)), {}, "1 × 1"),
    (replace(SITE, shape=(64, 32), kind="linear"), {}, "no convolution"),
    (replace(SITE, groups=2), {}, "rows read several inputs"),
    (replace(SITE, tied=("other",)), {}, "shared with other"),
    (replace(SITE, own_forward=True), {}, "a forward of its own"),
    (replace(SITE, stored="quantized"), {}, "already quantized"),
    (replace(SITE, shape=(1, 1, 3)), {}, "saves nothing"),
])  # fmt: skip
def test_reasons_to_refuse(site: Site, options: dict[str, Any], reason: str | None) -> None:
    found = refuse(Place("c", (site,)), TuckerConfig(**options))
    assert found is None if reason is None else reason in (found or "")
