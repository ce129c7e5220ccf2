"""Sizes of gradients: what autograd says by another way, and which modality the solver then listens to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.compression.sensitivity import gradient_sizes, weight_gradients
from trimodal.core import Sample
from trimodal.loading.load import build_model
from trimodal.models.model import Model, Output
from trimodal.networks.tiny import make_miniature_batch


class Two(nn.Module):
    """Two layers in a row, so that the gradient at the first can be written down."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.second(self.first(x))
        return scores


def test_gradient_is_that_of_the_drawn_labels(tiny_model: Callable[..., Model]) -> None:
    """∂(−log p_k)/∂scores = p − e_k, and at the first layer that times the second's weight."""
    module, x = Two(), torch.randn(6, 3)
    generic = tiny_model("generic")
    family = replace(generic.family, outputs=lambda module: (Output("output", "all", "logits"),))
    from trimodal.models.generic import describe

    model = Model(module, describe(module), family, "two")
    found = gradient_sizes(model, [{"x": x}], seed=3)
    p = module(x).softmax(-1).detach()
    drawn = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(3))
    at_scores = p - nn.functional.one_hot(drawn[:, 0], 5)
    assert found["second"] == {"all": pytest.approx(float(at_scores.norm(dim=-1).mean()), rel=1e-5)}
    at_first = at_scores @ module.second.weight.detach()
    assert found["first"] == {"all": pytest.approx(float(at_first.norm(dim=-1).mean()), rel=1e-5)}
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("name", ["clip", "bert", "whisper", "llama", "llava", "clap", "resnet", "fusion"])
def test_every_family_is_reached(tiny_model: Callable[..., Model], name: str) -> None:
    model = tiny_model(name)
    found = gradient_sizes(model, [make_miniature_batch(name, 3, 1)], seed=0)
    blocks = {site.path for site in model.layout.sites if site.block is not None and site.kind == "linear"}
    assert found and len(blocks & found.keys()) >= 0.7 * len(blocks)
    assert all(size >= 0 for sizes in found.values() for size in sizes.values())


def test_modalities_are_told_apart_where_they_meet(tiny_model: Callable[..., Model]) -> None:
    found = gradient_sizes(tiny_model("llava"), [make_miniature_batch("llava", 3, 1)], seed=0)
    assert any(sizes.keys() >= {"image", "text"} for sizes in found.values())


def test_recipe_may_ask_for_it(compressed: Any) -> None:
    steps = [{"quantize.gptq": {"where": "text.0.up", "bits": 3, "clip": "max"}}]
    runs = [compressed("llava", steps, calibration={"balance": b}) for b in ("gradient", "modality", "tokens")]
    path = runs[0].plan.edits[0].places[0].paths[0]
    weights = [run.model.module.get_submodule(path).weight for run in runs]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


class Labelled(nn.Module):
    """Scores of a batch of numbers, in the form that the generic family reads."""

    outputs = (Output("output", "all", "logits", label="label"),)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.second(self.first(x))
        return scores


def test_weight_gradients_are_those_of_the_labels_sample_by_sample() -> None:
    from trimodal.models.generic import FAMILY, describe

    module = Labelled()
    model = Model(module, describe(module), FAMILY, "labelled")
    rows, classes = torch.randn(6, 3), [0, 4, 2, 2, 1, 3]
    samples = [Sample(line, label=label) for line, label in enumerate(classes, start=1)]
    examples = [(sample, {"x": row[None]}) for sample, row in zip(samples, rows, strict=True)]
    found = weight_gradients(model, examples, ["first", "second", "unused"], seed=0)
    assert not found["unused"].square.any()
    expected = []
    for row, label in zip(rows, classes, strict=True):
        loss = nn.functional.cross_entropy(module(row[None]), torch.tensor([label]))
        expected.append(torch.autograd.grad(loss, module.first.weight)[0])
    stacked = torch.stack(expected)
    assert found["first"].samples == 6
    assert torch.allclose(found["first"].mean, stacked.mean(0), atol=1e-5)
    assert torch.allclose(found["first"].square, stacked.square().mean(0), atol=1e-5)
    assert all(p.grad is None and p.requires_grad for p in module.parameters())


def test_a_model_of_one_number_has_gradients() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    net.forward = lambda x: nn.Sequential.forward(net, x)  # type: ignore[assignment]
    sizes = gradient_sizes(build_model(net, "regression"), [{"x": torch.randn(2, 4)}], seed=0)
    assert sizes and all(size > 0 for of_one in sizes.values() for size in of_one.values())
