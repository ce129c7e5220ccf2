"""Dice, IoU and answers: by hand, and out of a comparison of two models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trimodal.data import open_data, read_samples
from trimodal.loading.load import build_model
from trimodal.models.model import Output
from trimodal.verification import compare_models
from trimodal.verification.overlaps import overlap_with_mask
from trimodal.verification.tasks import answer_accuracy


def test_the_overlap_by_hand() -> None:
    said = torch.tensor([[0, 1, 1, 1], [-1, 0, 0, 3], [2, 2, 0, 0]])
    dice, iou = overlap_with_mask(said, torch.tensor([[0, 0, 1, 1], [0, 0, 0, -100], [1, 1, 0, 0]]))
    assert dice.tolist() == pytest.approx([100 * (2 / 3 + 4 / 5) / 2, 80, 100 / 3])  # the last: classes 0, 1 and 2
    assert iou.tolist() == pytest.approx([100 * (1 / 2 + 2 / 3) / 2, 200 / 3, 100 / 3])


def test_an_answer_is_right_as_a_whole() -> None:
    labels = torch.tensor([[-100, -100, 5, 6], [-100, -100, 5, 6], [-100, -100, -100, 6]])
    said = torch.tensor([[9, 5, 6, 9], [9, 5, 7, 6], [9, 9, 6, 9]])
    assert answer_accuracy(said, labels).tolist() == [100, 0, 100]


class Painter(nn.Module):
    """Scores the class that the red channel holds, at half of the size; `shift` makes it say the next one on the left half."""

    modalities = ("image",)
    outputs = (Output("output", "image", "tokens", rows="pixel"),)

    def __init__(self, shift: int = 0) -> None:
        super().__init__()
        self.shift, self.anchor = shift, nn.Parameter(torch.ones(1))

    def encode(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        return {"image": torch.stack([torch.from_numpy(np.array(s.image)).permute(2, 0, 1).float() for s in samples])}

    def forward(self, image: Tensor) -> Tensor:
        red = image[:, 0, ::2, ::2].long()
        red[:, :, : red.shape[2] // 2] += self.shift
        return nn.functional.one_hot(red, 3).permute(0, 3, 1, 2) * self.anchor


def test_maps_are_compared_with_masks_at_the_masks_size() -> None:
    picture = np.zeros((4, 8, 3), dtype=np.uint8)
    picture[:, 4:, 0] = 1
    rows = [{"image": picture, "mask": picture[:, :, 0]}, {"image": picture}]
    models, samples = (build_model(Painter(), "a"), build_model(Painter(1), "b")), read_samples(open_data(rows))
    found = compare_models(*models, samples, batch_size=2, seed=0).metrics
    assert [(metric.name, metric.samples, metric.before) for metric in found] == [("Dice", 1, 100), ("IoU", 1, 100)]
    assert [metric.after for metric in found] == pytest.approx([100 / 3, 25])  # all is said to be class 1, half of it is
    alone = compare_models(*models, samples[1:], batch_size=2, seed=0)
    assert [(metric.name, metric.after) for metric in alone.metrics] == [("pixel agreement", 50)]
