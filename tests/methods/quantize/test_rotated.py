"""Rotation: the example by hand, what it does to outliers, and where it loses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trimodal.core import Place, Site
from trimodal.layers import CodedWeight
from trimodal.maths.transform import rotate_columns, unrotate_columns
from trimodal.methods.options import build_config
from trimodal.methods.quantize import gptq, rtn
from trimodal.methods.quantize.rotated import METHOD, RotatedConfig, draw_signs, forecast


def place(columns: int, kind: Any = "linear", name: str = "text.0.down", **more: Any) -> Place:
    return Place(name, (Site("layer", "text", 0, "down", kind, (64, columns), **more),))


def lost(found: Tensor, weight: Tensor) -> float:
    return float((found - weight).square().sum() / weight.square().sum())


def test_worked_example() -> None:
    signs = torch.tensor([1.0, -1.0])
    turned = rotate_columns(torch.tensor([[3.0, 1.0]]), signs, 2)
    assert turned[0].tolist() == pytest.approx([1.414214, 2.828427], abs=1e-6)
    assert unrotate_columns(turned, signs, 2)[0].tolist() == pytest.approx([3.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("feedback", [True, False])
@pytest.mark.parametrize("columns", [96, 72])
def test_sixteen_bits_give_the_same_outputs(layer: Any, solved: Any, moment_of: Any, columns: int, feedback: bool) -> None:
    weight, x = layer.weight[:, :columns], layer.fresh[:, :columns]
    found = solved(METHOD, weight, moment_of(x.T @ x / len(x)), bits=16, feedback=feedback)
    assert (x @ found.T - x @ weight.T).abs().max() < 1e-4 * (x @ weight.T).abs().max()


@pytest.mark.parametrize("group", ["channel", 32])
def test_few_huge_columns_no_longer_spoil_the_grid(solved: Any, group: Any) -> None:
    weight = torch.randn(64, 128)
    weight[:, [5, 40, 77]] *= 20
    ours = lost(solved(METHOD, weight, None, bits=4, group=group, feedback=False), weight)
    assert ours < 0.5 * lost(solved(rtn.METHOD, weight, None, bits=4, group=group), weight)


def test_loses_where_weights_fill_their_range_evenly(solved: Any) -> None:
    weight = torch.rand(64, 128) * 2 - 1
    ours = lost(solved(METHOD, weight, None, bits=4, feedback=False), weight)
    assert ours > 1.5 * lost(solved(rtn.METHOD, weight, None, bits=4), weight)


@pytest.mark.parametrize("bits", [3, 4])
def test_with_feedback_beats_gptq_on_fresh_inputs(layer: Any, solved: Any, bits: int) -> None:
    ours = layer.error(solved(METHOD, layer.weight, layer.moment, bits=bits))
    assert ours < 0.5 * layer.error(solved(gptq.METHOD, layer.weight, layer.moment, bits=bits))
    assert ours < layer.error(solved(METHOD, layer.weight, layer.moment, bits=bits, feedback=False))


def test_signs_follow_from_name_and_seed(solve: Any, layer: Any) -> None:
    assert torch.equal(draw_signs(place(96), 0), draw_signs(place(96), 0))
    assert not torch.equal(draw_signs(place(96), 0), draw_signs(place(96), 1))
    assert not torch.equal(draw_signs(place(96), 0), draw_signs(place(96, name="text.1.down"), 0))
    first, again = (solve(METHOD, layer.weight, layer.moment).treatments["layer"].tensors for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("kind", ["embedding", "conv"])
def test_without_feedback_any_weight_can_be_rotated(solve: Any, kind: Any) -> None:
    """Rows of an embedding are decoded one by one; a grouped convolution has no single moment."""
    at, config = place(24, kind, groups=4 if kind == "conv" else 1), build_config(RotatedConfig, {"feedback": False}, "r")
    assert METHOD.refuse(at, config) is None and METHOD.wants(at, config) is None
    assert METHOD.refuse(at, RotatedConfig()) is not None
    assert METHOD.solve is not None
    (treatment,) = METHOD.solve(at, {"layer.weight": torch.randn(64, 24)}, None, config).treatments.values()
    store = CodedWeight(treatment.kind, treatment.options, treatment.tensors)
    assert torch.allclose(store.decode_rows(torch.tensor([7, 3])), store()[[7, 3]], atol=1e-6)
    held = sum(t.numel() * t.element_size() for t in treatment.tensors.values())
    (after,) = forecast(at, config)
    assert held == after.stored_bytes and treatment.tensors["signs"].shape == (1, 3)


@pytest.mark.parametrize(("columns", "refused"), [(147, True), (12, True), (4, True), (8, False), (576, False)])
def test_refuses_widths_without_a_block(columns: int, refused: bool) -> None:
    reason = METHOD.refuse(place(columns), RotatedConfig())
    assert ("cannot be rotated" in reason) if refused and reason else not refused
