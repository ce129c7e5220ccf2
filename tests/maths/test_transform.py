"""Rotations: orthogonal, undone exactly, and good at hiding outliers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimodal.maths.transform import (
    hadamard,
    random_signs,
    rotate_columns,
    rotate_moment,
    rotation_block,
    unrotate_columns,
)


def kurtosis(x: Tensor) -> float:
    """E[x⁴] / E[x²]²: 3 for a normal distribution, more with outliers."""
    return float(x.pow(4).mean() / x.square().mean().square())


def test_two_by_two_and_four_by_four() -> None:
    assert torch.allclose(hadamard(torch.eye(2), 2), torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5)
    signs = [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    assert torch.equal(hadamard(torch.eye(4), 4), torch.tensor(signs) / 2)


@pytest.mark.parametrize(("columns", "block"), [(2, 2), (8, 8), (64, 64), (96, 32), (24, 8), (48, 4), (5, 1)])
def test_symmetric_and_orthogonal_in_blocks(columns: int, block: int) -> None:
    h = hadamard(torch.eye(columns, dtype=torch.float64), block)
    assert torch.allclose(h @ h, torch.eye(columns, dtype=torch.float64), atol=1e-12)
    assert torch.equal(h, h.T)
    at = torch.arange(columns) // block
    assert not h[at[:, None] != at].any()
    assert torch.allclose(h[at[:, None] == at].abs(), torch.tensor(block**-0.5, dtype=torch.float64))


def test_largest_power_of_two() -> None:
    assert [rotation_block(n) for n in (1, 7, 12, 64, 96, 147, 384, 768)] == [1, 1, 4, 64, 32, 1, 128, 256]


def test_signs_follow_from_the_seed() -> None:
    assert torch.equal(random_signs(64, 3), random_signs(64, 3))
    assert not torch.equal(random_signs(64, 3), random_signs(64, 4))
    assert set(random_signs(64, 3).tolist()) == {-1.0, 1.0}


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4), st.sampled_from([2, 6, 8, 24, 40, 64]), st.integers(0, 99), st.sampled_from([1.0, 1e-6, 1e4])
)
def test_undone_and_length_kept(rows: int, columns: int, seed: int, scale: float) -> None:
    x = scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    signs, block = random_signs(columns, seed), rotation_block(columns)
    turned = rotate_columns(x, signs, block)
    assert torch.allclose(unrotate_columns(turned, signs, block), x, rtol=1e-5, atol=1e-5 * scale)
    assert torch.allclose(turned.norm(dim=1), x.norm(dim=1), rtol=1e-5)


def test_layer_with_both_turned_gives_the_same_output() -> None:
    x, weight, signs = torch.randn(9, 24), torch.randn(5, 24), random_signs(24, 0)
    assert torch.allclose(rotate_columns(x, signs, 8) @ rotate_columns(weight, signs, 8).T, x @ weight.T, atol=1e-5)


def test_moment_is_that_of_the_rotated_inputs() -> None:
    x, signs = torch.randn(50, 24), random_signs(24, 1)
    turned = rotate_columns(x, signs, 8)
    assert torch.allclose(rotate_moment(x.T @ x / 50, signs, 8), turned.T @ turned / 50, atol=1e-5)


def test_outliers_are_spread() -> None:
    weight = torch.distributions.StudentT(4.0).sample((64, 128))
    weight[:, 5] *= 20
    turned = rotate_columns(weight, random_signs(128, 0), 128)
    assert kurtosis(weight) > 20 and 2.5 < kurtosis(turned) < 4
