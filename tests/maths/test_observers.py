"""Ranges by hand, and what each observer promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimodal.maths.observers import (
    OBSERVERS,
    choose_range,
    fake_quantize,
    fake_quantize_dynamic,
    grid_from_range,
    quantize_to_codes,
)


def squared(x: Tensor, ends: tuple[Tensor, Tensor], bits: int, weights: Tensor | None = None) -> float:
    error = (fake_quantize(x, *grid_from_range(*ends, bits), bits) - x).double().square()
    return float((error if weights is None else error * weights).sum())


def test_grid_by_hand() -> None:
    scale, zero = grid_from_range(torch.tensor(-1.0), torch.tensor(2.0), 4)
    assert (float(scale), float(zero)) == (pytest.approx(0.2), 5.0)
    x = torch.tensor([0.33, 3.0, -9.0, 0.0, -0.1])
    assert quantize_to_codes(x, scale, zero, 4).tolist() == [7, 15, 0, 5, 5]  # −0.1/s = −0.5 rounds to the even 0
    assert torch.allclose(fake_quantize(x, scale, zero, 4), torch.tensor([0.4, 2.0, -1.0, 0.0, 0.0]))


@pytest.mark.parametrize(("low", "high", "zero"), [(1.0, 3.0, 0), (-3.0, -1.0, 15), (0.0, 0.0, 0)])
def test_zero_is_on_every_grid(low: float, high: float, zero: int) -> None:
    scale, found = grid_from_range(torch.tensor(low), torch.tensor(high), 4)
    assert float(found) == zero and float(scale) > 0
    assert float(fake_quantize(torch.zeros(1), scale, found, 4)) == 0.0


def test_ends_by_hand() -> None:
    x = torch.arange(1, 101).float()  # 1 … 100: zero is taken in
    assert [float(end) for end in choose_range(x, 8, "minmax")] == [0, 100]
    assert [float(end) for end in choose_range(x, 8, "percentile", percent=90)] == [0, 90]
    assert [float(end) for end in choose_range(-x, 8, "percentile", percent=90)] == [-91, 0]
    # Weights move the percentile: the upper half counts nothing, 45 of 50 lie at or below 45.
    assert float(choose_range(x, 8, "percentile", (x <= 50).float(), percent=90)[1]) == 45
    # 15 values of one and one of 1.7 on the 4-bit grid: clipping the one costs 0.49, holding it 15 small errors.
    x = torch.cat([torch.linspace(0, 1, 16).repeat(500), torch.tensor([1.7])])
    assert float(choose_range(x, 4, "mse")[1]) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("observer", OBSERVERS)
def test_nothing_but_zeros_is_harmless(observer: str) -> None:
    low, high = choose_range(torch.zeros(9), 8, observer)  # type: ignore[arg-type]
    assert not fake_quantize(torch.zeros(3), *grid_from_range(low, high, 8), 8).any()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999), bits=st.integers(4, 8), power=st.sampled_from([1, 3]), shift=st.floats(-2, 2),
    observer=st.sampled_from(OBSERVERS), weighted=st.booleans(),
)  # fmt: skip
def test_range_lies_within_the_values_and_mse_is_never_worse(
    seed: int, bits: int, power: int, shift: float, observer: str, weighted: bool
) -> None:
    random = torch.Generator().manual_seed(seed)
    x = (torch.randn(40, 25, generator=random) + shift) ** power
    weights = torch.rand(40, 1, generator=random) if weighted else None
    low, high = choose_range(x, bits, observer, weights)  # type: ignore[arg-type]
    assert float(x.min().clamp(max=0)) - 1e-6 <= float(low) <= 0 <= float(high) <= float(x.max().clamp(min=0)) + 1e-6
    best = squared(x, choose_range(x, bits, "mse", weights), bits, weights)
    assert best <= squared(x, choose_range(x, bits, "minmax"), bits, weights) * (1 + 1e-5) + 1e-9


def test_square_error_is_least_of_all_ranges_tried_one_by_one() -> None:
    x = torch.nn.functional.gelu(torch.randn(3000, generator=torch.Generator().manual_seed(1)) * 2)
    x[:3] = 12.0
    ends = choose_range(x, 8, "mse")
    tried = [squared(x, (x.min() * a, x.max() * b), 8) for a in (1.0, 0.9, 0.5) for b in torch.linspace(0.05, 1, 60)]
    assert squared(x, ends, 8) <= min(tried) * 1.02
    assert float(ends[0]) < 0.8 * float(x.min())  # the short side is not shrunk with the long one


def test_divergence_cuts_off_a_lonely_tail() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(50000, generator=random), torch.full((2,), 40.0)])
    low, high = choose_range(x, 8, "entropy")
    assert 3 < float(high) < 20 and float(low) < -2.5
    body = x[:-2]
    assert squared(body, (low, high), 8) < 0.3 * squared(body, choose_range(x, 8, "minmax"), 8)


def test_a_token_brings_its_own_range() -> None:
    x = torch.tensor([[1.0, -0.5, 0.25], [100.0, -50.0, 25.0]])
    seen = fake_quantize_dynamic(x, 8, (1,))
    assert torch.allclose(seen[1], 100 * seen[0], atol=1e-4) and float((seen - x)[0].abs().max()) <= 0.75 / 255
    shared = fake_quantize_dynamic(x, 8, (0, 1))
    assert float((shared - x)[0].abs().max()) > 0.1
