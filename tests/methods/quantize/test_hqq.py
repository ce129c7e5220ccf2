"""HQQ: the example by hand, its own error and the squared one, on every kind of layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trimodal.core import Place, Site
from trimodal.layers import CodedWeight
from trimodal.maths.grid import Grid, fit_grid
from trimodal.methods.options import build_config
from trimodal.methods.quantize.hqq import METHOD, HqqConfig, fit_zero_points, forecast, shrink_error


def errors(weight: Tensor, grid: Grid) -> tuple[float, float]:
    """Σ|e|^0.7 and Σe²."""
    found = (weight - grid.decode(grid.encode(weight))).abs()
    return float(found.pow(0.7).sum()), float(found.square().sum())


def test_worked_example() -> None:
    assert shrink_error(torch.tensor([-0.3]), 0.7, 10.0).item() == pytest.approx(-0.156496, abs=1e-6)
    assert shrink_error(torch.tensor([-0.156496, 0.0]), 0.7, 10.1).tolist() == [0.0, 0.0]
    weight = torch.tensor([[-0.3, 0.7, 1.7, 2.7]])
    assert errors(weight, fit_grid(weight, 2, "channel", "asymmetric"))[0] == pytest.approx(1.722046, abs=1e-5)
    grid = fit_zero_points(weight, HqqConfig(bits=2, group="channel", clip="max"))
    assert grid.zero is not None and grid.zero.dtype == torch.float16
    assert grid.zero.item() == pytest.approx(0.300049, abs=1e-6)
    assert (grid.decode(grid.encode(weight)) - weight).abs().max() < 1e-4


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(2, 8), group=st.sampled_from(["channel", 8, 64]), seed=st.integers(0, 99), columns=st.integers(1, 70),
    clip=st.sampled_from(["max", "mse"]), scale=st.sampled_from([1.0, 1e-6, 1e4]), offset=st.sampled_from([0.0, 5.0]),
)  # fmt: skip
def test_never_worse_than_rounding_over_the_same_range(
    bits: int, group: Any, seed: int, columns: int, clip: Any, scale: float, offset: float
) -> None:
    weight = scale * (torch.randn(3, columns, generator=torch.Generator().manual_seed(seed)) + offset)
    ours = errors(weight, fit_zero_points(weight, HqqConfig(bits=bits, group=group, clip=clip)))[0]
    assert ours <= errors(weight, fit_grid(weight, bits, group, "asymmetric", clip))[0] * 1.0001 + 1e-5 * scale**0.7


@pytest.mark.parametrize("clip", ["max", "mse"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_beats_rounding_over_the_whole_range(bits: int, clip: Any) -> None:
    weight = 0.02 * torch.distributions.StudentT(6.0).sample((64, 256))
    ours = errors(weight, fit_zero_points(weight, HqqConfig(bits=bits, clip=clip)))
    plain = errors(weight, fit_grid(weight, bits, 64, "asymmetric", "max"))
    assert ours[0] < 0.97 * plain[0] and ours[1] < 0.97 * plain[1]


def test_what_the_docstring_says_of_the_squared_error() -> None:
    weight = 0.02 * torch.distributions.StudentT(6.0).sample((64, 256))
    for bits, whole, clipped, both in ((2, 0.94, 0.61, 0.58), (3, 0.90, 0.82, 0.77)):
        plain = errors(weight, fit_grid(weight, bits, 64, "asymmetric", "max"))[1]
        ours = [errors(weight, fit_zero_points(weight, HqqConfig(bits=bits, clip=c)))[1] / plain for c in ("max", "mse")]
        rounded = errors(weight, fit_grid(weight, bits, 64, "asymmetric", "mse"))[1] / plain
        assert [ours[0], rounded, ours[1]] == pytest.approx([whole, clipped, both], abs=0.025)


def test_empty_and_constant_groups_and_a_short_last_one() -> None:
    weight = torch.randn(3, 20)
    weight[1], weight[2] = 0.0, 4.0
    grid = fit_zero_points(weight, HqqConfig(group=8))
    found = grid.decode(grid.encode(weight))
    assert grid.scale.shape == (3, 3) and not found[1].any()
    assert torch.allclose(found[2], weight[2], rtol=1e-3)


@pytest.mark.parametrize(("kind", "shape"), [
    ("linear", (16, 96)), ("conv", (16, 4, 3, 3)), ("conv", (16, 2, 5)), ("embedding", (32, 24)),
])  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"bits": 3, "group": 8}, {"bits": 8, "group": "channel"}])
def test_every_kind_of_layer_without_data(kind: Any, shape: Any, options: dict[str, Any]) -> None:
    site = Site("layer", "text", 0, "down", kind, shape, dtype="float16", groups=2 if len(shape) == 3 else 1)
    at, config, weight = Place("p", (site,)), build_config(HqqConfig, options, "hqq"), torch.randn(shape)
    assert METHOD.refuse(at, config) is None and METHOD.wants(at, config) is None and METHOD.solve is not None
    (treatment,) = METHOD.solve(at, {"layer.weight": weight}, None, config).treatments.values()
    store = CodedWeight(treatment.kind, treatment.options, treatment.tensors)
    assert store().shape == shape and store().dtype == torch.float16
    assert (store().float() - weight).square().mean() < 0.1
    (after,) = forecast(at, config)
    assert sum(t.numel() * t.element_size() for t in treatment.tensors.values()) == after.stored_bytes
    assert torch.equal(store.decode_rows(torch.tensor([3, 1])), store().flatten(1)[[3, 1]])
