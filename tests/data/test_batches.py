"""Batches: what is in them, and when they are encoded."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datafiles import write
from torch import Tensor
from toyfamily import make_toy_model as model

from trimodal.core import Sample
from trimodal.data import (
    CALIBRATION,
    VERIFICATION,
    BatchLimits,
    batch_samples,
    batches,
    count_ids,
    count_tokens,
    fit_batch_size,
    part_batch,
    read_samples,
)
from trimodal.errors import DataError
from trimodal.models.model import Model


def test_batches_hold_samples_of_the_same_modalities(folder: Path) -> None:
    lines = [
        {"text": "a"},
        {"text": "bb", "image": "seven.png"},
        {"text": "ccc"},
        {"text": "dddd", "audio": "three.wav"},
    ]
    samples = read_samples(write(folder, *lines))
    found = batch_samples(model("image", "text"), samples, 2)
    assert [{name: tensor.tolist() for name, tensor in batch.items()} for batch in found] == [
        {"letters": [1, 3]},
        {"letters": [4]},
        {"pixels": [8], "letters": [2]},
    ]
    with pytest.raises(DataError, match="batch size is 0"):
        batch_samples(model("text"), samples, 0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first line of every batch that is encoded, in their order."""
    found: list[int] = []
    encode = batches.encode_samples

    def seen(model: Model, few: Sequence[Sample]) -> dict[str, Tensor]:
        found.append(few[0].line)
        return encode(model, few)

    monkeypatch.setattr(batches, "encode_samples", seen)
    return found


def test_batches_are_encoded_when_they_are_asked_for_and_kept_while_there_is_room(folder: Path, asked: list[int]) -> None:
    samples = read_samples(write(folder, *({"text": "a" * n} for n in range(1, 7))))
    found = batch_samples(model("text"), samples, 2, kept_bytes=20)  # one batch of two int64
    assert len(found) == 3 and not asked
    assert [found[i]["letters"].tolist() for i in (0, 2, -1, 0)] == [[1, 2], [5, 6], [5, 6], [1, 2]] and asked == [1, 5]
    some = found[1:]
    assert asked == [1, 5] and len(some) == 2
    assert [batch["letters"].tolist() for batch in some] == [[3, 4], [5, 6]] and asked == [1, 5, 3, 5]
    assert some[::-1][0]["letters"].tolist() == [5, 6] and len(asked) == 4
    with pytest.raises(IndexError):
        found[3]


def test_one_batch_is_held_however_many_there_are_and_they_can_be_gone_through_again(folder: Path, asked: list[int]) -> None:
    samples = read_samples(write(folder, *({"text": "a" * n} for n in range(1, 7))))
    found = batch_samples(model("text"), samples, 2, kept_bytes=0)
    for _ in range(2):
        alive = [weakref.ref(batch["letters"]) for batch in found]
        assert [one() is not None for one in alive] == [False, False, True]
    assert asked == [1, 3, 5, 1, 3, 5]
    assert found.rows == [[0, 1], [2, 3], [4, 5]]


def test_limits_say_how_many_samples_go_together() -> None:
    limits = BatchLimits(32, 2048)
    assert [limits.rows_at_once(longest) for longest in (0, 1, 64, 65, 2048, 5000)] == [32, 32, 32, 31, 1, 1]
    assert BatchLimits(32, 2048) == CALIBRATION and BatchLimits(64, 8192) == VERIFICATION


def test_a_batch_is_parted_by_samples_where_it_has_too_many_tokens() -> None:
    batch = {"ids": torch.arange(15).reshape(5, 3), "pixels": torch.arange(5.0)}
    parts = part_batch(model("text"), batch, 5, BatchLimits(5, 6))
    assert [rows for rows, _ in parts] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    for name, whole in batch.items():
        assert torch.cat([few[name] for _, few in parts]).equal(whole)
    assert part_batch(model("text"), batch, 5, BatchLimits(5, 15)) == [(slice(0, 5), batch)]
    odd = {**batch, "scale": torch.tensor(1.0)}
    assert part_batch(model("text"), odd, 5, BatchLimits(5, 6)) == [(slice(0, 5), odd)]


def test_tokens_are_what_the_family_speaks_of_and_else_the_ids() -> None:
    batch = {"ids": torch.zeros(2, 7, dtype=torch.long), "wave": torch.zeros(2, 900)}
    plain = model("text")
    assert (count_tokens(plain, batch), count_ids(batch), count_ids({"wave": batch["wave"]})) == (0, 7, 1)
    speaking = replace(plain, family=replace(plain.family, tokens=lambda module, batch: {"audio": torch.zeros(2, 450)}))
    assert count_tokens(speaking, batch) == 450
    assert [rows for rows, _ in part_batch(speaking, batch, 2, BatchLimits(2, 450))] == [slice(0, 1), slice(1, 2)]


def test_the_longest_row_of_all_batches_says_how_many_fit_into_each(folder: Path) -> None:
    plain = model("text")
    family = replace(plain.family, tokens=lambda module, batch: {"text": torch.zeros(1, int(batch["letters"].max()))})
    spoken = replace(plain, family=family)
    samples = read_samples(write(folder, *({"text": "a" * n} for n in (3, 5, 90, 4))))
    found = batch_samples(spoken, samples, 32)
    assert fit_batch_size(spoken, found, CALIBRATION) == 2048 // 90
    assert fit_batch_size(spoken, batch_samples(spoken, samples[:2], 32), CALIBRATION) == 32
    assert fit_batch_size(plain, found, CALIBRATION) == 32 and fit_batch_size(spoken, [], CALIBRATION) == 32
