"""RIA: the share in row and column, times a power of the input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trimodal.core import Place, Site
from trimodal.errors import TrimodalError
from trimodal.maths.error import quadratic_form
from trimodal.methods.options import build_config
from trimodal.methods.prune import magnitude, wanda
from trimodal.methods.prune.ria import METHOD, choose_mask, refuse, score_weights, solve

WEIGHT = torch.tensor([[4.0, 2.0], [0.5, 1.5]])
SECOND = torch.tensor([[1.0, 0.8], [0.8, 4.0]])


def make_uneven(seed: int) -> tuple[Tensor, Tensor]:
    """A weight (32, 48) with four rows and six columns a hundredth as large as the others, and E[x²] (48,)."""
    random = torch.Generator().manual_seed(seed)
    weight, square = torch.randn(32, 48, generator=random), torch.rand(48, generator=random) + 0.5
    weight[:4] *= 0.01
    weight[:, :6] *= 0.01
    return weight, square


def emptied(mask: Tensor) -> tuple[int, int]:
    """How many rows and how many columns of `mask` (m, n) keep nothing."""
    return int((~mask).all(1).sum()), int((~mask).all(0).sum())


def test_worked_example(solved: Any, moment_of: Any) -> None:
    scores = score_weights(WEIGHT, SECOND.diagonal(), 0.5)
    assert scores.flatten().tolist() == pytest.approx([1.555556, 1.279527, 0.361111, 1.666752], abs=1e-6)
    masked = solved(METHOD, WEIGHT, moment_of(SECOND), sparsity=0.5, refit=False)
    fitted = solved(METHOD, WEIGHT, moment_of(SECOND), sparsity=0.5, damping=1e-9)
    assert masked.flatten().tolist() == pytest.approx([4.0, 0.0, 0.0, 1.5], abs=1e-6)
    assert fitted.flatten().tolist() == pytest.approx([5.6, 0.0, 0.0, 1.6], abs=1e-6)
    errors = [quadratic_form(WEIGHT - w, SECOND) for w in (masked, fitted)]
    assert errors == pytest.approx([16.25, 13.65], abs=1e-5)


@pytest.mark.parametrize("scope", ["layer", "row"])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7])
def test_beats_magnitude_where_some_inputs_are_loud(layer: Any, solved: Any, sparsity: float, scope: str) -> None:
    """Four of 96 inputs are twelve times as large; measured: less than a third of magnitude's error."""
    how: dict[str, Any] = {"sparsity": sparsity, "refit": False}
    plain = layer.error(solved(magnitude.METHOD, layer.weight, layer.moment, scope=scope, **how))
    masked = layer.error(solved(METHOD, layer.weight, layer.moment, **how))
    fitted = layer.error(solved(METHOD, layer.weight, layer.moment, sparsity=sparsity))
    assert masked < 0.5 * plain
    assert fitted < 0.8 * masked


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("power", [0.0, 0.5])
def test_no_row_and_no_column_is_emptied(seed: int, power: float) -> None:
    """Wanda ranks within rows, so that only columns can go; its scores over the layer, as ours are ranked, empty the rows too."""
    weight, square = make_uneven(seed)
    ours = choose_mask(weight, square, build_config(METHOD.config, {"sparsity": 0.5, "power": power}, "here"))
    theirs = wanda.choose_mask(weight, square, build_config(wanda.METHOD.config, {"sparsity": 0.5}, "here"))
    sizes = (weight.abs() * square.sqrt()).flatten()
    over_all = torch.zeros_like(sizes, dtype=torch.bool).index_fill(0, sizes.topk(sizes.numel() // 2).indices, True)
    assert emptied(ours) == (0, 0)
    assert emptied(theirs) == (0, 6)
    assert emptied(over_all.view_as(weight)) == (4, 6)


def test_the_layer_loses_exactly_its_share(layer: Any, solved: Any) -> None:
    found = solved(METHOD, layer.weight, layer.moment, sparsity=0.6, refit=False)
    assert int((found != 0).sum()) == layer.weight.numel() - round(0.6 * layer.weight.numel())
    equal = solved(METHOD, torch.ones(4, 96), layer.moment, sparsity=0.6, power=0.0, refit=False)
    assert int((equal != 0).sum()) == 4 * 96 - round(0.6 * 4 * 96)


@pytest.mark.parametrize("fit", [False, True])
def test_two_of_four(layer: Any, solved: Any, fit: bool) -> None:
    found = solved(METHOD, layer.weight, layer.moment, kept=2, of=4, refit=fit)
    assert bool(((found.view(64, -1, 4) != 0).sum(-1) == 2).all())
    free = solved(METHOD, layer.weight, layer.moment, sparsity=0.5, refit=fit)
    assert layer.error(free) < layer.error(found)


def test_removing_nothing_changes_nothing(layer: Any, solved: Any) -> None:
    assert torch.equal(solved(METHOD, layer.weight, layer.moment, sparsity=0.0, refit=False), layer.weight)
    fitted = solved(METHOD, layer.weight, layer.moment, sparsity=0.0)
    assert torch.allclose(fitted, layer.weight, atol=1e-5)


def test_columns_that_no_token_reached_go_first(layer: Any, solved: Any, moment_of: Any) -> None:
    second = layer.moment.second.clone()
    second[7], second[:, 7] = 0.0, 0.0
    for fit in (False, True):
        found = solved(METHOD, layer.weight, moment_of(second), sparsity=0.5, refit=fit)
        assert not found[:, 7].any() and bool(found.isfinite().all())
    whole = solved(METHOD, layer.weight, moment_of(second), sparsity=0.0)
    assert torch.allclose(whole[:, 7], layer.weight[:, 7], atol=1e-5)


def test_rows_and_columns_of_zeros_divide_nothing() -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0], [0.0, 3.0, 1.0]])
    scores = score_weights(weight, torch.ones(3), 0.5)
    assert scores.tolist() == [[0.0, 0.0, 0.0], [0.0, 1.75, 1.25]]
    assert not score_weights(torch.zeros(2, 3), torch.ones(3), 0.5).any()


def test_power_says_how_much_the_input_counts() -> None:
    square = torch.tensor([1.0, 16.0])
    plain, root, whole = (score_weights(WEIGHT, square, power) for power in (0.0, 0.5, 1.0))
    assert torch.equal(plain, score_weights(WEIGHT, torch.tensor([0.0, 9.0]), 0.0))
    assert torch.allclose(root / plain, torch.tensor([1.0, 2.0]).expand(2, 2))
    assert torch.allclose(whole / plain, torch.tensor([1.0, 4.0]).expand(2, 2))


def test_the_size_of_the_whole_does_not_count() -> None:
    weight, square = make_uneven(0)
    assert torch.allclose(score_weights(1e3 * weight, square, 0.5), score_weights(weight, square, 0.5), rtol=1e-5)


@pytest.mark.parametrize(("options", "reason"), [
    ({"kept": 2}, "kept and of must be given together"),
    ({"of": 4}, "kept and of must be given together"),
    ({"kept": 5, "of": 4}, "kept 5 is more than of 4"),
    ({"kept": 2, "of": 4, "scope": "tower"}, "kept and of say what every layer loses; nothing is left for scope: tower to choose"),
    ({"kept": 96, "of": 128}, "with so many kept in every run its 4 columns lose nothing"),
])  # fmt: skip
def test_half_a_pattern_is_refused(options: dict[str, Any], reason: str) -> None:
    place = Place("text.0.up", (Site("up", "text", 0, "up", "linear", (4, 4)),))
    assert refuse(place, build_config(METHOD.config, options, "here")) == reason


def test_without_a_statistic_it_says_so() -> None:
    place = Place("text.0.up", (Site("up", "text", 0, "up", "linear", (2, 2)),))
    with pytest.raises(TrimodalError, match=r"prune\.ria at text\.0\.up was given no statistic"):
        solve(place, {"up.weight": WEIGHT}, None, build_config(METHOD.config, {}, "here"))
