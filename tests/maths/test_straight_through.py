"""Gradients through rounding: by hand, against differences where they are smooth, and values that are exactly those stored."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trimodal.maths.codebook import Codebook, fit_codebook, make_fixed_table
from trimodal.maths.grid import Grid, fit_grid
from trimodal.maths.integers import make_integer_grid
from trimodal.maths.observers import fake_quantize, fake_quantize_dynamic
from trimodal.maths.straight_through import (
    clip_inputs,
    round_inputs,
    round_inputs_dynamic,
    round_on_grid,
    round_to_levels,
    round_to_multiples,
)


def leaf(*numbers: float) -> Tensor:
    return torch.tensor(numbers, requires_grad=True)


def test_gradients_of_step_and_zero_point_by_hand() -> None:
    """The docstring's numbers: s = ½, z = 2, 2 bits."""
    grid = Grid(torch.tensor([[0.5]]).half(), 0, torch.tensor([[2]], dtype=torch.uint8), 2, 4, 4)
    weight = leaf(0.6, -1.7, 3.0, 0.3)
    scale, zero = torch.tensor([[0.5]], requires_grad=True), torch.tensor([[2.0]], requires_grad=True)
    rounded = round_on_grid(weight[None], scale, zero, grid)
    assert rounded.tolist() == [[0.5, -1.0, 0.5, 0.5]]
    upstream = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    rounded.backward(upstream)
    assert weight.grad is not None and scale.grad is not None and zero.grad is not None
    assert weight.grad.tolist() == [0.0, 0.0, 0.0, 1000.0]
    assert float(scale.grad) == pytest.approx(1 * 1 + 10 * -2 + 100 * 1 + 1000 * 0.4)
    assert float(zero.grad) == pytest.approx(-0.5 * (1 + 10 + 100))


def test_gradient_of_step_is_that_of_lsq() -> None:
    """Esser et al. 2020, equation 3: −v/s + round(v/s) inside, −Q_N and Q_P outside; per group, weight for weight."""
    weight = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    grid = fit_grid(weight, 3, 4, "positive", "mse")
    upstream = torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    scale = grid.float_scales().requires_grad_()
    round_on_grid(weight, scale, grid.float_zeros(), grid).backward(upstream)
    found = scale.grad
    assert found is not None
    for row in range(3):
        for number in range(3):
            s, total = float(grid.float_scales()[row, number]), 0.0
            for column in range(number * 4, min(10, number * 4 + 4)):
                v = float(weight[row, column])
                one = -4 if v / s < -4 else 3 if v / s > 3 else -v / s + round(v / s)
                total += one * float(upstream[row, column])
            assert float(found[row, number]) == pytest.approx(total, abs=1e-5)


def test_clipped_inputs_move_the_ends() -> None:
    """PACT: α gets the gradients of all that is above it, and what is above it gets none."""
    x = leaf(-3.0, -0.5, 0.2, 1.9, 5.0, 7.0)
    low, high = torch.tensor(-1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    scale, zero = torch.tensor(0.2), torch.tensor(5.0)
    found = clip_inputs(x, low, high, scale, zero, 4)
    assert torch.equal(found, fake_quantize(x.detach(), scale, zero, 4))
    found.backward(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
    assert x.grad is not None and low.grad is not None and high.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 4.0, 8.0, 0.0, 0.0]
    assert (float(low.grad), float(high.grad)) == (1.0, 48.0)


def test_pact_agrees_with_its_formula_where_that_is_smooth() -> None:
    """α's gradient is that of ½(|x| − |x − α| + α), which PACT clips with; rounding is left out of both."""
    x = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    upstream = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alpha = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    (0.5 * (x.abs() - (x - alpha).abs() + alpha)).backward(upstream)
    high = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    clip_inputs(x, torch.zeros((), dtype=torch.float64), high, torch.tensor(2.5 / 255), torch.tensor(0.0), 8).backward(upstream)
    assert alpha.grad is not None and high.grad is not None
    assert float(high.grad) == pytest.approx(float(alpha.grad))


def test_inputs_keep_their_values_and_get_lsq_gradients() -> None:
    x = torch.tensor([-4.0, -0.31, 0.0, 0.33, 9.0], requires_grad=True)
    scale, zero = torch.tensor(0.2, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    found = round_inputs(x, scale, zero, 4)
    assert torch.equal(found, fake_quantize(x.detach(), torch.tensor(0.2), torch.tensor(5.0), 4))
    found.backward(torch.ones(5))
    assert x.grad is not None and scale.grad is not None and zero.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert float(scale.grad) == pytest.approx(-5 + (-2 + 1.55) + 0 + (2 - 1.65) + 10, abs=1e-5)
    assert float(zero.grad) == pytest.approx(-0.4)


def test_ranges_per_token_let_gradients_through_whole() -> None:
    x = torch.randn(3, 5, requires_grad=True)
    found = round_inputs_dynamic(x, 8, (-1,))
    assert torch.equal(found, fake_quantize_dynamic(x.detach(), 8, (-1,)))
    upstream = torch.randn(3, 5)
    found.backward(upstream)
    assert x.grad is not None and torch.equal(x.grad, upstream)


@pytest.mark.parametrize("group", ["tensor", "channel", 8])
def test_levels_get_the_gradients_of_the_weights_that_share_them(group: int | str) -> None:
    weight = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    book = fit_codebook(weight, 2, group, "kmeans")
    codes = book.encode(weight)
    levels = (book.levels.float() * 2.0**book.exponent).requires_grad_()
    latent = weight.clone().requires_grad_()
    found = round_to_levels(latent, None, levels, book)
    assert torch.equal(found, book.decode(codes))
    upstream = torch.randn(4, 20, generator=torch.Generator().manual_seed(1))
    found.backward(upstream)
    tables = {"tensor": torch.zeros(4, 20), "channel": torch.arange(4.0)[:, None].expand(4, 20)}
    eights = 3 * torch.arange(4)[:, None] + torch.arange(20) // 8
    table = tables.get(str(group), eights.float()).long()
    expected = torch.zeros(len(levels) * 4).index_add_(0, (table * 4 + codes.long()).flatten(), upstream.flatten())
    assert levels.grad is not None and latent.grad is not None
    assert torch.allclose(levels.grad.flatten(), expected, atol=1e-6)
    assert torch.equal(latent.grad, upstream)


def test_soft_assignment_is_differentiated_as_what_it_is() -> None:
    """Values are the nearest levels; gradients those of Σ a_k L_k, held against differences in float64."""
    weight = torch.tensor([[-0.9, -0.2, 0.45, 1.3]], dtype=torch.float64)
    levels = torch.tensor([[-1.0, -0.25, 0.25, 1.0]], dtype=torch.float64)
    book = Codebook(levels.half(), None, 0, 2, 4, 4, "tensor")
    latent, numbers = weight.clone().requires_grad_(), levels.clone().requires_grad_()
    upstream = torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=torch.float64)
    found = round_to_levels(latent, None, numbers, book, soft=True)
    assert found.tolist() == [[-1.0, -0.25, 0.25, 1.0]]
    found.backward(upstream.float())
    tau = 0.25 * (2 / 3) ** 2

    def spread(w: Tensor, table: Tensor) -> Tensor:
        shares = (-(w[..., None] - table[0]).square() / tau).softmax(-1)
        return ((shares * table[0]).sum(-1) * upstream).sum()

    for tensor, of in ((latent, 0), (numbers, 1)):
        assert tensor.grad is not None
        for column in range(4):
            ends = []
            for step in (1e-6, -1e-6):
                given = [weight.clone(), levels.clone()]
                given[of][0, column] += step
                ends.append(float(spread(*given)))
            assert float(tensor.grad[0, column]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-6)


def test_scale_of_a_table_is_differentiated_like_a_step() -> None:
    table = make_fixed_table("nf", 2)
    book = Codebook(table.half()[None], torch.tensor([[0.5]]).half(), 0, 2, 3, 3, "tensor")
    weight, scale = leaf(0.45, -0.9, 0.1), torch.tensor([[0.5]], requires_grad=True)
    found = round_to_levels(weight[None], scale, book.levels.float(), book)
    units = (found.detach() / 0.5)[0]
    found.backward(torch.ones(1, 3))
    assert weight.grad is not None and scale.grad is not None
    assert weight.grad.tolist() == [1.0, 0.0, 1.0]
    assert float(scale.grad) == pytest.approx(float(units[0] - 0.9 + units[1] + units[2] - 0.2), abs=1e-6)


def test_whole_multiples_are_rounded_straight_through() -> None:
    grid = make_integer_grid(torch.tensor([0.5, 0.25]))
    weight, steps = torch.tensor([[0.8, 40.0]], requires_grad=True), grid.float_steps().requires_grad_()
    found = round_to_multiples(weight, steps, grid)
    assert found.tolist() == [[1.0, 31.75]]
    found.backward(torch.ones(1, 2))
    assert weight.grad is not None and steps.grad is not None
    assert weight.grad.tolist() == [[1.0, 0.0]]
    assert steps.grad[0].tolist() == pytest.approx([2 - 1.6, 127.0])
