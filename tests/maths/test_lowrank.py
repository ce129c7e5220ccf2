"""The best low-rank stand-in on given inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimodal.maths.lowrank import break_even_rank, kept_energy, output_basis


def problem(rows: int = 12, columns: int = 20, tokens: int = 200) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(tokens, columns).double() @ torch.diag(torch.linspace(0.05, 3, columns).double())
    return torch.randn(rows, columns).double(), x, x.T @ x / tokens


@pytest.mark.parametrize("rank", [1, 4, 11])
def test_predicted_energy_is_the_measured_error(rank: int) -> None:
    weight, x, moment = problem()
    values, vectors = output_basis(weight, moment)
    stand_in = vectors[:, :rank] @ vectors[:, :rank].T @ weight
    measured = (x @ (weight - stand_in).T).square().sum() / (x @ weight.T).square().sum()
    assert 1 - kept_energy(values, rank) == pytest.approx(float(measured), abs=1e-6)


@pytest.mark.parametrize("rank", [1, 4, 11])
def test_equals_whitened_svd(rank: int) -> None:
    weight, _, moment = problem()
    _, vectors = output_basis(weight, moment)
    eigen = vectors[:, :rank] @ vectors[:, :rank].T @ weight
    factor = torch.linalg.cholesky(moment)
    u, s, v = torch.linalg.svd(weight @ factor, full_matrices=False)
    whitened = (u[:, :rank] * s[:rank]) @ v[:rank] @ torch.linalg.inv(factor)
    assert (eigen - whitened).norm() < 1e-5 * weight.norm()


def test_without_a_moment_it_is_plain_svd() -> None:
    weight, _, _ = problem()
    values, vectors = output_basis(weight, None)
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    assert torch.allclose(values, s.square(), rtol=1e-9)
    assert torch.allclose(vectors[:, :3] @ vectors[:, :3].T @ weight, (u[:, :3] * s[:3]) @ v[:3], atol=1e-9)


def test_singular_moment_is_no_problem() -> None:
    weight, _, _ = problem()
    x = torch.randn(3, 20).double()
    values, vectors = output_basis(weight, x.T @ x)
    stand_in = vectors[:, :3] @ vectors[:, :3].T @ weight
    assert kept_energy(values, 3) == pytest.approx(1.0)
    assert torch.allclose(x @ stand_in.T, x @ weight.T, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(rows=st.integers(1, 300), columns=st.integers(1, 300))
def test_break_even_is_the_last_rank_that_saves(rows: int, columns: int) -> None:
    rank = break_even_rank(rows, columns)
    assert rank * (rows + columns) < rows * columns <= (rank + 1) * (rows + columns)


def test_layer_without_output_keeps_all_of_it() -> None:
    assert kept_energy(torch.zeros(4, dtype=torch.float64), 1) == 1.0


@pytest.mark.parametrize("seen", [True, False])
def test_a_tall_weight_needs_no_matrix_of_its_height(seen: bool) -> None:
    weight, _, moment = problem(rows=90, columns=20)
    values, vectors = output_basis(weight, moment if seen else None)
    assert values.shape == (20,) and vectors.shape == (90, 20)
    assert torch.allclose(vectors.T @ vectors, torch.eye(20, dtype=torch.float64), atol=1e-9)
    product = weight @ (moment if seen else torch.eye(20).double()) @ weight.T
    assert torch.allclose(vectors @ values.diag() @ vectors.T, product, atol=1e-8 * float(product.abs().max()))
