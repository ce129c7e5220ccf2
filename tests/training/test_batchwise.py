"""Training on batches: it learns, repeats itself exactly, and refuses what is no number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trimodal.errors import InputError
from trimodal.training.batchwise import train_on_batches
from trimodal.training.divergence import DivergedError
from trimodal.training.settings import EngineSettings
from trimodal.training.steps import StepRecord

CHANCE = torch.Generator().manual_seed(0)
INPUTS = torch.randn(64, 4, generator=CHANCE)
TARGETS = INPUTS @ torch.randn(4, 2, generator=CHANCE)
BATCHES = [(INPUTS[start : start + 16], TARGETS[start : start + 16]) for start in range(0, 64, 16)]


def make_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 2))


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_the_loss_falls() -> None:
    records = train_on_batches(make_model(), BATCHES, squared, EngineSettings(steps=80, learning_rate=1e-2))
    assert len(records) == 80
    assert records[-1].loss < 0.3 * records[0].loss


def test_same_seed_same_weights_and_another_seed_others() -> None:
    results = []
    for seed in (1, 1, 2):
        model = make_model()
        train_on_batches(model, BATCHES, squared, EngineSettings(steps=5, seed=seed))
        results.append(weights(model))
    assert results[0].equal(results[1])
    assert not results[0].equal(results[2])


def test_batches_may_be_a_function() -> None:
    asked: list[int] = []

    def make(number: int) -> tuple[Tensor, Tensor]:
        asked.append(number)
        return BATCHES[number % len(BATCHES)]

    by_function, by_list = make_model(), make_model()
    train_on_batches(by_function, make, squared, EngineSettings(steps=6))
    train_on_batches(by_list, BATCHES, squared, EngineSettings(steps=6))
    assert asked == [0, 1, 2, 3, 4, 5]
    assert weights(by_function).equal(weights(by_list))


def test_a_batch_in_parts_equals_the_whole() -> None:
    whole, parted = make_model().eval(), make_model().eval()
    settings = EngineSettings(steps=3, frozen_noise=True)
    uneven = [slice(0, 10), slice(10, 13), slice(13, 16)]
    seen: list[int] = []

    def part(batch: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
        return [(batch[0][rows], batch[1][rows]) for rows in uneven]

    def noted(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        seen.append(len(batch[0]))
        return squared(model, batch)

    expected = train_on_batches(whole, BATCHES, squared, settings)
    found = train_on_batches(parted, BATCHES, noted, settings, part=part)
    assert seen == [10, 3, 3] * 3
    assert torch.allclose(weights(whole), weights(parted), atol=1e-6)
    assert [record.loss for record in found] == pytest.approx([record.loss for record in expected], rel=1e-5)


def test_accumulation_equals_one_large_batch() -> None:
    whole = [(INPUTS, TARGETS)]
    small, large = make_model().eval(), make_model().eval()
    for model in (small, large):
        model[2] = nn.Identity()
    train_on_batches(small, BATCHES, squared, EngineSettings(steps=3, accumulate=4, warmup=0))
    train_on_batches(large, whole, squared, EngineSettings(steps=3, warmup=0))
    assert torch.allclose(weights(small), weights(large), atol=1e-5)


def test_only_parameters_that_ask_for_it_are_trained() -> None:
    model = make_model()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    last = model[3].weight.clone()
    train_on_batches(model, BATCHES, squared, EngineSettings(steps=2))
    assert model[0].weight.equal(before)
    assert not model[3].weight.equal(last)


def test_the_named_parts_of_a_loss_are_recorded() -> None:
    def parts(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        value = squared(model, batch)
        return {"loss": 2 * value, "task": value}

    told: list[StepRecord] = []
    records = train_on_batches(make_model(), BATCHES, parts, EngineSettings(steps=2), on_step=told.append)
    assert told == records
    assert records[0].loss == pytest.approx(2 * records[0].parts["task"])


def test_the_learning_rate_warms_up_and_falls() -> None:
    records = train_on_batches(make_model(), BATCHES, squared, EngineSettings(steps=10, learning_rate=1.0, warmup=0.2))
    rates = [record.learning_rate for record in records]
    assert rates[:3] == [0.0, 0.5, 1.0]
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_the_model_is_left_without_traces_of_training() -> None:
    model = make_model().eval()
    forward = type(model).forward
    train_on_batches(model, BATCHES, squared, EngineSettings(steps=1, precision="bf16"))
    assert not model.training
    assert model.forward.__func__ is forward
    assert model(INPUTS).dtype == torch.float32
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bfloat16_learns_too() -> None:
    records = train_on_batches(make_model(), BATCHES, squared, EngineSettings(steps=60, learning_rate=1e-2, precision="bf16"))
    assert records[-1].loss < 0.5 * records[0].loss


def test_a_loss_that_is_no_number_is_refused_and_spares_the_weights() -> None:
    model = make_model()
    before = weights(model)
    with pytest.raises(DivergedError, match=r"loss is nan at step 1"):
        train_on_batches(model, BATCHES, lambda m, b: squared(m, b) * float("nan"), EngineSettings(steps=3))
    assert weights(model).equal(before)


def test_a_gradient_that_is_no_number_is_refused() -> None:
    def rooted(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]) * 0).sum().sqrt()

    with pytest.raises(DivergedError, match=r"gradient is nan at step 1"):
        train_on_batches(make_model(), BATCHES, rooted, EngineSettings(steps=3))


def test_a_spent_iterator_is_refused() -> None:
    with pytest.raises(InputError, match="ended early"):
        train_on_batches(make_model(), iter(BATCHES), squared, EngineSettings(steps=9))


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="no parameter that may be trained"):
        train_on_batches(make_model().requires_grad_(False), BATCHES, squared, EngineSettings(steps=1))


def test_a_mapping_without_loss_is_refused() -> None:
    with pytest.raises(InputError, match="'loss'"):
        train_on_batches(make_model(), BATCHES, lambda m, b: {"task": squared(m, b)}, EngineSettings(steps=1))
