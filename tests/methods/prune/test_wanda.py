"""Wanda: weight times input, and the exact refit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimodal.core import Place, Site
from trimodal.maths.error import quadratic_form
from trimodal.methods.options import build_config
from trimodal.methods.prune import magnitude
from trimodal.methods.prune.wanda import METHOD, refuse


def test_worked_example(solved: Any, moment_of: Any) -> None:
    weight, second = torch.tensor([[1.0, 0.6]]), [[1.0, 0.8], [0.8, 4.0]]
    masked = solved(METHOD, weight, moment_of(second), sparsity=0.5, refit=False)
    fitted = solved(METHOD, weight, moment_of(second), sparsity=0.5, damping=1e-9)
    assert masked[0].tolist() == pytest.approx([0.0, 0.6], abs=1e-6)
    assert fitted[0].tolist() == pytest.approx([0.0, 0.8], abs=1e-6)
    errors = [quadratic_form(weight - w, torch.tensor(second)) for w in (masked, fitted)]
    assert errors == pytest.approx([1.0, 0.84], abs=1e-6)


@pytest.mark.parametrize("sparsity", [0.5, 0.7])
def test_beats_magnitude_and_refit_beats_it_again(layer: Any, solved: Any, sparsity: float) -> None:
    """Research notes at 50 %: magnitude 0.0519, Wanda 0.0159, with refit 0.0071."""
    how: dict[str, Any] = {"sparsity": sparsity, "refit": False}
    plain = layer.error(solved(magnitude.METHOD, layer.weight, layer.moment, scope="row", **how))
    masked = layer.error(solved(METHOD, layer.weight, layer.moment, **how))
    fitted = layer.error(solved(METHOD, layer.weight, layer.moment, sparsity=sparsity))
    assert masked < 0.7 * plain
    assert fitted < 0.8 * masked


def test_every_row_loses_the_same_number(layer: Any, solved: Any) -> None:
    found = solved(METHOD, layer.weight, layer.moment, sparsity=0.6, refit=False)
    assert (found != 0).sum(1).tolist() == [96 - round(0.6 * 96)] * 64


@pytest.mark.parametrize("fit", [False, True])
def test_two_of_four(layer: Any, solved: Any, fit: bool) -> None:
    found = solved(METHOD, layer.weight, layer.moment, kept=2, of=4, refit=fit)
    assert bool(((found.view(64, -1, 4) != 0).sum(-1) == 2).all())
    free = solved(METHOD, layer.weight, layer.moment, sparsity=0.5, refit=fit)
    assert layer.error(free) < layer.error(found)


def test_inputs_of_one_size_make_it_magnitude(layer: Any, solved: Any, moment_of: Any) -> None:
    how: dict[str, Any] = {"sparsity": 0.5, "refit": False}
    ours = solved(METHOD, layer.weight, moment_of(3.0 * torch.eye(96)), **how)
    assert torch.equal(ours, solved(magnitude.METHOD, layer.weight, None, scope="row", **how))


def test_removing_nothing_changes_nothing(layer: Any, solved: Any) -> None:
    assert torch.equal(solved(METHOD, layer.weight, layer.moment, sparsity=0.0, refit=False), layer.weight)
    fitted = solved(METHOD, layer.weight, layer.moment, sparsity=0.0)
    assert torch.allclose(fitted, layer.weight, atol=1e-5)


@pytest.mark.parametrize(("options", "reason"), [
    ({"kept": 2}, "kept and of must be given together"),
    ({"of": 4}, "kept and of must be given together"),
    ({"kept": 5, "of": 4}, "kept 5 is more than of 4"),
    ({"kept": 96, "of": 128}, "with so many kept in every run its 4 columns lose nothing"),
])  # fmt: skip
def test_half_a_pattern_is_refused(options: dict[str, int], reason: str) -> None:
    place = Place("text.0.up", (Site("up", "text", 0, "up", "linear", (4, 4)),))
    assert refuse(place, build_config(METHOD.config, options, "here")) == reason


def test_an_input_counts_by_its_size_not_its_square(solved: Any, moment_of: Any) -> None:
    weight, moment = torch.tensor([[1.0, 0.4]]), moment_of(torch.diag(torch.tensor([1.0, 4.0])))
    assert solved(METHOD, weight, moment, sparsity=0.5, refit=False)[0].tolist() == [1.0, 0.0]
