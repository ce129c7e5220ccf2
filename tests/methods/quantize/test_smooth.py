"""SmoothQuant: by hand, what it promises over rounding both sides, and what several modalities need."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.core import Change, Place, Site
from trimodal.layers import is_weight_parametrized, remove_parametrization_, replace_weight_
from trimodal.maths.observers import grid_from_range, quantize_to_codes
from trimodal.methods.method import InputChoice
from trimodal.methods.options import build_config
from trimodal.methods.quantize import smooth
from trimodal.methods.quantize.input_ranges import MARGINS, SampledInput, measure_tails, weigh_tokens
from trimodal.statistics import ActivationSample, mix_moments


def sampled(x: Tensor) -> ActivationSample:
    sample = ActivationSample(x.shape[1])
    sample.update(x)
    return sample


def site(weight: Tensor, tower: str = "text") -> Site:
    kind: Any = "linear" if weight.dim() == 2 else "conv"
    return Site("layer", tower, 0, "down", kind, tuple(weight.shape))


def solved(weight: Tensor, parts: Mapping[str, Tensor], tower: str = "text", **options: Any) -> Change:
    """The change at one layer with the rows in `parts` by modality."""
    statistic = mix_moments({name: sampled(x) for name, x in parts.items()}, "modality")
    config = build_config(smooth.SmoothConfig, options, "quantize.smooth")
    return smooth.solve(Place("text.0.down", (site(weight, tower),)), {"layer.weight": weight}, statistic, config)


def layer_of(change: Change, old: nn.Module) -> nn.Module:
    treatment = change.treatments["layer"]
    bare = copy.deepcopy(old)
    bare.weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    return replace_weight_(bare, treatment.kind, treatment.options, treatment.tensors, None)


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    return layer


def lost(layer: nn.Module, old: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((layer(x) - old(x)).square().sum() / old(x).square().sum())


def rows(seed: int, columns: int = 64, loud: float = 30.0, scale: float = 1.0, tokens: int = 1500) -> Tensor:
    """Rows of which four columns, other ones for every seed, are `loud` times as large."""
    random = torch.Generator().manual_seed(seed)
    places = torch.randperm(columns, generator=random)[:4]
    x = torch.randn(tokens, columns, generator=random) * scale
    x[:, places] *= loud
    return x


def matrix(seed: int, rows: int = 48, columns: int = 64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_factors_by_hand() -> None:
    a, b = torch.tensor([8.0, 0.5]), torch.ones(2)
    assert smooth.compute_smoothing_factors(a, b, 0.5).tolist() == [0.5, 2.0]
    assert smooth.compute_smoothing_factors(a, b, 0.0).tolist() == [1.0, 1.0]
    assert smooth.compute_smoothing_factors(a, b, 1.0).tolist() == [0.25, 4.0]  # x·c: 2 and 2
    # Half: √(a/b). Column 1's weight is 4 times larger, which makes s there half as large.
    assert smooth.compute_smoothing_factors(a, torch.tensor([1.0, 4.0]), 0.5).tolist() == pytest.approx([2**-1.5, 2**1.5], rel=1e-3)
    assert smooth.compute_smoothing_factors(torch.tensor([3.0, 0.0]), torch.ones(2), 1.0).tolist() == [1.0, 1.0]  # never fires
    assert smooth.compute_smoothing_factors(torch.tensor([1.0, 64.0, 1.0, 1.0]), torch.ones(4), 1.0, 2).tolist() == [0.125, 0.125, 8, 8]


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_float_result_is_unchanged_by_smoothing(strength: float) -> None:
    weight, x = matrix(0), rows(1)
    c = smooth.compute_smoothing_factors(x.abs().amax(0), weight.abs().amax(0), strength).float()
    assert torch.allclose((x * c) @ (weight / c).T, x @ weight.T, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("mode", ["static", "token"])
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_layer_computes_what_an_int8_runtime_does(mode: str, strength: float) -> None:
    """Integers times integers in int64, scaled at the end, against the float layer that hosts the store."""
    weight, x = matrix(0), rows(1)
    change = solved(weight, {"text": x}, mode=mode, strength=strength)
    treatment = change.treatments["layer"]
    layer = layer_of(change, linear(weight))
    levels, codes = layer.stored.levels_and_codes  # type: ignore[union-attr]
    c = treatment.tensors["columns"].float() if strength else torch.ones(1, 64)
    if mode == "static":
        scale, zero = treatment.tensors["input_scale"], treatment.tensors["input_zero"].float()
    else:
        scale, zero = grid_from_range((x * c).amin(1, keepdim=True), (x * c).amax(1, keepdim=True), 8)
    inputs = (quantize_to_codes(x * c, scale, zero, 8) - zero).long()
    assert int(inputs.abs().max()) <= 255
    whole = inputs @ (codes.long() - 128).T
    exact = whole.double() * scale.double() * levels.float_scales().double().T
    with torch.no_grad():
        found = layer(x).double()
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-6
    if change.error is None:  # a range per token and no smoothing: nothing was asked of the data
        assert (mode, strength) == ("token", 0.0)
    else:
        assert change.error["text"] == pytest.approx(lost(layer, linear(weight), x), rel=1e-3)


def test_both_forms_of_the_input_agree() -> None:
    """quantize(x·c)/c times Ŵ·c, which the layer computes, is quantize(x·c) times Ŵ, which a runtime does."""
    weight, x = matrix(0), rows(1)
    layer = layer_of(solved(weight, {"text": x}, strength=0.7, mode="static"), linear(weight))
    c = layer.stored.columns.float()  # type: ignore[union-attr, operator]
    seen, decoded = layer.stored.fake_quantize_input(x), layer.weight  # type: ignore[union-attr, operator]
    one, other = seen @ decoded.T, (seen * c) @ (decoded / c).T  # type: ignore[operator]
    assert float((one - other).abs().max() / other.abs().max()) < 1e-5
    assert len((seen * c)[:, :].mul(1 / layer.stored.input_scale).round().unique()) <= 256  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("observer", ["minmax", "mse"])
def test_smoothing_beats_rounding_both_sides(seed: int, observer: str) -> None:
    """The paper's claim, on fresh rows: with loud columns the static error falls several times."""
    weight, x, fresh = matrix(seed), rows(10 + seed), rows(10 + seed, tokens=4000)[1500:]
    old = linear(weight)
    errors = {
        strength: lost(layer_of(solved(weight, {"text": x}, strength=strength, observer=observer), old), old, fresh)
        for strength in (0.0, 0.5, "search")
    }
    assert errors[0.5] < 0.6 * errors[0.0]
    assert errors["search"] < 1.3 * errors[0.5]  # chosen on 512 other rows


def test_search_tries_none_and_both_ways_to_weigh_modalities() -> None:
    weight, parts = matrix(0), {"image": rows(1, scale=10.0), "text": rows(2)}
    layers = SampledInput.of([weight], parts, {"image": 0.5, "text": 0.5})
    largest, middle = measure_tails(parts, layers.shares)
    a, b = (x.pow(8).mean(0).pow(1 / 8) for x in parts.values())
    assert torch.allclose(largest, torch.maximum(a, b), rtol=1e-4) and torch.allclose(middle, (a * b).sqrt(), rtol=1e-4)
    config = build_config(smooth.SmoothConfig, {}, "")
    tried = {mode: smooth.search_smoothing(layers, config, mode) for mode in ("static", "token", "float")}
    strengths = [(0.0, 0), *product((0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), (0, 1))]
    assert sorted((c.strength, c.tail, c.margin) for c in tried["static"]) == sorted((*pair, m) for pair in strengths for m in MARGINS)
    assert sorted((c.strength, c.tail) for c in tried["token"]) == sorted(strengths) and len(tried["float"]) == 1
    none = min(c.error for c in tried["static"] if c.strength == 0)
    assert min(c.error for c in tried["static"]) < 0.5 * none
    assert tried["float"][0].error < min(c.error for c in tried["token"] if c.strength == 0)


def test_a_range_is_judged_by_rows_that_did_not_choose_it() -> None:
    """Columns of which single rows stand out, others for each row: what holds 300 rows does not hold the next 3,000."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(3300, 64, generator=random) * torch.rand(3300, 64, generator=random).pow(-0.5).clamp(max=40)
    old, few, fresh = linear(matrix(0)), x[:300], x[300:]
    searched, even = (lost(layer_of(solved(matrix(0), {"text": few}, strength=t), old), old, fresh) for t in ("search", 1.0))
    assert searched < 0.7 * even


def test_bias_correction_takes_the_mean_away_and_never_makes_it_worse() -> None:
    """Inputs of one sign, and few bits: what rounding the weights loses has a mean."""
    weight, x = matrix(0), rows(1, loud=3.0).abs()
    fresh, old = rows(1, loud=3.0, tokens=4000).abs()[1500:], linear(weight)
    old.bias = nn.Parameter(torch.zeros(48))
    place = Place("text.0.down", (replace(site(weight), bias=True),))
    weights, lost_mean, errors = {"layer.weight": weight, "layer.bias": torch.zeros(48)}, {}, {}
    for wanted in (False, True):
        config = build_config(smooth.SmoothConfig, {"bits": 4, "bias_correction": wanted, "strength": 0.5}, "")
        change = smooth.solve(place, weights, mix_moments({"text": sampled(x)}, "modality"), config)
        treatment = change.treatments["layer"]
        assert (treatment.bias is not None) == wanted
        layer = replace_weight_(copy.deepcopy(old), treatment.kind, treatment.options, treatment.tensors, treatment.bias)
        with torch.no_grad():
            lost_mean[wanted] = float((layer(fresh) - old(fresh)).mean(0).square().sum())
        errors[wanted] = change.error["text"]  # type: ignore[index]
        assert errors[wanted] == pytest.approx(lost(layer, old, x), rel=1e-3)
    assert lost_mean[True] < 0.05 * lost_mean[False] and errors[True] < errors[False]
    assert solved(weight, {"text": x}).treatments["layer"].bias is None  # a layer without a bias gets none


def test_loud_tokens_do_not_decide_alone() -> None:
    """One token in twenty has a hundred times the output of the others: it counts as one of the others does."""
    sizes = torch.ones(100)
    sizes[::20] = 1e4
    weights = weigh_tokens([sizes])
    assert torch.allclose(weights * sizes, torch.full((100,), float(weights[1]))) and float(weights.mean()) == pytest.approx(1)
    assert torch.equal(weigh_tokens([torch.ones(7)]), torch.ones(7)) and torch.equal(weigh_tokens([torch.zeros(7)]), torch.ones(7))
    quiet = weigh_tokens([torch.tensor([1.0, 1.0, 1.0, 1e-6])])
    assert torch.equal(quiet, torch.ones(4)), "one that hardly gives anything counts no more than the rest"


@pytest.mark.parametrize(("tolerance", "loud", "mode"), [(8.0, 2.0, "static"), (8.0, 2000.0, "token"), (1.0, 2000.0, "float")])
def test_mode_is_chosen_by_error(tolerance: float, loud: float, mode: str) -> None:
    """Tokens of which few are very loud: no range beforehand holds all; and where hardly any error is allowed, no range does."""
    weight, x = matrix(0), rows(1, loud=1.0)
    x[::50] *= loud
    change = solved(weight, {"text": x}, mode="choose", tolerance=tolerance)
    treatment = change.treatments["layer"]
    assert change.settled["mode"] == mode
    assert treatment.options.get("inputs") == (None if mode == "float" else {"bits": 8, "mode": mode})
    assert ("input_scale" in treatment.tensors, "columns" in treatment.tensors) == (mode == "static", mode != "float")
    assert lost(layer_of(change, linear(weight)), linear(weight), x) == pytest.approx(change.error["text"], rel=1e-2)  # type: ignore[index]


def test_layers_with_one_input_are_chosen_for_together() -> None:
    """Two weights of which each needs another factor: one for both, no worse for either than the other's own."""
    one, two, x = matrix(0), matrix(1), rows(1)
    statistic = mix_moments({"text": sampled(x)}, "modality")
    config = build_config(smooth.SmoothConfig, {}, "")
    sites = [replace(site(weight), path=path) for path, weight in (("one", one), ("two", two))]
    group = [(Place(s.path, (s,)), {f"{s.path}.weight": w}) for s, w in zip(sites, (one, two), strict=True)]
    choice = smooth.choose_input(group, statistic, config, None)
    assert choice.config.mode == "static" and choice.factor is None
    for place, weights in group:
        change = smooth.solve(place, {**weights, **choice.tensors}, statistic, choice.config)
        stored = change.treatments[place.name].tensors
        assert torch.equal(stored["input_scale"][0, 0], choice.tensors["input.scale"])
        assert torch.equal(stored["columns"][0].float(), choice.tensors["input.factor"])
        assert change.error["text"] < 3e-4  # type: ignore[index]
    folded = smooth.choose_input(group, statistic, replace(config, fold_factors="auto"), torch.arange(64) // 2)
    assert folded.config.fold_factors == "folded" and folded.factor is not None
    assert torch.equal(folded.factor[::2], folded.factor[1::2]) and bool((folded.tensors["input.factor"] == 1).all())
    assert smooth.forecast(group[0][0], folded.config)[0].stored_bytes == smooth.forecast(group[0][0], config)[0].stored_bytes - 128


def choose(weight: Tensor, x: Tensor, ties: Tensor | None = None, **options: Any) -> InputChoice:
    config = build_config(smooth.SmoothConfig, {"mode": "static", **options}, "quantize.smooth")
    statistic = mix_moments({"image": sampled(x)}, "modality")
    return smooth.choose_input([(Place("image.0.1.conv", (site(weight, "image"),)), {"layer.weight": weight})], statistic, config, ties)


@pytest.mark.parametrize("strength", ["search", 0.5])
def test_a_convolution_over_images_keeps_no_factor_that_cannot_be_folded(strength: float | str) -> None:
    weight, x, columns = torch.randn(8, 16, 2, 2, generator=torch.Generator().manual_seed(0)), rows(1), torch.arange(64) // 4
    unfolded = choose(weight, x, strength=strength, fold_factors="auto")
    assert "strength 0," in unfolded.note and bool((unfolded.tensors["input.factor"] == 1).all())
    assert unfolded.config.fold_factors == "folded"  # so that none is stored
    folded, kept = choose(weight, x, columns, strength=strength, fold_factors="auto"), choose(weight, x, strength=strength)
    assert folded.factor is not None and not bool((folded.factor == 1).all())
    assert kept.factor is None and not bool((kept.tensors["input.factor"] == 1).all())
    assert choose(weight.flatten(1), x, strength=strength, fold_factors="auto").config.fold_factors == "auto"  # a linear layer keeps it


def test_ranges_of_one_map_become_the_widest() -> None:
    weight = torch.ones(2, 3, 1, 1)
    options = {"fold_factors": "auto", "observer": "minmax", "strength": 0.0}
    one, other = (choose(weight, torch.tensor(ends)[:, None].repeat(1, 3), **options) for ends in ([-1.0, 4.1], [-2.0, 3.1]))
    joined = smooth.join_inputs([one, other])
    for choice in joined:
        scale, zero = choice.tensors["input.scale"], choice.tensors["input.zero"]
        assert float(scale) == pytest.approx(6.1 / 255, rel=0.02) and float(-zero * scale) == pytest.approx(-2.0, rel=0.02)
    assert torch.equal(joined[0].tensors["input.scale"], joined[1].tensors["input.scale"])
    by_token = replace(one, tensors={"input.factor": one.tensors["input.factor"]})
    assert smooth.join_inputs([by_token, other]) == [by_token, other]


def test_feedback_beats_nearest_at_four_bits(layer: Any) -> None:
    """With GPTQ's codes on the scaled moment."""
    sample = sampled(layer.fresh[:1500])
    errors = {}
    for feedback in (False, True):
        change = solved(layer.weight, {"text": layer.fresh[:1500]}, bits=4, feedback=feedback, strength=0.5, mode="token")
        errors[feedback] = lost(layer_of(change, linear(layer.weight)), linear(layer.weight), layer.fresh[1500:])
    assert errors[True] < 0.6 * errors[False] and sample.tokens == 1500


def test_quiet_modality_is_not_abandoned() -> None:
    """Two modalities ten times apart, each loud in columns of its own, twenty tokens to one.

    A range that holds the loud one costs the quiet one most of its steps. Balance wins little of that back, since the
    range must go on holding both; a range per token all of it, without knowing which token is which. That is why `auto`
    means `token` in a fusion tower.
    """
    weight = matrix(0)
    image, text = rows(1, scale=10.0, tokens=2000), rows(2, loud=8.0, tokens=100)
    old, quiet = linear(weight), {}
    quiet["pooled"] = lost(layer_of(solved(weight, {"all": torch.cat([image, text])}, mode="static"), old), old, text)
    changes = {mode: solved(weight, {"image": image, "text": text}, mode=mode) for mode in ("static", "token")}
    for mode, change in changes.items():
        quiet[mode] = lost(layer_of(change, old), old, text)
        assert change.error is not None and change.error["text"] == pytest.approx(quiet[mode], rel=1e-3)
    assert quiet["static"] < 0.9 * quiet["pooled"]
    assert quiet["token"] < 0.02 * quiet["static"]
    assert any("smoothing by image alone would cost text" in note for note in changes["static"].notes)
    token = solved(weight, {"image": image, "text": text}, tower="fusion").treatments["layer"]
    assert token.options["inputs"] == {"bits": 8, "mode": "token"} and "input_scale" not in token.tensors
    assert solved(weight, {"text": text}).treatments["layer"].options["inputs"]["mode"] == "static"


def test_loss_of_signal_by_hand() -> None:
    # a = (4, 1): a⁻² = (1/16, 1), mean 17/32 of the largest: −2.747 dB. Alike in all columns: nothing.
    assert smooth.sqnr_loss(torch.tensor([4.0, 1.0]), torch.ones(2)) == pytest.approx(-2.747, abs=1e-3)
    assert smooth.sqnr_loss(torch.tensor([4.0, 4.0]), torch.ones(2)) == 0.0
    assert smooth.sqnr_loss(torch.zeros(2), torch.ones(2)) == 0.0


@pytest.mark.parametrize("mode", ["static", "token"])
@pytest.mark.parametrize("old", [
    nn.Conv1d(6, 8, 3, stride=2, padding=1), nn.Conv2d(6, 8, (3, 2), padding="same", dilation=2), nn.Conv2d(6, 8, 1),
], ids=["conv1d", "conv2d", "pointwise"])  # fmt: skip
def test_convolutions(old: nn.Module, mode: str) -> None:
    from trimodal.statistics import unfold_input

    x = torch.randn(4, 6, *([12] * (old.weight.dim() - 2)), generator=torch.Generator().manual_seed(0))  # type: ignore[operator]
    x[:, 2] *= 30
    patches = unfold_input(old, x).flatten(0, 1)
    change = solved(old.weight.detach(), {"image": patches}, mode=mode)  # type: ignore[operator]
    layer = layer_of(change, old)
    assert lost(layer, old, x) < 3e-4
    assert torch.allclose(layer(x)[0], layer(x[:1])[0], atol=1e-5 * float(layer(x).detach().abs().max()))
    assert change.error is not None and change.error["image"] < 3e-4
    if mode == "static":
        assert lost(layer, old, x) == pytest.approx(change.error["image"], rel=0.2)


def test_copies_exports_and_plain_layers() -> None:
    weight, x = matrix(0), rows(1)
    layer = layer_of(solved(weight, {"text": x}), linear(weight))
    expected = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    exported = torch.export.export(nn.Sequential(layer), (x[:7],)).module()
    assert torch.allclose(exported(x[:7]), expected[:7], atol=1e-6 * float(expected.abs().max()))
    decoded = layer.weight
    remove_parametrization_(layer)
    assert type(layer) is nn.Linear and not is_weight_parametrized(layer)
    assert torch.equal(layer(x), x @ decoded.T)  # type: ignore[operator]


def test_half_precision_keeps_its_type() -> None:
    weight, x = matrix(0), rows(1)
    change = solved(weight, {"text": x}, mode="static")
    layer = layer_of(change, linear(weight))
    layer.stored.dtype = torch.bfloat16  # type: ignore[union-attr]
    with torch.no_grad():
        y = layer(x.bfloat16())
    expected = x @ weight.T
    assert y.dtype == torch.bfloat16
    assert float((y.float() - expected).square().sum() / expected.square().sum()) < 1e-3


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse", "entropy"])
def test_every_observer_runs(observer: str) -> None:
    weight, x = matrix(0), rows(1, loud=4.0)
    change = solved(weight, {"text": x}, observer=observer, mode="static", strength=0.5)
    assert change.error is not None and change.error["text"] < 2e-3


def test_refuses_and_asks_for_what_it_needs() -> None:
    config = build_config(smooth.SmoothConfig, {}, "")
    place = Place("text.embedding", (Site("e", "text", None, "embedding", "embedding", (9, 4)),))
    assert "index" in (smooth.refuse(place, config) or "")
    grouped = Place("image.conv", (Site("c", "image", None, "conv", "conv", (8, 4, 3, 3), groups=2),))
    assert "rows read several inputs" in (smooth.refuse(grouped, config) or "")
    free = build_config(smooth.SmoothConfig, {"mode": "token", "strength": 0.0}, "")
    weight = matrix(0)
    assert smooth.wants(Place("x", (site(weight),)), config) == "sample"
    assert smooth.wants(Place("x", (site(weight),)), free) is None
    change = smooth.solve(Place("x", (site(weight),)), {"layer.weight": weight}, None, free)
    assert lost(layer_of(change, linear(weight)), linear(weight), rows(1, loud=1.0)) < 2e-4


@pytest.fixture
def loop(compressed: Callable[..., Any]) -> Any:
    return compressed("clip", [{"quantize.smooth": {"strength": 0.5, "clip": "max"}}])


def test_record_holds_the_error_of_both_sides(loop: Any) -> None:
    for record in loop.records:
        assert record.error and all(0 < error < 0.05 for error in record.error.values())
        assert any(note.startswith("smoothed with strength 0.5") for note in record.notes)
