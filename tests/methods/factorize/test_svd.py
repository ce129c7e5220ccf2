"""SVD and ASVD: the example by hand, and their place behind the eigen form."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimodal.core import Place, Site
from trimodal.maths.error import quadratic_form
from trimodal.methods.factorize import eigen
from trimodal.methods.factorize.svd import METHOD, SvdConfig, fit_svd_factors
from trimodal.methods.options import build_config
from trimodal.statistics import WeightGradient


@pytest.mark.parametrize(("alpha", "expected", "error"), [
    (0.0, [[2.0, 0.0], [0.0, 0.0]], 16.0), (1.0, [[0.0, 0.0], [0.0, 1.0]], 4.0),
])  # fmt: skip
def test_worked_example(alpha: float, expected: list[list[float]], error: float) -> None:
    weight, second = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.diag(torch.tensor([1.0, 16.0]))
    down, up = fit_svd_factors(weight, second.diagonal().sqrt() ** alpha, 1)
    found = up @ down
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6)
    assert quadratic_form(weight - found, second) == pytest.approx(error, abs=1e-5)


def test_plain_svd_is_the_nearest_of_its_rank(layer: Any, solved: Any) -> None:
    found = solved(METHOD, layer.weight, None, rank=10)
    values = torch.linalg.svdvals(layer.weight.double())
    assert torch.linalg.matrix_rank(found) == 10
    assert float((found - layer.weight).square().sum()) == pytest.approx(float(values[10:].square().sum()), rel=1e-4)


def test_inputs_sizes_help_and_their_correlations_help_more(layer: Any, solved: Any) -> None:
    """Research notes, half the parameters: SVD 0.371, ASVD 0.111, eigen form 0.0450."""
    plain, scaled, best = (
        layer.error(solved(METHOD, layer.weight, layer.moment)),
        layer.error(solved(METHOD, layer.weight, layer.moment, alpha=0.5)),
        layer.error(solved(eigen.METHOD, layer.weight, layer.moment)),
    )
    assert best < 0.8 * scaled and scaled < 0.8 * plain and best < 0.5 * plain


def test_inputs_alike_make_both_the_same(layer: Any, solved: Any, moment_of: Any) -> None:
    same = moment_of(3.0 * torch.eye(96))
    one, other = (solved(METHOD, layer.weight, same, alpha=a) for a in (0.0, 1.0))
    assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "embedding"])
def test_rows_count_as_the_loss_says(kind: Any) -> None:
    """The worked example with D = (1, 4); and of all matrices of rank 8 the one nearest in the weighted sense."""
    site = Site("layer", "text", 0, "up", kind, (2, 2))
    gradient = WeightGradient(2, 2)
    gradient.update(torch.tensor([[1.0, 0.0], [4.0, 0.0]]))
    config: SvdConfig = build_config(SvdConfig, {"rank": 1, "fisher": True}, "svd")
    assert METHOD.solve is not None
    place = Place("text.0.up", (site,))
    change = METHOD.solve(place, {"layer.weight": torch.tensor([[2.0, 0.0], [0.0, 1.0]])}, gradient, config)
    tensors = change.treatments["layer"].tensors
    first, second = tensors["first"], tensors["second"]
    product = first @ second.T if kind == "embedding" else second @ first
    assert torch.allclose(product, torch.tensor([[0.0, 0.0], [0.0, 1.0]]), atol=1e-6)


def test_weighted_rows_are_nearest_in_the_weighted_sense() -> None:
    weight, gradient = torch.randn(24, 16), WeightGradient(24, 16)
    gradient.update(torch.randn(24, 16) * torch.linspace(0.1, 3.0, 24)[:, None])
    site = Site("layer", "text", 0, "up", "linear", (24, 16))
    assert METHOD.solve is not None
    config: SvdConfig = build_config(SvdConfig, {"rank": 6, "fisher": True}, "svd")
    change = METHOD.solve(Place("text.0.up", (site,)), {"layer.weight": weight}, gradient, config)
    tensors = change.treatments["layer"].tensors
    importance = gradient.square.sum(dim=1).sqrt()[:, None]
    lost = (importance * (weight - tensors["second"] @ tensors["first"])).square().sum()
    values = torch.linalg.svdvals((importance * weight).double())
    assert float(lost) == pytest.approx(float(values[6:].square().sum()), rel=1e-4)
    assert METHOD.refuse(Place("text.0.up", (site,)), build_config(SvdConfig, {"rank": 6, "fisher": True, "alpha": 0.5}, "svd"))
