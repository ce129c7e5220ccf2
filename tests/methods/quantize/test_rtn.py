"""Rounding to nearest: the example by hand, and what it can and cannot do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimodal.methods.quantize.rtn import METHOD


def test_worked_example(solved: Any) -> None:
    weight = torch.tensor([[1.0, -0.2], [0.3, 0.5]])
    found = solved(METHOD, weight, None, bits=2, clip="max")
    assert found.tolist() == [[1.0, 0.0], [0.25, 0.5]]


def test_scale_is_rounded_before_the_codes_are_chosen(solved: Any) -> None:
    found = solved(METHOD, torch.tensor([[0.8, -0.1]]), None, bits=2, clip="max")
    assert found[0].tolist() == pytest.approx([0.79980469, 0.0], abs=1e-8)


def test_every_weight_becomes_the_nearest_number_of_its_grid(layer: Any, solve: Any, solved: Any) -> None:
    from trimodal.layers import Coded

    treatment = solve(METHOD, layer.weight, None, bits=3, group=16).treatments["layer"]
    grid, _ = Coded(treatment.kind, treatment.options, treatment.tensors).levels_and_codes
    found = solved(METHOD, layer.weight, None, bits=3, group=16)
    levels = torch.stack([grid.decode(torch.full(layer.weight.shape, code)) for code in range(8)])
    assert torch.allclose((levels - layer.weight).abs().amin(0), (found - layer.weight).abs(), atol=1e-6)


def test_eight_bits_lose_next_to_nothing(layer: Any, solved: Any) -> None:
    assert layer.error(solved(METHOD, layer.weight, None, bits=8)) < 2e-3


def test_more_bits_smaller_groups_and_a_fitted_range_lose_less(layer: Any, solved: Any) -> None:
    def error(**options: Any) -> float:
        found = solved(METHOD, layer.weight, None, **options)
        return float((found - layer.weight).square().mean())

    by_bits = [error(bits=bits) for bits in (2, 3, 4, 6, 8)]
    assert by_bits == sorted(by_bits, reverse=True)
    assert error(bits=4, group=16) < error(bits=4) < error(bits=4, group="tensor")
    assert error(bits=3) < 0.8 * error(bits=3, clip="max")


def test_signed_scale_beats_the_usual_symmetric_grid_at_two_bits(layer: Any, solved: Any) -> None:
    found = solved(METHOD, layer.weight, None, bits=2, group=32, clip="max")
    largest = layer.weight.view(64, -1, 32).abs().amax(-1, keepdim=True)
    usual = torch.round(layer.weight.view(64, -1, 32) / largest).clamp(-1, 1) * largest
    assert (found - layer.weight).square().sum() < (usual.view(64, -1) - layer.weight).square().sum()
