"""Streaming equals batch, and the mix of modalities is as asked for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimodal.statistics import ActivationSample, ColumnNorm, Moment, mix_moments


def filled(x: torch.Tensor) -> Moment:
    moment = Moment(x.shape[1])
    moment.update(x)
    return moment


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(0, 20), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_parts_in_a_row_give_what_all_at_once_gives(sizes: list[int], seed: int) -> None:
    x = torch.randn(sum(sizes), 5, generator=torch.Generator().manual_seed(seed)) + 0.5
    moment, norm = Moment(5), ColumnNorm(5)
    for part in x.split(sizes):
        moment.update(part)
        norm.update(part)
    assert moment.tokens == norm.tokens == len(x)
    if len(x):
        assert torch.allclose(moment.second, x.T @ x / len(x), atol=1e-5)
        assert torch.allclose(moment.mean, x.mean(0), atol=1e-6)
        assert torch.allclose(norm.square, x.square().mean(0), atol=1e-5)
        assert torch.allclose(moment.square, norm.square, atol=1e-5)


def test_half_precision_is_accumulated_in_single() -> None:
    """300² is more than float16 holds. Single precision loses up to 1e-4 here, by the order of summation."""
    x = torch.full((4096, 2), 300.0, dtype=torch.float16)
    moment = filled(x)
    assert moment.second.dtype == torch.float32
    assert torch.allclose(moment.second, torch.full((2, 2), 9e4), rtol=1e-3)


def test_no_tokens_leave_the_start() -> None:
    moment = filled(torch.zeros(0, 3))
    assert moment.tokens == 0 and not moment.second.any()


def test_balance_by_tokens_pools_and_by_modality_weighs_alike() -> None:
    image, text = torch.randn(90, 3) * 4 + 1, torch.randn(10, 3)
    parts = {"image": filled(image), "text": filled(text)}
    pooled = torch.cat((image, text))
    by_tokens, by_modality = mix_moments(parts, "tokens"), mix_moments(parts, "modality")
    assert torch.allclose(by_tokens.second, pooled.T @ pooled / 100, atol=1e-4)
    assert torch.allclose(by_tokens.mean, pooled.mean(0), atol=1e-5)
    assert torch.allclose(by_modality.second, (image.T @ image / 90 + text.T @ text / 10) / 2, atol=1e-4)
    assert torch.allclose(by_modality.mean, (image.mean(0) + text.mean(0)) / 2, atol=1e-5)
    assert by_tokens.tokens == 100 and by_modality.tokens == 36  # the effective number: 1 / (1/4/90 + 1/4/10)


@pytest.mark.parametrize("balance", ["tokens", "modality"])
def test_a_modality_that_never_came_does_not_count(balance: str) -> None:
    text = filled(torch.randn(10, 3))
    found = mix_moments({"image": Moment(3), "text": text}, balance)  # type: ignore[arg-type]
    assert torch.equal(found.second, text.second) and found.tokens == 10


def test_mixing_leaves_the_parts_as_they_are() -> None:
    parts = {"image": filled(torch.randn(5, 2)), "text": filled(torch.randn(5, 2))}
    before = parts["image"].second.clone()
    mix_moments(parts, "modality")
    assert torch.equal(parts["image"].second, before)


def test_gradient_mix_follows_the_gradients_with_a_floor() -> None:
    image, text = filled(torch.randn(60, 4)), filled(3 * torch.randn(20, 4))
    parts = {"image": image, "text": text}
    mix = mix_moments(parts, "gradient", {"image": 1.0, "text": 3.0})
    assert torch.allclose(mix.second, 0.25 * image.second + 0.75 * text.second)
    floored = mix_moments(parts, "gradient", {"image": 0.0, "text": 1.0})
    assert torch.allclose(floored.second, (0.05 * image.second + text.second) / 1.05)
    unknown = mix_moments(parts, "gradient", {})
    assert torch.allclose(unknown.second, mix_moments(parts, "modality").second)


def test_effective_tokens() -> None:
    """1 / Σ w²/n: the size of one sample whose mean would vary as much."""
    parts = {"image": filled(torch.randn(300, 4)), "text": filled(torch.randn(100, 4))}
    assert mix_moments(parts, "tokens").tokens == 400
    assert mix_moments(parts, "modality").tokens == 300  # 1 / (1/4/300 + 1/4/100)


def test_pair_of_inputs_is_kept_beside_the_second_moment() -> None:
    x, original = torch.randn(50, 4), torch.randn(50, 4)
    moment = Moment(4)
    for part in (slice(0, 20), slice(20, 50)):
        moment.update(x[part], original[part])
    assert moment.cross is not None and torch.allclose(moment.cross, original.T @ x / 50, atol=1e-5)
    assert Moment(4).cross is None
    same = mix_moments({"image": moment, "text": moment}, "modality")
    assert same.cross is not None and torch.allclose(same.cross, moment.cross)


def sampled(x: torch.Tensor) -> ActivationSample:
    sample = ActivationSample(x.shape[1])
    sample.update(x)
    return sample


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(0, 1500), min_size=1, max_size=6))
def test_a_sample_is_the_same_however_the_stream_is_cut(sizes: list[int]) -> None:
    x = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(0))
    whole, parts = sampled(x), ActivationSample(3)
    for part in x.split(sizes):
        parts.update(part)
    assert torch.equal(whole.rows, parts.rows) and len(whole.rows) == min(len(x), 2048)
    assert torch.allclose(whole.second, parts.second, atol=1e-5)
    if len(x):
        assert torch.equal(parts.low, x.amin(0)) and torch.equal(parts.high, x.amax(0))
    if len(x) <= 2048:
        assert torch.equal(parts.rows, x)


def test_every_token_is_as_likely_to_be_kept() -> None:
    kept = torch.cat([sampled(torch.arange(20000.0)[:, None]).rows])[:, 0]
    assert len(kept) == 2048 and len(kept.unique()) == 2048
    counts = torch.histc(kept, 4, 0, 20000)
    assert bool(((counts - 512).abs() < 4 * 512**0.5).all())


def test_a_mixed_sample_keeps_both_modalities() -> None:
    image, text = torch.randn(90, 3) * 4, torch.randn(10, 3)
    parts = {"image": sampled(image), "text": sampled(text)}
    found = mix_moments(parts, "modality")
    assert isinstance(found, ActivationSample)
    assert found.shares == {"image": 0.5, "text": 0.5} and found.parts == parts
    assert torch.equal(found.rows, torch.cat([image, text]))
    assert torch.equal(found.high, torch.maximum(image.amax(0), text.amax(0)))
    plain = mix_moments({"image": filled(image), "text": filled(text)}, "modality")
    assert torch.equal(found.second, plain.second) and found.tokens == plain.tokens
    alone = mix_moments({"text": parts["text"]}, "modality")
    assert isinstance(alone, ActivationSample) and alone.parts == {"text": parts["text"]} and alone.shares == {"text": 1.0}
    assert parts["text"].parts == {}


def test_columns_that_no_token_reached_are_filled_in_and_counted() -> None:
    x = torch.randn(40, 4)
    x[:, 2] = 0.0
    moment, norm = filled(x), ColumnNorm(4)
    norm.update(x)
    typical = float(moment.square[[0, 1, 3]].median())
    for part in (moment.fill_unseen(), norm.fill_unseen()):
        assert part.assumed == 1 and float(part.square[2]) == pytest.approx(typical)
    assert moment.assumed == 0 and float(moment.square[2]) == 0.0  # errors are measured by what was seen
    assert moment.fill_unseen().second[2, [0, 1, 3]].tolist() == [0.0, 0.0, 0.0]
    full = filled(torch.randn(40, 4))
    assert full.fill_unseen() is full


def test_nothing_is_moved_into_a_column_that_no_token_reached_for_the_original_models_sake() -> None:
    x, moment = torch.randn(40, 3), Moment(3)
    seen = x.clone()
    seen[:, 1] = 0.0
    moment.update(seen, x)
    found = moment.fill_unseen()
    assert found.cross is not None and (found.cross - found.second)[:, 1].tolist() == [0.0, 0.0, 0.0]
