"""Distillation: the loss by hand, nothing to learn from oneself, and that a damaged student recovers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from trimodal.compression.solve_context import weights_of
from trimodal.core import Place
from trimodal.data import BatchLimits, count_tokens
from trimodal.edits.apply import apply_change_
from trimodal.layers import CodedWeight, make_weight_store
from trimodal.loading.load import build_model
from trimodal.maths.packing import pack_codes
from trimodal.methods import get_method
from trimodal.methods.distill import recover
from trimodal.methods.distill.recover import METHOD, fit
from trimodal.methods.options import build_config
from trimodal.models.model import Model
from trimodal.networks.tiny import make_miniature_batch
from trimodal.training.distilling import (
    DistillationWeights,
    compute_distillation_loss,
    embedding_distance,
    feature_distance,
    number_distance,
    record_block_outputs,
    score_distance,
)

ALL = ["clip", "bert", "whisper", "llava", "fusion", "resnet", "generic"]


def test_worked_example() -> None:
    teacher, student = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3), 0.0]])
    assert float(score_distance(teacher, student, 1.0)) == pytest.approx(0.5 * math.log(4 / 3), abs=1e-6)
    # The other direction would be ¾ ln(3/2) + ¼ ln(1/2).
    assert float(score_distance(student, teacher, 1.0)) == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2))


def test_temperature_softens_and_is_made_up_for() -> None:
    teacher, student = torch.tensor([[0.0, 0.0]]), torch.tensor([[2 * math.log(3), 0.0]])
    assert float(score_distance(teacher, student, 2.0)) == pytest.approx(4 * 0.5 * math.log(4 / 3), abs=1e-6)
    teacher = torch.randn(3, 5)
    sizes = []
    for temperature in (10.0, 20.0):  # T² keeps the gradient's size where T is large
        student = torch.zeros(3, 5, requires_grad=True)
        score_distance(teacher, student, temperature).backward()
        assert student.grad is not None
        sizes.append(float(student.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


def test_classes_and_tokens_do_not_change_the_weight_of_a_row() -> None:
    teacher, student = torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    rows = [score_distance(t, s, 1.0) for t, s in zip(teacher.flatten(0, 1).split(1), student.flatten(0, 1).split(1))]
    assert float(score_distance(teacher, student, 1.0)) == pytest.approx(float(torch.stack(rows).mean()), rel=1e-5)
    wide = [torch.cat((x, torch.full((2, 3, 50), -1e4)), dim=-1) for x in (teacher, student)]
    assert torch.allclose(score_distance(*wide, 1.0), score_distance(teacher, student, 1.0))


def test_padding_does_not_count() -> None:
    teacher, student = torch.randn(2, 3, 7), torch.randn(2, 3, 7)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    for distance in (lambda t, s, m: score_distance(t, s, 1.0, m), embedding_distance):
        other = student.clone()
        other[mask == 0] = 5.0 * torch.randn(3, 7)
        assert torch.equal(distance(teacher, student, mask), distance(teacher, other, mask))
        assert not torch.equal(distance(teacher, student, None), distance(teacher, other, None))


def test_single_numbers_differ_by_size_and_not_by_sign() -> None:
    teacher = torch.tensor([[1.0], [-3.0]])
    assert float(number_distance(teacher, teacher + 1)) == pytest.approx(1 / 5)
    assert float(number_distance(teacher, 2 * teacher)) == pytest.approx(1.0)


def test_map_counts_as_one_vector() -> None:
    teacher, student = torch.randn(2, 6, 1, 1), torch.randn(2, 6, 1, 1)
    expected = 1 - nn.functional.cosine_similarity(teacher.flatten(1), student.flatten(1)).mean()
    assert float(embedding_distance(teacher, student)) == pytest.approx(float(expected))


def test_feature_distance_is_relative() -> None:
    teacher, student = torch.randn(4, 3), torch.randn(4, 3)
    expected = float((teacher - student).square().sum() / teacher.square().sum())
    assert float(feature_distance(teacher, student)) == pytest.approx(expected)
    assert float(feature_distance(100 * teacher, 100 * student)) == pytest.approx(expected, rel=1e-5)
    assert float(feature_distance(torch.zeros(2), torch.zeros(2))) == 0.0


def test_feature_distance_leaves_padding_out() -> None:
    teacher, student = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    real = torch.tensor([[True, True, False], [True, False, False]])
    spoilt = student + 100 * (~real)[..., None]
    assert torch.equal(feature_distance(teacher, spoilt, real), feature_distance(teacher, student, real))
    assert float(feature_distance(teacher, spoilt)) > 100


@pytest.mark.parametrize("name", ALL)
def test_student_that_is_the_teacher_has_nothing_to_learn(tiny_model: Callable[..., Model], name: str) -> None:
    teacher, student, batch = tiny_model(name), tiny_model(name), make_miniature_batch(name, 3)
    with record_block_outputs(teacher) as expected, record_block_outputs(student) as found:
        with torch.no_grad():
            teaching = teacher.module(**batch)
        outputs = teacher.family.outputs(teacher.module)
        parts = compute_distillation_loss(outputs, batch, (teaching, expected), (student.module(**batch), found), DistillationWeights())
    assert set(parts) >= {"loss", "features"} and len(parts) >= 3
    assert float(parts["loss"].detach()) == pytest.approx(0.0, abs=1e-5)
    parts["loss"].backward()
    gradients = [p.grad for p in student.module.parameters() if p.grad is not None]
    assert max(float(g.abs().max()) for g in gradients) < 1e-4


@pytest.mark.parametrize("name", ["clip", "fusion", "generic"])
def test_damaged_student_recovers(tiny_model: Callable[..., Model], name: str) -> None:
    teacher, student = tiny_model(name), tiny_model(name)
    with torch.no_grad():
        for parameter in student.module.parameters():
            parameter.mul_(1 + 0.2 * torch.randn_like(parameter))
    before = {key: value.clone() for key, value in teacher.module.state_dict().items()}
    batches = [make_miniature_batch(name, 8, seed) for seed in (0, 1)]
    config = build_config(METHOD.config, {"steps": 12, "learning_rate": 5e-3}, "here")
    records = list(fit(student, teacher, lambda size: batches, config, seed=0))
    assert [record.step for record in records] == list(range(1, 13))
    assert records[-1].losses["loss"] < 0.9 * records[0].losses["loss"]
    assert all(torch.equal(value, before[key]) for key, value in teacher.module.state_dict().items())


@pytest.mark.parametrize("name", ["bert", "whisper", "fusion"])
def test_a_batch_of_too_many_tokens_is_trained_on_in_parts(
    tiny_model: Callable[..., Model], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_miniature_batch(name, 8)
    config = build_config(METHOD.config, {"steps": 1, "learning_rate": 1e-3, "batch": 8}, "here")
    losses, sizes = [], []
    for tokens in (8192, 3 * count_tokens(tiny_model(name), batch)):
        teacher, student = tiny_model(name), tiny_model(name)
        with torch.no_grad():
            for parameter in student.module.parameters():
                parameter.mul_(1.1)
        student.module.register_forward_pre_hook(
            lambda module, args, given: sizes.append(len(next(iter(given.values())))), with_kwargs=True
        )
        monkeypatch.setattr(recover, "BatchLimits", lambda samples, tokens=tokens: BatchLimits(samples, tokens))
        (record,) = fit(student, teacher, lambda size: [batch], config, seed=0)
        losses.append(record.losses["loss"])
    assert sizes == [8, 3, 3, 2]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)  # padding, and norms of the parts, are not quite the whole's


def test_block_that_a_batch_does_not_reach_is_left_out(tiny_model: Callable[..., Model]) -> None:
    """The second batch holds no image: the states of the first one must not be compared again."""

    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vision, self.text = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))

        def forward(self, image: torch.Tensor | None = None, text: torch.Tensor | None = None) -> torch.Tensor:
            found: torch.Tensor = self.text(text) if image is None else self.vision(image)
            return found

    teacher, student = build_model(Either(), "either"), build_model(Either(), "either")
    batches: list[Any] = [{"image": torch.randn(2, 4)}, {"text": torch.randn(2, 4)}]
    config = build_config(METHOD.config, {"steps": 6}, "here")
    assert len(list(fit(student, teacher, lambda size: batches, config, seed=0))) == 6


def _carried_out(steps: list[Any]) -> tuple[Model, Model]:
    """The miniature after `steps`, and as it was."""
    torch.manual_seed(0)
    model, original = (build_model(nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 4)), "plain") for _ in "ab")
    original.module.load_state_dict(model.module.state_dict())
    for name, options in steps:
        used = get_method(name)
        assert used.solve is not None
        config = build_config(used.config, options, name)
        for site in model.layout.sites:
            place = Place(site.name, (site,))
            apply_change_(model, place, used.solve(place, weights_of(model, place), None, config), used.forecast(place, config))
    return model, original


def _recovered(model: Model, original: Model, steps: int = 60) -> list[float]:
    x = torch.randn(256, 12, generator=torch.Generator().manual_seed(3))
    config = build_config(METHOD.config, {"steps": steps, "learning_rate": 3e-3}, "here")
    found = fit(model, original, lambda size: [{"input": part} for part in x.split(64)], config, seed=0)
    return [record.losses["loss"] for record in found]


def test_kept_weights_of_a_pruned_site_train_and_its_mask_holds() -> None:
    model, original = _carried_out([("prune.magnitude", {"sparsity": 0.5})])
    layers = [layer for layer in model.module if isinstance(layer, nn.Linear)]
    before = [layer.weight.detach().clone() for layer in layers]
    losses = _recovered(model, original)
    assert losses[-1] < 0.5 * losses[0]
    for layer, old in zip(layers, before, strict=True):
        assert torch.equal(layer.weight != 0, old != 0) and not torch.equal(layer.weight, old)


@pytest.mark.parametrize("pruned", [True, False])
@pytest.mark.parametrize("group", ["tensor", "channel"])
def test_levels_of_a_codebook_train_and_are_what_is_stored(pruned: bool, group: str) -> None:
    prune = [("prune.magnitude", {"sparsity": 0.5})] if pruned else []
    model, original = _carried_out([*prune, ("quantize.rtn", {"bits": 2, "grid": "kmeans", "group": group})])
    layer: Any = model.module[0]  # type: ignore[index]
    before = {name: value.clone() for name, value in layer.stored.state_dict().items()}
    options, kept = dict(layer.stored.options), layer.weight != 0
    losses = _recovered(model, original)
    assert losses[-1] < 0.9 * losses[0]
    after = layer.stored.state_dict()
    assert after.keys() == before.keys() and after["levels"].dtype == torch.float16
    assert not torch.equal(after["levels"], before["levels"])
    assert all(torch.equal(after[name], before[name]) for name in after if name != "levels")
    assert layer.stored.options == options and not any(name == "levels" for name, _ in layer.stored.named_parameters())
    assert torch.equal(layer.weight, make_weight_store("codebook", options, after)())
    if pruned:
        assert not layer.weight[~kept].any()


def test_a_level_moves_by_the_sum_of_its_weights_gradients() -> None:
    """By hand: codes (0, 1, 0, 1), levels (1, 3), loss Σ i·w_i: the gradients are 0 + 2 and 1 + 3."""
    book = make_weight_store("codebook", {"shape": [1, 4], "dtype": "float32", "bits": 1, "group": 4, "exponent": 1,
                              "tables": "tensor", "scaled": False},
                 {"codes": pack_codes(torch.tensor([[0, 1, 0, 1]]), 1), "levels": torch.tensor([[0.5, 1.5]]).half()})  # fmt: skip
    assert isinstance(book, CodedWeight)
    book.unfreeze_levels_()
    (book() * torch.arange(4.0)).sum().backward()
    (levels,) = book.parameters()
    assert levels.tolist() == [[1.0, 3.0]] and levels.grad is not None and levels.grad.tolist() == [[2.0, 4.0]]
    book.freeze_levels_()
    assert book.levels.tolist() == [[0.5, 1.5]] and book.options["exponent"] == 1
    assert book().tolist() == [[1.0, 3.0, 1.0, 3.0]]


def test_a_level_at_zero_stays_there() -> None:
    """A plain weight full of zeros has a level for them."""
    model, original = _carried_out([])
    with torch.no_grad():
        model.module[0].weight.mul_(model.module[0].weight.abs() > 0.1)  # type: ignore[index, operator]
    used = get_method("quantize.rtn")
    assert used.solve is not None
    config = build_config(used.config, {"bits": 3, "grid": "kmeans", "group": "tensor"}, "rtn")
    place = Place("first", (model.layout.sites[0],))
    apply_change_(model, place, used.solve(place, weights_of(model, place), None, config), used.forecast(place, config))
    zero = model.module[0].weight == 0  # type: ignore[index, operator]
    assert 0.2 < float(zero.float().mean()) < 0.6
    _recovered(model, original, steps=5)
    assert not model.module[0].weight[zero].any()  # type: ignore[index, operator]
