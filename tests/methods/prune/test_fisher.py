"""Block Fisher: the example by hand, what the masks' gradients are, and that units which make up for each other are found."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trimodal.compression.sensitivity import mask_gradients
from trimodal.core import Axis, Place, Sample, Site
from trimodal.formats.reload_check import collect_outputs
from trimodal.methods.prune.fisher import rearrange_kept_units
from trimodal.methods.prune.structured import CHANNELS, NEURONS, StructuredConfig
from trimodal.models.model import Model, Output
from trimodal.networks.tiny import make_miniature_batch
from trimodal.statistics import MaskGradient


def fisher_of(*gradients: Any) -> MaskGradient:
    found = MaskGradient(len(gradients[0]))
    for gradient in gradients:
        found.update(torch.as_tensor(gradient, dtype=torch.float64))
    return found


def loss(fisher: Tensor, kept: list[int]) -> float:
    gone = [unit for unit in range(len(fisher)) if unit not in kept]
    return float(fisher[gone][:, gone].sum()) / 2


def place_of(weight: Tensor, units: int) -> Place:
    label = "text.0.neurons"
    axis = Axis(label, units, weight.shape[1] // units)
    return Place(label, (Site("down", "text", 0, "down", "linear", tuple(weight.shape), input_axis=axis),), label)


def test_worked_example() -> None:
    fisher = fisher_of((2, -2, 1), (0, 0, 1)).square
    assert fisher.tolist() == [[2.0, -2.0, 1.0], [-2.0, 2.0, -1.0], [1.0, -1.0, 1.0]]
    assert loss(fisher, [1]) == 2.5
    assert rearrange_kept_units(fisher, keep=1) == [2]
    assert loss(fisher, [2]) == 0.0


def test_two_units_that_cancel_go_together() -> None:
    """Off the diagonal, −0.9 for the first two: each alone costs more than the third, both together less."""
    fisher = torch.tensor([[1.0, -0.9, 0.0, 0.0], [-0.9, 1.0, 0.0, 0.0], [0.0, 0.0, 0.8, 0.0], [0.0, 0.0, 0.0, 5.0]])
    assert rearrange_kept_units(fisher, keep=2) == [2, 3]
    assert rearrange_kept_units(torch.diag(fisher.diagonal()), keep=2) == [0, 3]
    assert rearrange_kept_units(fisher, keep=3) == [0, 1, 3]


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(2, 7), st.data())
def test_never_worse_than_the_diagonal_alone(seed: int, units: int, data: Any) -> None:
    random = torch.Generator().manual_seed(seed)
    g = torch.randn(5, units, generator=random, dtype=torch.float64)
    fisher, keep = g.T @ g / 5, data.draw(st.integers(1, units))
    kept = rearrange_kept_units(fisher, keep)
    assert len(kept) == keep and kept == sorted(set(kept))
    diagonal = sorted(torch.sort(fisher.diagonal(), stable=True).indices[units - keep :].tolist())
    best = min(loss(fisher, list(some)) for some in combinations(range(units), keep))
    assert best - 1e-9 <= loss(fisher, kept) <= loss(fisher, diagonal) + 1e-9


def test_solve_cuts_what_the_fisher_says_and_leaves_the_consumer_alone() -> None:
    weight = torch.randn(3, 6)
    config = StructuredConfig(sparsity=2 / 3, score="fisher")
    place = place_of(weight, 3)
    assert NEURONS.wants(place, config) == "mask" and NEURONS.solve is not None and NEURONS.scores is not None
    change = NEURONS.solve(place, {"down.weight": weight}, fisher_of((2, -2, 1), (0, 0, 1)), config)
    assert change.cut is not None and change.cut.kept == (2,) and change.cut.weight is None
    found = NEURONS.scores(place, {"down.weight": weight}, fisher_of((2, -2, 1), (0, 0, 1)), config)
    assert found is not None and found.tolist() == [1.0, 1.0, 0.5]


def test_where_the_loss_says_nothing_size_decides() -> None:
    weight = torch.tensor([[1.0, 3.0, 2.0]])
    assert NEURONS.solve is not None
    change = NEURONS.solve(
        place_of(weight, 3), {"down.weight": weight}, fisher_of((0, 0, 0)), StructuredConfig(1 / 3, "fisher")
    )
    assert change.cut is not None and change.cut.kept == (1, 2)
    assert change.notes == ("chosen by magnitude: nothing says what the loss makes of it",)


class Masked(nn.Module):
    """Two layers that read the same four units through masks, which are 1."""

    outputs = (Output("output", "all", "logits", label="label"),)

    def __init__(self) -> None:
        super().__init__()
        self.up, self.left, self.right = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(4, 5)
        self.register_buffer("masks", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        units = self.up(x).tanh() * self.masks
        scores: Tensor = self.left(units) + self.right(units).relu()
        return scores


def test_gradients_of_masks_are_autograds_own() -> None:
    from trimodal.models.generic import FAMILY, describe

    module = Masked()
    model = Model(module, describe(module), FAMILY, "masked")
    rows, classes = torch.randn(6, 3), [0, 4, 2, 2, 1, 3]
    samples = [Sample(line, label=label) for line, label in enumerate(classes, start=1)]
    examples = [(sample, {"x": row[None]}) for sample, row in zip(samples, rows, strict=True)]
    each = torch.arange(4)[:, None]
    readers = {"units": {"left": each, "right": each}, "pairs": {"left": each.view(2, 2), "right": each.view(2, 2)}}
    found = mask_gradients(model, examples, readers, seed=0)
    expected = []
    for row, label in zip(rows, classes, strict=True):
        module.masks = torch.ones(4, requires_grad=True)
        value = nn.functional.cross_entropy(module(row[None]), torch.tensor([label]))
        expected.append(torch.autograd.grad(value, module.masks)[0])
    g = torch.stack(expected).double()
    assert found["units"].samples == 6
    assert torch.allclose(found["units"].square, g.T @ g / 6, atol=1e-6)
    pairs = g.view(6, 2, 2).sum(2)
    assert torch.allclose(found["pairs"].square, pairs.T @ pairs / 6, atol=1e-6)
    assert all(p.grad is None and p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(("name", "method"), [
    ("clip", "prune.neurons"), ("llama", "prune.heads"), ("resnet", CHANNELS.name), ("lstm", "prune.neurons"),
])  # fmt: skip
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_every_kind_of_unit(compressed: Any, name: str, method: str, scope: str) -> None:
    done = compressed(name, [{method: {"score": "fisher", "sparsity": 0.5, "scope": scope}}])
    assert scope == "global" or done.model.layout == done.expected
    assert not any("chosen by magnitude" in note for record in done.records for note in record.notes)
    after = collect_outputs(done.model.module, make_miniature_batch(name, 2))
    assert all(bool(value.isfinite().all()) for value in after.values() if value.is_floating_point())
