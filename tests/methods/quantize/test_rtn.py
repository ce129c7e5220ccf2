"""Rounding to nearest: the example by hand, and what it can and cannot do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimodal.methods.quantize.rtn import METHOD


def test_worked_example(solved: Any) -> None:
    weight = torch.tensor([[1.0, -0.2], [0.3, 0.5]])
    found = solved(METHOD, weight, None, bits=2, clip="max", grid="symmetric")
    assert found.tolist() == [[1.0, 0.0], [0.25, 0.5]]
    assert solved(METHOD, weight, None, bits=2, clip="max").tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_scale_is_rounded_before_the_codes_are_chosen(solved: Any) -> None:
    found = solved(METHOD, torch.tensor([[0.8, -0.1]]), None, bits=2, clip="max", grid="symmetric")
    assert found[0].tolist() == pytest.approx([0.79980469, 0.0], abs=1e-8)


def test_every_weight_becomes_the_nearest_number_of_its_grid(layer: Any, solve: Any, solved: Any) -> None:
    from trimodal.layers import CodedWeight

    treatment = solve(METHOD, layer.weight, None, bits=3, group=16).treatments["layer"]
    grid, _ = CodedWeight(treatment.kind, treatment.options, treatment.tensors).levels_and_codes
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


def test_counted_kmeans_beats_plain_kmeans_and_an_even_grid(layer: Any, solved: Any, moment_of: Any) -> None:
    """Research notes, 3 bits: even with fitted range 0.0621, k-means 0.0445, counted by C_jj 0.0303."""
    alike = moment_of(torch.eye(96))
    counted, plain = (layer.error(solved(METHOD, layer.weight, m, bits=3, grid="kmeans")) for m in (layer.moment, alike))
    assert counted < 0.9 * plain
    assert plain < layer.error(solved(METHOD, layer.weight, None, bits=3))


@pytest.mark.parametrize("bits", [3, 4])
def test_kmeans_without_data_counts_every_weight_alike(layer: Any, solve: Any, bits: int) -> None:
    from trimodal.methods.quantize import gridded

    levels = [gridded.fit_levels(layer.weight, METHOD.config(bits=bits, grid="kmeans"), None) for _ in range(2)]
    assert torch.equal(levels[0].decode(levels[0].encode(layer.weight)), levels[1].decode(levels[1].encode(layer.weight)))
    even = gridded.fit_levels(layer.weight, METHOD.config(bits=bits), None)
    errors = [(g.decode(g.encode(layer.weight)) - layer.weight).square().sum() for g in (levels[0], even)]
    assert errors[0] < 0.85 * errors[1]


@pytest.mark.parametrize("grid", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("group", [16, 32, "channel"])
@pytest.mark.parametrize("bits", [3, 4])
def test_output_clip_is_no_worse_than_mse_in_its_own_blocks(
    layer: Any, solved: Any, bits: int, group: Any, grid: str
) -> None:
    """Its objective: Σ over groups of Δw C_gg Δwᵀ, each row and group for itself."""
    width = 96 if group == "channel" else group
    at = torch.arange(96) // width
    blocks = layer.moment.second * (at[:, None] == at)

    def error(clip: str) -> float:
        change = solved(METHOD, layer.weight, layer.moment, bits=bits, group=group, grid=grid, clip=clip) - layer.weight
        return float(((change @ blocks) * change).sum())

    assert error("output") <= error("mse") * 1.01  # scales are rounded to float16 after the search


@pytest.mark.parametrize("repair", [{"outliers": 0.01}, {"rank": 4}], ids=str)
def test_repairs_work_on_rounding_too(layer: Any, solved: Any, repair: dict[str, Any]) -> None:
    plain = layer.error(solved(METHOD, layer.weight, layer.moment, bits=3))
    assert layer.error(solved(METHOD, layer.weight, layer.moment, bits=3, **repair)) < 0.95 * plain
