"""LAMP: the example by hand, and what makes it comparable from layer to layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimodal.maths.ranking import lamp_scores


def test_worked_example() -> None:
    for size in (1.0, 10.0):
        assert lamp_scores(torch.tensor([4.0 * size, 3.0 * size]).square()).tolist() == pytest.approx([1.0, 0.36], abs=1e-9)


@given(st.lists(st.floats(0, 1e3, width=32), min_size=1, max_size=40), st.floats(1e-3, 1e3))
def test_order_and_bounds_hold_at_every_scale(values: list[float], scale: float) -> None:
    squares = torch.tensor(values, dtype=torch.float64).square()
    scores = lamp_scores(squares)
    assert (scores >= 0).all() and (scores <= 1).all()
    assert not squares.any() or float(scores.max()) == pytest.approx(1.0)
    assert torch.allclose(scores, lamp_scores(squares * scale**2), atol=1e-9)
    order = scores.argsort(stable=True)
    assert (squares[order].diff() >= -1e-9 * squares.max()).all()


def test_a_score_is_the_relative_error_that_the_weight_adds_when_all_smaller_ones_are_gone() -> None:
    weight = torch.randn(20, dtype=torch.float64)
    order = weight.abs().argsort()
    left = weight[order[7:]]
    assert float(lamp_scores(weight.square())[order[7]]) == pytest.approx(float(left[0] ** 2 / left.square().sum()))


def test_nothing_at_all_scores_nothing() -> None:
    assert not lamp_scores(torch.zeros(5)).any()
