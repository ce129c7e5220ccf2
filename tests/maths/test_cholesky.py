"""Damped factorisations: what they solve, and when the damping grows."""

from __future__ import annotations

import pytest
import torch

from trimodal.errors import TrimodalError
from trimodal.maths.cholesky import damped_inverse, inverse_root, revive_dead_inputs


def test_worked_example_of_the_root() -> None:
    root, damping = inverse_root(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), 0.0, tokens=10)
    assert damping == 0.0
    assert torch.allclose(root, torch.tensor([[(2 / 3) ** 0.5, -(6**-0.5)], [0.0, 0.5**0.5]], dtype=torch.float64))


def test_root_is_upper_and_squares_to_the_damped_inverse() -> None:
    x = torch.randn(200, 24) * torch.linspace(0.1, 3.0, 24)
    moment = x.T @ x / 200
    root, damping = inverse_root(moment, 0.01, tokens=200)
    damped = moment.double() + damping * moment.double().diagonal().mean() * torch.eye(24)
    assert damping == 0.01 and root.dtype == torch.float64
    assert not root.tril(-1).any()
    assert torch.allclose(root.T @ root @ damped, torch.eye(24, dtype=torch.float64), atol=1e-9)


def test_few_tokens_are_damped_at_once() -> None:
    x = torch.randn(10, 24)
    _, damping = damped_inverse(x.T @ x / 10, 0.01, tokens=10)
    assert damping == 0.1


@pytest.mark.parametrize("damping", [0.0, 1e-6])
def test_damping_grows_until_the_factor_exists(damping: float) -> None:
    indefinite = torch.diag(torch.tensor([1.0, 1.0, 1.0, -0.01]))
    inverse, used = damped_inverse(indefinite, damping, tokens=100)
    assert 0.01 <= used <= 0.2
    assert bool(inverse.isfinite().all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_hopeless_moment_is_an_error_that_says_what_to_do(bad: float) -> None:
    moment = torch.eye(3)
    moment[0, 0] = bad
    with pytest.raises(TrimodalError, match="give other or more samples"):
        damped_inverse(moment, 0.01, tokens=100)


def test_inputs_that_never_fire_count_as_one_of_median_size() -> None:
    moment = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    alive, dead = revive_dead_inputs(moment)
    assert alive.tolist() == [[2.0, 0.0], [0.0, 2.0]] and dead.tolist() == [False, True]
    assert moment[1, 1] == 0.0  # the argument is left as it was
