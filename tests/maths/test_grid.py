"""Uniform grids: which numbers they hold, how many bytes they take, and that nothing drifts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimodal.core.storage import group_size, tensor_specs_of
from trimodal.maths.grid import UNIFORM, Grid, Uniform, expand_groups, fit_grid

GROUPS: list[int | str] = ["tensor", "channel", 8, 16]

grids = st.fixed_dictionaries({
    "bits": st.integers(2, 8), "group": st.sampled_from(GROUPS), "kind": st.sampled_from(UNIFORM),
    "clip": st.sampled_from(["max", "mse"]),
})  # fmt: skip
weights = st.builds(
    lambda rows, columns, seed, offset, scale: (
        scale * (torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) + offset)
    ),
    st.integers(1, 4), st.integers(1, 37), st.integers(0, 99), st.sampled_from([0.0, 5.0, -5.0]),
    st.sampled_from([1.0, 1e-6, 1e4]),
)  # fmt: skip


def rounded(weight: Tensor, grid: Grid) -> Tensor:
    return grid.decode(grid.encode(weight))


def power_error(weight: Tensor, grid: Grid) -> float:
    return float((rounded(weight, grid) - weight).abs().pow(2.5).sum())


@settings(max_examples=80, deadline=None)
@given(weight=weights, how=grids)
def test_a_number_on_the_grid_stays_where_it_is(weight: Tensor, how: dict) -> None:
    grid = fit_grid(weight, **how)
    once = rounded(weight, grid)
    assert torch.equal(rounded(once, grid), once)
    assert torch.equal(grid.encode(once), grid.encode(weight))


@settings(max_examples=80, deadline=None)
@given(weight=weights, how=grids)
def test_zero_is_on_every_grid(weight: Tensor, how: dict) -> None:
    assert not rounded(torch.zeros_like(weight), fit_grid(weight, **how)).any()


@settings(max_examples=80, deadline=None)
@given(weight=weights, bits=st.integers(2, 8), group=st.sampled_from(GROUPS), kind=st.sampled_from(UNIFORM))
def test_unclipped_error_is_half_a_step_inside_the_range(
    weight: Tensor, bits: int, group: int | str, kind: Uniform
) -> None:
    grid = fit_grid(weight, bits, group, kind, "max")
    step = expand_groups(grid.float_scales(), grid.group, grid.columns).abs()
    # A symmetric grid lacks one step at the end opposite to its largest weight; a float16 scale is off by 2⁻¹¹.
    end = step if kind == "symmetric" else 0.5 * step
    slack = weight.abs().amax() * 2.0**-9
    assert bool(((rounded(weight, grid) - weight).abs() <= torch.maximum(end, 0.5 * step) + slack).all())


@settings(max_examples=60, deadline=None)
@given(
    weight=weights, bits=st.sampled_from([2, 3, 4, 5, 6, 7, 8, 16]), group=st.sampled_from(GROUPS), kind=st.sampled_from(UNIFORM)
)
def test_stored_tensors_are_those_said_and_hold_everything(
    weight: Tensor, bits: int, group: int | str, kind: Uniform
) -> None:
    grid = fit_grid(weight, bits, group, kind)
    codes = grid.encode(weight)
    tensors, options = grid.storage_tensors(codes), grid.storage_options()
    specs = tensor_specs_of("quantized", {**options, "shape": list(weight.shape), "dtype": "float32"})
    found = {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()}
    assert found == {name: (spec.shape, spec.dtype) for name, spec in specs.items()}
    again, same = Grid.from_storage(options, tensors, weight.shape[1])
    assert torch.equal(same, codes) and torch.equal(again.decode(same), grid.decode(codes))


@settings(max_examples=60, deadline=None)
@given(weight=weights, bits=st.integers(2, 4), group=st.sampled_from(GROUPS), kind=st.sampled_from(UNIFORM))
def test_mse_clip_is_never_worse_in_its_own_error(weight: Tensor, bits: int, group: int | str, kind: Uniform) -> None:
    best, plain = (power_error(weight, fit_grid(weight, bits, group, kind, c)) for c in ("mse", "max"))
    # The scale is rounded to float16 after the search, which may cost a little.
    assert best <= plain * 1.05 + 1e-6 * float(weight.abs().pow(2.5).sum())


@pytest.mark.parametrize("kind", ["positive", "symmetric"])
def test_mse_clip_gains_much_at_three_bits(kind: Uniform) -> None:
    weight = torch.distributions.StudentT(4.0).sample((64, 256))
    best, plain = (power_error(weight, fit_grid(weight, 3, "channel", kind, clip)) for clip in ("mse", "max"))
    assert best < 0.75 * plain


def test_positive_worked_example() -> None:
    weight = torch.tensor([[1.0, -0.2], [0.3, -0.5]])
    grid = fit_grid(weight, 2, "channel")
    assert torch.allclose(grid.float_scales(), torch.tensor([[1.0], [0.3]]), rtol=1e-3)
    assert grid.encode(weight).tolist() == [[3, 2], [3, 0]]
    assert torch.allclose(rounded(weight, grid), torch.tensor([[1.0, 0.0], [0.3, -0.6]]), rtol=1e-3)
    signed = fit_grid(weight, 2, "channel", "symmetric")
    assert rounded(weight, signed).tolist() == [[1.0, 0.0], [0.25, -0.5]]


@settings(max_examples=100, deadline=None)
@given(weight=weights, bits=st.sampled_from([2, 3, 4, 8, 16]), group=st.sampled_from(GROUPS), clip=st.sampled_from(["max", "mse"]),
       sign=st.sampled_from([1, -1, 0]), dead=st.integers(0, 36))  # fmt: skip
def test_positive_scales_are_above_zero(
    weight: Tensor, bits: int, group: int | str, clip: Any, sign: int, dead: int
) -> None:
    weight = weight if sign == 0 else sign * weight.abs()  # all negative, all positive, or as it comes
    weight[:, dead % weight.shape[1]] = 0.0
    grid = fit_grid(weight, bits, group, "positive", clip)
    assert bool((grid.scale > 0).all()) and bool(grid.scale.isfinite().all()) and grid.positive and grid.zero is None
    assert not rounded(weight, grid)[:, dead % weight.shape[1]].any()


@settings(max_examples=80, deadline=None)
@given(weight=weights, bits=st.sampled_from([2, 3, 4, 8]), group=st.sampled_from(["channel", 8]))
def test_positive_range_is_the_least_that_holds_every_weight(weight: Tensor, bits: int, group: int | str) -> None:
    grid, half = fit_grid(weight, bits, group), 2 ** (bits - 1)
    codes = grid.encode(weight).int() - half
    largest = expand_groups(grid.float_scales(), grid.group, grid.columns)
    groups = weight.split(grid.group, dim=1), codes.split(grid.group, dim=1)
    for values, found in zip(*groups, strict=True):
        ends = (found.amin(dim=1) == -half) | (found.amax(dim=1) == half - 1)
        assert bool((ends | (values == 0).all(dim=1)).all())  # one end of the codes is used
    absmax = torch.cat([part.abs().amax(dim=1, keepdim=True).expand_as(part) for part in groups[0]], dim=1)
    alive = absmax > 0
    assert bool((largest <= absmax / (half - 1) * 1.001)[alive].all())  # never coarser than the textbook's absmax scale


@settings(max_examples=60, deadline=None)
@given(weight=weights, bits=st.sampled_from([3, 4, 8]), group=st.sampled_from(GROUPS))
def test_positive_search_beats_rounding_over_the_largest_magnitude(weight: Tensor, bits: int, group: int | str) -> None:
    grid = fit_grid(weight, bits, group, "positive", "mse")
    size, top = grid.group, 2 ** (bits - 1) - 1
    parts = [weight] if group == "tensor" else list(weight.split(size, dim=1))
    dims = (0, 1) if group == "tensor" else (1,)
    plain = sum(float((_at_scale(p, p.abs().amax(dims, keepdim=True) / top, top) - p).abs().pow(2.5).sum()) for p in parts)
    assert power_error(weight, grid) <= plain * 1.05 + 1e-6 * float(weight.abs().pow(2.5).sum())


def _at_scale(part: Tensor, scale: Tensor, top: int) -> Tensor:
    scale = torch.where(scale == 0, 1.0, scale)
    return (part / scale).round().clamp(-top - 1, top) * scale


def test_positive_output_clip_is_never_worse_than_the_whole_range() -> None:
    weight = torch.randn(16, 8, generator=torch.Generator().manual_seed(3))
    moment = torch.eye(8)
    found = fit_grid(weight, 4, "channel", "positive", "output", moment)
    assert (found.scale > 0).all()
    errors = [float((rounded(weight, g) - weight).square().sum()) for g in (found, fit_grid(weight, 4, "channel"))]
    assert errors[0] <= errors[1] * 1.001


def test_worked_example() -> None:
    grid = fit_grid(torch.tensor([[1.0, -0.2]]), 2, "channel", "symmetric")
    assert grid.float_scales().tolist() == [[-0.5]]
    assert grid.encode(torch.tensor([[1.0, -0.2]])).tolist() == [[0, 2]]
    assert rounded(torch.tensor([[1.0, -0.2]]), grid).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_signed_scale_uses_all_codes_and_keeps_the_largest_weight(bits: int, sign: float) -> None:
    steps = 2 ** (bits - 1)
    weight = sign * torch.arange(-steps, steps, dtype=torch.float32).view(1, -1)
    grid = fit_grid(weight, bits, "channel", "symmetric")
    assert sorted(grid.encode(weight)[0].tolist()) == list(range(2**bits))
    assert torch.equal(rounded(weight, grid), weight)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_group_of_one_sign_keeps_its_range(sign: float) -> None:
    weight = sign * torch.linspace(4.0, 5.0, 16).view(1, -1)
    grid = fit_grid(weight, 4, 8, "asymmetric")
    assert grid.zero is not None and grid.zero.tolist() in ([[0, 0]], [[15, 15]])
    assert (rounded(weight, grid) - weight).abs().max() < 0.5 * 5.0 / 15 + 0.01


def test_last_group_may_be_shorter() -> None:
    weight = torch.cat((torch.ones(2, 16), 100 * torch.ones(2, 3)), dim=1)
    grid = fit_grid(weight, 4, 8)
    assert grid.scale.shape == (2, 3)
    assert torch.allclose(rounded(weight, grid), weight, rtol=1e-3)


def test_groups_are_neighbouring_columns_of_one_row() -> None:
    weight = torch.randn(3, 24)
    whole, group = fit_grid(weight, 4, 8), fit_grid(weight[1:2, 8:16], 4, "channel")
    assert torch.allclose(whole.float_scales()[1, 1], group.float_scales()[0, 0], rtol=2e-3)


def test_empty_group_does_not_spoil_the_scales_of_small_weights() -> None:
    weight = torch.randn(4, 16) * 1e-6
    weight[2] = 0.0
    grid = fit_grid(weight, 8, "channel")
    assert not rounded(weight, grid)[2].any()
    assert torch.equal(grid.float_scales()[[0, 1, 3]], fit_grid(weight[[0, 1, 3]], 8, "channel").float_scales())
    assert (rounded(weight, grid) - weight).abs().max() < 1e-6 * 4 / 128


def test_all_zero_weight_stays_zero() -> None:
    for kind in UNIFORM:
        grid = fit_grid(torch.zeros(2, 9), 4, 8, kind, "mse")
        assert not rounded(torch.zeros(2, 9), grid).any()
        assert bool(grid.scale.isfinite().all())


def test_group_size_in_words() -> None:
    assert [group_size(g, 20) for g in ("tensor", "channel", 8, 32)] == [20, 20, 8, 20]


def test_asymmetric_grid_spends_its_codes_on_the_range() -> None:
    weight = torch.rand(4, 64) + 1.0
    errors = [(rounded(weight, fit_grid(weight, 4, "channel", kind)) - weight).square().sum() for kind in UNIFORM]
    assert errors[2] < 0.5 * min(errors[:2])
