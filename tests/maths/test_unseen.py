"""What is assumed of inputs that the data never reached."""

from __future__ import annotations

import pytest
import torch

from trimodal.maths.unseen import fill_unseen_moment, fill_unseen_squares, find_unseen_inputs


def test_the_example_in_the_docstring() -> None:
    moment = torch.tensor([[4.0, 0.0, 2.0], [0.0, 0.0, 0.0], [2.0, 0.0, 9.0]])
    filled, never = fill_unseen_moment(moment)
    assert filled.tolist() == [[4.0, 0.0, 2.0], [0.0, 4.0, 0.0], [2.0, 0.0, 9.0]] and never.tolist() == [False, True, False]
    assert moment[1, 1] == 0.0  # the argument is left as it was
    assert fill_unseen_moment(filled)[0].equal(filled)


@pytest.mark.parametrize("size", [0.0, 1e-4, 1e-9])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_inputs_far_below_what_is_typical_were_never_seen_whatever_the_scale(size: float, scale: float) -> None:
    x = torch.randn(500, 8) * scale
    x[:, :6] *= size  # most of them
    assert find_unseen_inputs(x.square().mean(0)).tolist() == [True] * 6 + [False] * 2


def test_quiet_inputs_beside_loud_ones_were_seen() -> None:
    square = torch.ones(50)
    square[3], square[4] = 1e6, 1e-3  # one massive activation decides nothing
    assert not find_unseen_inputs(square).any()


def test_where_nothing_was_seen_all_are_alike() -> None:
    assert fill_unseen_squares(torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]


def test_what_is_not_finite_is_left_to_who_divides_by_it() -> None:
    assert not find_unseen_inputs(torch.tensor([1.0, torch.nan, torch.inf])).any()
