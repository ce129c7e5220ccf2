"""Whole multiples of a step per column."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimodal.core.storage import tensor_specs_of
from trimodal.maths.integers import IntegerGrid, make_integer_grid


def made(rows: int, columns: int, seed: int, scale: float) -> tuple[Tensor, IntegerGrid]:
    random = torch.Generator().manual_seed(seed)
    steps = scale * (0.05 + torch.rand(columns, generator=random))
    return scale * torch.randn(rows, columns, generator=random), make_integer_grid(steps)


cases = st.builds(made, st.integers(1, 5), st.integers(1, 19), st.integers(0, 99), st.sampled_from([1.0, 1e-6, 1e4]))


def test_by_hand() -> None:
    levels = make_integer_grid(torch.tensor([0.5, 0.25]))
    codes = levels.encode(torch.tensor([[0.7, 0.4], [-1.3, 100.0]]))
    assert codes.tolist() == [[1, 2], [-3, 127]]
    assert levels.decode(codes).tolist() == [[0.5, 0.5], [-1.5, 31.75]]


@settings(max_examples=60, deadline=None)
@given(case=cases)
def test_error_is_half_a_step_and_nothing_drifts(case: tuple[Tensor, IntegerGrid]) -> None:
    weight, levels = case
    codes = levels.encode(weight)
    once = levels.decode(codes)
    reached = weight.abs() <= 127 * levels.float_steps()
    assert bool(((once - weight).abs() <= 0.5001 * levels.float_steps())[reached].all())
    assert torch.equal(levels.encode(once), codes) and int(codes.abs().max()) <= 127


@settings(max_examples=40, deadline=None)
@given(case=cases)
def test_one_column_at_a_time_gives_the_same(case: tuple[Tensor, IntegerGrid]) -> None:
    weight, levels = case
    codes, nearest = levels.encode(weight), levels.make_rounder()
    for number, column in enumerate(weight.T):
        code, value = nearest(column, number)
        assert torch.equal(levels.as_codes(code), codes[:, number])
        assert torch.equal(value, levels.decode(codes)[:, number])


@settings(max_examples=40, deadline=None)
@given(case=cases)
def test_stored_tensors_are_those_said_and_hold_everything(case: tuple[Tensor, IntegerGrid]) -> None:
    weight, levels = case
    codes = levels.encode(weight)
    tensors, options = levels.storage_tensors(codes), levels.storage_options()
    specs = tensor_specs_of("integers", {**options, "shape": list(weight.shape), "dtype": "float32"})
    found = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
    assert found == {name: (spec.shape, spec.dtype) for name, spec in specs.items()}
    again, same = IntegerGrid.from_storage(options, tensors, weight.shape[1])
    assert torch.equal(again.decode(same), levels.decode(codes))
    index = torch.tensor([len(weight) - 1, 0])
    part, some = IntegerGrid.from_storage(options, IntegerGrid.take_rows(tensors, index), weight.shape[1])
    assert torch.equal(part.decode(some), levels.decode(codes)[index])
