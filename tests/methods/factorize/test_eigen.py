"""Low rank in eigen form: the example by hand, its gain over plain SVD, and the error it predicts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from trimodal.core import Place, Site
from trimodal.maths.error import output_error, quadratic_form
from trimodal.methods.factorize.eigen import METHOD, fit_eigen_factors, rank_of, refuse
from trimodal.methods.options import build_config


def test_worked_example() -> None:
    weight, moment = torch.diag(torch.tensor([2.0, 1.0])), torch.diag(torch.tensor([1.0, 16.0]))
    first, second, energy = fit_eigen_factors(weight, moment, 1)
    assert torch.allclose(first.abs(), torch.tensor([[0.0, 1.0]]), atol=1e-6)
    assert torch.allclose(second.abs(), torch.tensor([[0.0], [1.0]]), atol=1e-6)
    assert 1 - energy == pytest.approx(0.2, abs=1e-6)
    plain_first, plain_second, _ = fit_eigen_factors(weight, None, 1)
    error = quadratic_form(weight - plain_second @ plain_first, moment) / quadratic_form(weight, moment)
    assert error == pytest.approx(0.8, abs=1e-6)


def plain_svd(weight: torch.Tensor, rank: int) -> torch.Tensor:
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75])
def test_halves_the_error_of_plain_svd(layer: Any, solved: Any, sparsity: float) -> None:
    """Research notes at half the numbers: SVD 0.371, this 0.045."""
    found = solved(METHOD, layer.weight, layer.moment, sparsity=sparsity)
    rank = int((1 - sparsity) * 64 * 96 / 160)
    assert layer.error(found) <= 0.5 * layer.error(plain_svd(layer.weight, rank))


@pytest.mark.parametrize("rank", [3, 20])
def test_error_on_the_calibration_inputs_is_the_one_predicted(layer: Any, solved: Any, rank: int) -> None:
    found = solved(METHOD, layer.weight, layer.moment, rank=rank)
    _, _, energy = fit_eigen_factors(layer.weight, layer.moment.second, rank)
    measured = output_error(layer.weight, found, layer.moment.second, layer.moment.mean)
    assert measured == pytest.approx(1 - energy, abs=1e-6)


def test_bias_takes_up_the_mean(layer: Any, solve: Any, moment_of: Any) -> None:
    x = layer.fresh + 3.0
    second, mean, bias = x.T @ x / len(x), x.mean(0), torch.randn(64)
    change = solve(METHOD, layer.weight, moment_of(second, mean), bias, rank=10)
    treatment = change.treatments["layer"]
    found = treatment.tensors["second"] @ treatment.tensors["first"]
    assert treatment.bias is not None
    centred = second - torch.outer(mean, mean)
    error = output_error(layer.weight, found, second, mean, bias - treatment.bias) * quadratic_form(layer.weight, second)
    _, _, energy = fit_eigen_factors(layer.weight, centred, 10)
    assert error == pytest.approx((1 - energy) * quadratic_form(layer.weight, centred), rel=1e-3)
    uncentred = solve(METHOD, layer.weight, moment_of(second), None, rank=10).treatments["layer"].tensors
    assert error < quadratic_form(layer.weight - uncentred["second"] @ uncentred["first"], second)


def test_all_directions_give_the_weight_back(layer: Any) -> None:
    first, second, energy = fit_eigen_factors(layer.weight, layer.moment.second, 64)
    assert torch.allclose(second @ first, layer.weight, atol=1e-4)
    assert energy == pytest.approx(1.0)


def test_convolution_keeps_its_kernel_in_the_first_factor(layer: Any, solve: Any, solved: Any) -> None:
    kernel = layer.weight.view(64, 24, 2, 2)
    tensors = solve(METHOD, kernel, layer.moment, rank=5).treatments["layer"].tensors
    assert tensors["first"].shape == (5, 24, 2, 2) and tensors["second"].shape == (64, 5, 1, 1)
    flat = solved(METHOD, layer.weight, layer.moment, rank=5)
    assert torch.allclose(solved(METHOD, kernel, layer.moment, rank=5), flat, atol=1e-4)


SITE = Site("up", "text", 0, "up", "linear", (64, 96))


@pytest.mark.parametrize(("site", "options", "reason"), [
    (SITE, {"rank": 39}, "saves nothing at 64 × 96; break-even is 38"),
    (SITE, {"sparsity": 0.0}, None),
    (replace(SITE, shape=(64, 64)), {"sparsity": 0.0}, "saves nothing"),
    (replace(SITE, tied=("head",)), {}, "its weight is shared with head"),
    (replace(SITE, groups=2), {}, "rows read several inputs"),
    (replace(SITE, own_forward=True), {}, "a forward of its own"),
    (replace(SITE, stored="quantized"), {}, "already quantized"),
])  # fmt: skip
def test_reasons_to_refuse(site: Site, options: dict[str, Any], reason: str | None) -> None:
    found = refuse(Place("text.0.up", (site,)), build_config(METHOD.config, options, "here"))
    assert found is None if reason is None else reason in (found or "")


def test_rank_removes_at_least_the_fraction_asked_for() -> None:
    for sparsity in (0.1, 0.25, 0.5, 0.9):
        rank = rank_of(SITE, build_config(METHOD.config, {"sparsity": sparsity}, "here"))
        assert rank * (64 + 96) <= (1 - sparsity) * 64 * 96 < (rank + 1) * (64 + 96)
