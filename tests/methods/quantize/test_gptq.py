"""GPTQ: the example by hand, its gain over rounding, and the gain that theory predicts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trimodal.core import Change, Place, Site, Treatment
from trimodal.layers import CodedWeight
from trimodal.maths.cholesky import inverse_root
from trimodal.maths.error import quadratic_form
from trimodal.maths.grid import Grid, expand_groups, fit_grid
from trimodal.methods.options import build_config
from trimodal.methods.quantize import rtn
from trimodal.methods.quantize.gptq import METHOD, round_with_feedback
from trimodal.statistics import GroupedMoment, Moment


@pytest.mark.parametrize(("row", "expected", "error", "rounded"), [
    ([0.7, 0.4], [0.5, 0.5], 0.06, 0.06),
    ([0.7, 0.2], [0.5, 0.5], 0.14, 0.24),
])  # fmt: skip
def test_worked_example(row: list[float], expected: list[float], error: float, rounded: float) -> None:
    weight, moment = torch.tensor([row]), torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    root, _ = inverse_root(moment, 0.0, tokens=100)
    levels = Grid(torch.full((1, 1), 0.5).half(), 0, torch.zeros(1, 1, dtype=torch.uint8), 4, 2, 2)
    found = levels.decode(round_with_feedback(weight, root.float(), levels, torch.arange(2))[0])
    assert found[0].tolist() == expected and torch.equal(weight, torch.tensor([row]))
    assert quadratic_form(weight - found, moment) == pytest.approx(error, abs=1e-6)
    assert quadratic_form(weight - torch.round(weight / 0.5) * 0.5, moment) == pytest.approx(rounded, abs=1e-6)


@pytest.mark.parametrize(("bits", "margin"), [(4, 0.75), (3, 0.75)])
def test_beats_rounding_on_fresh_inputs(layer: Any, solved: Any, bits: int, margin: float) -> None:
    """Measured in the research notes at 256 inputs: 0.37 of the error of rounding, both with a fitted range."""
    ours = layer.error(solved(METHOD, layer.weight, layer.moment, bits=bits))
    assert ours < margin * layer.error(solved(rtn.METHOD, layer.weight, None, bits=bits))


@pytest.mark.parametrize("options", [{"group": 16}, {"grid": "asymmetric"}, {"activation_order": False}, {"clip": "max"}])
def test_beats_rounding_on_every_grid(layer: Any, solved: Any, options: dict[str, Any]) -> None:
    plain = {name: value for name, value in options.items() if name != "activation_order"}
    ours = layer.error(solved(METHOD, layer.weight, layer.moment, bits=3, **options))
    assert ours < 0.9 * layer.error(solved(rtn.METHOD, layer.weight, None, bits=3, **plain))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("bits", [4, 6])
def test_gain_is_the_one_that_theory_predicts(large_layer: Any, solved: Any, bits: int, ordered: bool) -> None:
    """Both rounding errors are uniform: tr(Δ C Δᵀ) is s²/12 · tr C for rounding, s²/12 · Σ U_ii⁻² with feedback.

    U is the factor of C⁻¹ itself; a factor 2 on C (H = 2C) would cancel.
    """
    how: dict[str, Any] = {"bits": bits, "clip": "max"}
    moment = large_layer.moment.second
    order = torch.sort(moment.diagonal(), descending=True).indices if ordered else torch.arange(len(moment))
    root, _ = inverse_root(moment[order][:, order], 1e-6, large_layer.moment.tokens)
    predicted = float(root.diagonal().pow(-2).sum() / moment.double().trace())
    ours = solved(METHOD, large_layer.weight, large_layer.moment, damping=1e-6, activation_order=ordered, **how)
    rounded = solved(rtn.METHOD, large_layer.weight, None, **how)
    measured = quadratic_form(large_layer.weight - ours, moment) / quadratic_form(large_layer.weight - rounded, moment)
    assert 0.95 * predicted <= measured <= 1.15 * predicted


def test_uncorrelated_inputs_leave_nothing_to_make_up(layer: Any, solved: Any, moment_of: Any) -> None:
    moment = moment_of(torch.diag(torch.linspace(0.1, 5.0, 96)))
    ours = solved(METHOD, layer.weight, moment, bits=3)
    assert torch.equal(ours, solved(rtn.METHOD, layer.weight, None, bits=3))


def test_blocks_of_columns_do_not_change_the_result() -> None:
    torch.manual_seed(1)
    x = torch.randn(600, 300) @ torch.randn(300, 300)
    weight, root = torch.randn(4, 300), inverse_root(x.T @ x / 600, 0.01, 600)[0].float()
    grid = fit_grid(weight, 4, "channel")
    scale, zero = (expand_groups(part, grid.group, 300) for part in (grid.float_scales(), grid.float_zeros()))
    w, codes = weight.clone(), torch.empty_like(weight)
    for i in range(300):  # the algorithm as it is written down, without blocks
        codes[:, i] = (torch.round(w[:, i] / scale[:, i]) + zero[:, i]).clamp(0, 15)
        error = (w[:, i] - (codes[:, i] - zero[:, i]) * scale[:, i]) / root[i, i]
        w[:, i:] -= error[:, None] * root[i, i:]
    found, _ = round_with_feedback(weight, root, grid, torch.arange(300))
    assert (found != codes.to(torch.uint8)).float().mean() < 0.01


def test_weights_that_are_zero_stay_zero(layer: Any, solved: Any) -> None:
    weight = layer.weight * (torch.rand(64, 96) < 0.5)
    assert not solved(METHOD, weight, layer.moment, bits=4)[weight == 0].any()


def test_columns_whose_input_never_fires_are_rounded_to_the_nearest(layer: Any, solved: Any, moment_of: Any) -> None:
    second = layer.moment.second.clone()
    second[7], second[:, 7] = 0.0, 0.0
    found = solved(METHOD, layer.weight, moment_of(second), bits=4)
    nearest = solved(rtn.METHOD, layer.weight, None, bits=4)
    assert found[:, 7].equal(nearest[:, 7]) and not found[:, 8].equal(nearest[:, 8])


def test_few_tokens_raise_the_damping_and_say_so(layer: Any, solve: Any, moment_of: Any) -> None:
    x = layer.fresh[:20]
    change = solve(METHOD, layer.weight, moment_of(x.T @ x / 20, tokens=20), bits=4)
    assert change.notes == ("damping raised to 0.1",)
    assert solve(METHOD, layer.weight, layer.moment, bits=4).notes == ()


def test_a_convolution_is_its_patches(layer: Any, solved: Any) -> None:
    kernel = layer.weight.view(64, 24, 2, 2)
    assert torch.equal(
        solved(METHOD, kernel, layer.moment, bits=4).flatten(1), solved(METHOD, layer.weight, layer.moment, bits=4)
    )


EVERY_GRID: list[dict[str, Any]] = [
    {"grid": "positive"}, {"grid": "symmetric"}, {"grid": "asymmetric"}, {"grid": "nf"}, {"grid": "fp"}, {"grid": "pot"}, {"grid": "log"},
    {"grid": "kmeans"}, {"grid": "kmeans", "group": 48}, {"grid": "nf", "group": 16}, {"grid": "asymmetric", "group": "tensor"},
]  # fmt: skip


@pytest.mark.parametrize("options", EVERY_GRID, ids=str)
@pytest.mark.parametrize("bits", [3, 4])
def test_beats_the_nearest_on_the_same_grid(layer: Any, solved: Any, bits: int, options: dict[str, Any]) -> None:
    """Both are given the moment, so that both have the very same numbers to choose from."""
    ours, nearest = (
        layer.error(solved(method, layer.weight, layer.moment, bits=bits, **options)) for method in (METHOD, rtn.METHOD)
    )
    assert ours < 0.9 * nearest


@pytest.mark.parametrize("grid", ["positive", "symmetric", "asymmetric"])
def test_sixteen_bits_beat_the_nearest_too(layer: Any, solved: Any, grid: str) -> None:
    ours, nearest = (
        layer.error(solved(method, layer.weight, layer.moment, bits=16, grid=grid, damping=1e-6) if method is METHOD
                    else solved(method, layer.weight, None, bits=16, grid=grid))
        for method in (METHOD, rtn.METHOD)
    )  # fmt: skip
    assert ours < nearest < 1e-7


def paired(layer: Any, noise: Tensor | float, tokens: int) -> tuple[Moment, Tensor, Tensor]:
    """The moment of perturbed inputs with the original ones, and fresh inputs of both kinds."""
    x = layer.fresh
    perturbed = x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    moment = Moment(x.shape[1])
    moment.update(perturbed[:tokens], x[:tokens])
    return moment, x[tokens:], perturbed[tokens:]


def gain(layer: Any, solved: Any, noise: Tensor | float, tokens: int, target: float) -> float:
    """Error against the original output, 4 bits: with `target` as a share of that without."""
    moment, x, perturbed = paired(layer, noise, tokens)
    wanted = x @ layer.weight.T
    found = (solved(METHOD, layer.weight, moment, bits=4, target=t) for t in (target, 0.0))
    ours, plain = (float((wanted - perturbed @ after.T).square().sum()) for after in found)
    return ours / plain


def test_target_with_unchanged_inputs_changes_nothing(layer: Any, solve: Any) -> None:
    moment, _, _ = paired(layer, 0.0, 1024)
    plain, moved = (solve(METHOD, layer.weight, moment, bits=3, target=t).treatments["layer"].tensors for t in (0.0, 1.0))
    assert moment.cross is not None and torch.equal(moment.cross, moment.second)
    assert all(torch.equal(plain[name], moved[name]) for name in plain)


def test_target_makes_up_for_perturbed_inputs(layer: Any, solved: Any) -> None:
    """Noise of a tenth of the inputs' size in every direction. Measured 0.83, 0.83, 0.85; the notes say 0.85 to 0.88."""
    assert gain(layer, solved, 0.1 * layer.fresh.square().mean().sqrt(), 1536, 1.0) < 0.95


def test_target_gains_less_on_the_layer_of_the_notes(large_layer: Any, solved: Any) -> None:
    """Measured 0.95, 0.93, 0.96: the notes' 0.85 to 0.88 was not reproduced at 256 × 256."""
    assert gain(large_layer, solved, 0.1 * large_layer.fresh.square().mean().sqrt(), 3072, 1.0) < 0.97


def test_target_has_nothing_to_win_where_noise_goes_with_the_input(layer: Any, solved: Any) -> None:
    """A tenth of every column's own size: the best linear answer is then nearly W itself."""
    assert gain(layer, solved, 0.1 * layer.fresh.square().mean(0).sqrt(), 1536, 0.5) == pytest.approx(1.0, abs=0.03)


def test_target_does_harm_with_fewer_tokens_than_columns(layer: Any, solved: Any) -> None:
    assert gain(layer, solved, 0.1 * layer.fresh.square().mean(0).sqrt(), 48, 1.0) > 1.05


def treated(known: Any, weight: Tensor, moment: Moment, bias: Tensor, options: dict[str, Any]) -> Treatment:
    """What becomes of a layer with a bias; `bias` is also the name of an option."""
    site = Site("layer", "text", 0, "down", "linear", tuple(weight.shape), bias=True)
    place, config = Place("text.0.down", (site,)), build_config(known.config, options, known.name)
    statistic = moment if known.wants(place, config) else None
    done: Change = known.solve(place, {"layer.weight": weight, "layer.bias": bias}, statistic, config)
    (after,) = known.forecast(place, config)
    treatment = done.treatments["layer"]
    held = sum(t.numel() * t.element_size() for t in treatment.tensors.values())
    assert held + bias.numel() * 4 == after.stored_bytes and after.stored == treatment.kind
    return treatment


@pytest.mark.parametrize("repair", [{"outliers": 0.01}, {"rank": 4}, {"bias": True}], ids=str)
@pytest.mark.parametrize("options", [{}, {"grid": "nf", "group": 32}, {"grid": "kmeans"}], ids=str)
def test_repairs_lower_the_error(layer: Any, options: dict[str, Any], repair: dict[str, Any]) -> None:
    mean = 0.5 * layer.fresh.square().mean(0).sqrt()
    x, bias = layer.fresh + mean, torch.randn(64)
    moment = Moment(96)
    moment.update(x)

    def error(**more: Any) -> float:
        treatment = treated(METHOD, layer.weight, moment, bias, {"bits": 3, **options, **more})
        after = CodedWeight(treatment.kind, treatment.options, treatment.tensors)()
        new = bias if treatment.bias is None else treatment.bias
        return float((x @ (layer.weight - after).T + (bias - new)).square().sum())

    assert error(**repair) < error()


REPAIRED: list[dict[str, Any]] = [
    {}, {"outliers": 0.01}, {"rank": 4}, {"bias": True}, {"outliers": 0.02, "rank": 2, "bias": True, "grid": "nf"},
    {"bits": 16}, {"bits": 16, "grid": "asymmetric"}, {"grid": "kmeans", "group": 40}, {"grid": "kmeans", "group": "tensor"},
    {"grid": "asymmetric", "group": "tensor"},
]  # fmt: skip


@pytest.mark.parametrize("known", [METHOD, rtn.METHOD], ids=lambda known: known.name)
@pytest.mark.parametrize("options", REPAIRED, ids=str)
def test_bytes_are_those_forecast(layer: Any, known: Any, options: dict[str, Any]) -> None:
    treatment = treated(known, layer.weight, layer.moment, torch.zeros(64), options)
    assert (treatment.bias is not None) == options.get("bias", False)


def test_groups_of_rows_are_rounded_each_with_its_own_moment() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(200, 6) @ torch.randn(6, 6) for _ in range(3)]
    seen = GroupedMoment(4, 6)
    for group, x in enumerate(inputs):
        seen.update_group(group, x)
    weight = torch.randn(4 * 5, 6)
    site = Site("experts", "text", 0, "experts", "experts", (20, 6), groups=4)
    config = build_config(METHOD.config, {"bits": 3, "clip": "max"}, "")
    change = METHOD.solve(Place("experts", (site,)), {"experts.weight": weight}, seen.fill_unseen(), config)  # type: ignore[misc]
    treatment = change.treatments["experts"]
    found = CodedWeight(treatment.kind, {**treatment.options, "dtype": "float32"}, treatment.tensors)()
    levels = fit_grid(weight, 3, "channel", "positive", "max")
    nearest = levels.decode(levels.encode(weight))
    assert found[15:].equal(nearest[15:])  # no token came to the last group
    for group, x in enumerate(inputs):
        rows = slice(group * 5, group * 5 + 5)
        alone = Site("one", "text", 0, "linear", "linear", (5, 6))
        moment = Moment(6)
        moment.update(x)
        other = METHOD.solve(Place("one", (alone,)), {"one.weight": weight[rows]}, moment, config).treatments["one"]  # type: ignore[misc]
        assert torch.allclose(found[rows], CodedWeight(other.kind, {**other.options, "dtype": "float32"}, other.tensors)(), atol=1e-3)
        second = moment.second
        assert quadratic_form(weight[rows] - found[rows], second) < 0.9 * quadratic_form(weight[rows] - nearest[rows], second)


@pytest.mark.parametrize("grid", ["nf", "kmeans", "asymmetric"])
@pytest.mark.parametrize("group", ["channel", 8])
def test_groups_of_rows_on_every_grid(grid: str, group: Any) -> None:
    torch.manual_seed(0)
    seen = GroupedMoment(2, 16)
    seen.update(torch.randn(100, 32))
    weight = torch.randn(6, 16)
    site = Site("conv", "image", 0, "conv", "conv", (6, 16, 1), groups=2)
    config = build_config(METHOD.config, {"bits": 4, "grid": grid, "group": group}, "")
    change = METHOD.solve(Place("conv", (site,)), {"conv.weight": weight[..., None]}, seen.fill_unseen(), config)  # type: ignore[misc]
    treatment = change.treatments["conv"]
    found = CodedWeight(treatment.kind, {**treatment.options, "dtype": "float32"}, treatment.tensors)()
    assert found.shape == (6, 16, 1) and float((found[..., 0] - weight).norm() / weight.norm()) < 0.2
