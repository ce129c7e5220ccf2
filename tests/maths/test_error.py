"""The closed-form error equals what comes out of data."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimodal.maths.error import bias_correction, output_error, quadratic_form, weight_error


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 8), columns=st.integers(1, 9), tokens=st.integers(1, 50), seed=st.integers(0, 99))
def test_closed_form_equals_the_error_on_data(rows: int, columns: int, tokens: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, columns, generator=random).double() + 0.7
    before, after = (torch.randn(rows, columns, generator=random).double() for _ in range(2))
    bias_change = torch.randn(rows, generator=random).double()
    moment, mean = x.T @ x / tokens, x.mean(0)
    energy = (x @ before.T).square().sum(1).mean()
    measured = (x @ (before - after).T).square().sum(1).mean() / energy
    assert output_error(before, after, moment, mean) == pytest.approx(float(measured), rel=1e-9)
    measured = (x @ (before - after).T + bias_change).square().sum(1).mean() / energy
    assert output_error(before, after, moment, mean, bias_change) == pytest.approx(float(measured), rel=1e-9)


def test_bias_correction_removes_the_mean_of_the_error() -> None:
    x = torch.randn(300, 6) + torch.linspace(-2, 2, 6)
    before, after = torch.randn(4, 6), torch.randn(4, 6)
    correction = bias_correction(before, after, x.mean(0))
    residual = x @ (before - after).T - correction
    assert residual.mean(0).abs().max() < 1e-5
    moment, mean = x.T @ x / 300, x.mean(0)
    assert output_error(before, after, moment, mean, -correction) < output_error(before, after, moment, mean)


def test_by_hand() -> None:
    moment = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    assert quadratic_form(torch.tensor([[0.2, -0.1]]), moment) == pytest.approx(0.06)
    before, after = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 0.0]])
    assert weight_error(before, after) == pytest.approx(16 / 25)


def test_layers_without_output_have_no_error() -> None:
    nothing = torch.zeros(2, 2)
    assert output_error(torch.ones(2, 2), nothing, nothing, torch.zeros(2)) == 0.0
    assert weight_error(nothing, torch.ones(2, 2)) == 0.0
    assert output_error(torch.ones(2, 2), torch.ones(2, 2), torch.eye(2), torch.zeros(2)) == 0.0


def test_weight_error_is_the_same_in_parts() -> None:
    random = torch.Generator().manual_seed(0)
    before = torch.randn(3, 70_001, generator=random)  # more than one part, the last not whole
    after = before + 0.01 * torch.randn(3, 70_001, generator=random)
    expected = (before.double() - after.double()).square().sum() / before.double().square().sum()
    assert weight_error(before, after) == pytest.approx(float(expected), rel=1e-12)
    assert weight_error(before.T, after.T) == pytest.approx(float(expected), rel=1e-12)
    assert weight_error(torch.zeros(2, 3), torch.ones(2, 3)) == 0.0
    assert weight_error(torch.zeros(0, 3), torch.zeros(0, 3)) == 0.0
