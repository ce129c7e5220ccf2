"""Pruning by gradient: the worked example, what each score means, and that it keeps the loss better than size alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.core import Place, Site
from trimodal.methods.options import build_config
from trimodal.methods.prune.gradient import METHOD, GradientConfig, score_weights
from trimodal.statistics import WeightGradient


def gradient_of(samples: Tensor) -> WeightGradient:
    """The statistic of gradients (samples, m, n)."""
    found = WeightGradient(samples.shape[1], samples.shape[2])
    for sample in samples:
        found.update(sample)
    return found


def test_worked_example() -> None:
    weight = torch.tensor([[1.0, 0.1]])
    gradient = gradient_of(torch.tensor([[[0.1, 2.0]], [[-0.1, 1.0]]]))
    assert torch.allclose(score_weights(weight, gradient, "snip"), torch.tensor([[0.0, 0.15]]), atol=1e-7)
    assert torch.allclose(score_weights(weight, gradient, "taylor"), torch.tensor([[0.1, 0.15]]))
    assert torch.allclose(score_weights(weight, gradient, "fisher"), torch.tensor([[0.005, 0.0125]]))


def test_statistic_is_the_mean_over_samples() -> None:
    samples = torch.randn(7, 3, 4)
    found = gradient_of(samples)
    assert found.samples == 7
    assert torch.allclose(found.mean, samples.mean(0), atol=1e-6)
    assert torch.allclose(found.size, samples.abs().mean(0), atol=1e-6)
    assert torch.allclose(found.square, samples.square().mean(0), atol=1e-6)


def pruned(weight: Tensor, gradient: WeightGradient, **options: Any) -> Tensor:
    site = Site("layer", "text", 0, "up", "linear", tuple(weight.shape))
    config: GradientConfig = build_config(GradientConfig, options, "prune.gradient")
    assert METHOD.solve is not None
    change = METHOD.solve(Place("text.0.up", (site,)), {"layer.weight": weight}, gradient, config)
    treatment = change.treatments["layer"]
    from trimodal.layers import make_weight_store

    found: Tensor = make_weight_store(treatment.kind, treatment.options, treatment.tensors)().detach()
    return found


@pytest.mark.parametrize("scope", ["layer", "row"])
@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 1.0])
def test_exactly_as_many_go_as_asked_for(scope: str, sparsity: float) -> None:
    weight = torch.ones(4, 8)  # all scores are equal
    gradient = gradient_of(torch.ones(1, 4, 8))
    assert int((pruned(weight, gradient, scope=scope, sparsity=sparsity) == 0).sum()) == round(32 * sparsity)


@pytest.mark.parametrize("score", ["taylor", "fisher"])
def test_keeps_the_loss_better_than_size_alone(score: str) -> None:
    """Two thirds of the outputs hardly matter to the loss; large weights are spread over all."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 32, generator=generator)
    importance = torch.where(torch.arange(48) % 3 == 0, 1.0, 0.02)
    x, targets = torch.randn(64, 32, generator=generator), torch.randint(48, (64,), generator=generator)

    def loss(w: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy((rows @ w.T) * importance, labels)

    samples = []
    for row, label in zip(x, targets, strict=True):
        w = weight.clone().requires_grad_()
        samples.append(torch.autograd.grad(loss(w, row[None], label[None]), w)[0])
    gradient = gradient_of(torch.stack(samples))
    before = loss(weight, x, targets)
    by_gradient = (loss(pruned(weight, gradient, score=score), x, targets) - before).abs()
    kept = weight.abs() >= weight.abs().flatten().median()
    by_size = (loss(weight * kept, x, targets) - before).abs()
    assert by_gradient < by_size
