"""SVD and ASVD: the example by hand, and their place behind the eigen form."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimodal.maths.error import quadratic
from trimodal.methods.factorize import eigen
from trimodal.methods.factorize.svd import METHOD, factors


@pytest.mark.parametrize(("alpha", "expected", "error"), [
    (0.0, [[2.0, 0.0], [0.0, 0.0]], 16.0), (1.0, [[0.0, 0.0], [0.0, 1.0]], 4.0),
])  # fmt: skip
def test_worked_example(alpha: float, expected: list[list[float]], error: float) -> None:
    weight, second = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.diag(torch.tensor([1.0, 16.0]))
    down, up = factors(weight, second.diagonal().sqrt() ** alpha, 1)
    found = up @ down
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6)
    assert quadratic(weight - found, second) == pytest.approx(error, abs=1e-5)


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
