"""Segmentation: the loss by hand, that it falls for a module of one's own and for SegFormer, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from trimodal.core import Sample
from trimodal.data import open_data, read_samples
from trimodal.errors import DataError, InputError
from trimodal.loading.load import build_model
from trimodal.models.model import Model, Output, Processors
from trimodal.networks.tiny import make_miniature
from trimodal.training.engine import train_module
from trimodal.training.order import order_samples
from trimodal.training.segmenting import compute_pixel_loss, compute_soft_dice
from trimodal.training.settings import EngineSettings, RunFolder
from trimodal.training.tasks import make_objective
from trimodal.training.telling import read_curves

SIDE = 32


def draw_halves(count: int) -> list[Sample]:
    """Pictures that are red from some column on, which is class 1."""
    rows = []
    for number in range(count):
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        mask[:, 4 + 3 * number % 24 :] = 1
        rows.append({"image": np.stack([200 * mask, 0 * mask, 0 * mask], axis=2), "mask": mask})
    return read_samples(open_data(rows))


class Net(nn.Module):
    """One convolution, whose map is as large as the image."""

    modalities = ("image",)
    outputs = (Output("output", "image", "tokens", rows="pixel"),)

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(3, 2, 3, padding=1)

    def encode(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        return {"image": torch.stack([torch.from_numpy(np.array(s.image)).permute(2, 0, 1) / 255 for s in samples])}

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.classifier(image)
        return scores


def make_segformer() -> Model:
    torch.manual_seed(0)
    config = hf.SegformerConfig(
        num_labels=2, depths=[1, 1], hidden_sizes=[8, 16], num_encoder_blocks=2, sr_ratios=[2, 1], patch_sizes=[7, 3], strides=[4, 2],
        num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16, classifier_dropout_prob=0.0, drop_path_rate=0.0,
    )  # fmt: skip
    model = build_model(hf.SegformerForSemanticSegmentation(config), "segformer")
    model.processors = Processors(image=SegformerImageProcessorPil(size={"height": SIDE, "width": SIDE}))
    return model


def make_net() -> Model:
    torch.manual_seed(0)
    return build_model(Net(), "net")


def test_the_loss_by_hand() -> None:
    labels = torch.tensor([[[0, 1], [1, -100]]])
    assert compute_pixel_loss(torch.zeros(1, 2, 2, 2), labels).tolist() == pytest.approx([math.log(2)])
    halves = torch.full((1, 2, 2, 2), 0.5)  # class 0: (2 · 0.5 + 1) / (1.5 + 1 + 1), class 1: (2 · 1 + 1) / (1.5 + 2 + 1)
    assert compute_soft_dice(halves, labels).tolist() == pytest.approx([(2 / 3.5 + 3 / 4.5) / 2])
    right = nn.functional.one_hot(labels.clamp(min=0), 2).permute(0, 3, 1, 2).float()
    assert compute_soft_dice(right, labels).tolist() == pytest.approx([1.0])


def test_a_loss_is_the_mean_of_that_of_each_sample() -> None:
    model, samples = make_net(), draw_halves(4)
    objective = make_objective("segment", model, samples, part=4)
    drawn = list(enumerate(samples))
    together = objective.loss(model.module, objective.encode(drawn))["loss"].item()
    each = [objective.loss(model.module, objective.encode(drawn[n : n + 1]))["loss"].item() for n in range(4)]
    assert together == pytest.approx(sum(each) / 4, rel=1e-5)


@pytest.mark.parametrize("make", [make_net, make_segformer])
def test_the_loss_falls(make: Any, tmp_path: Path) -> None:
    model, samples = make(), draw_halves(8)
    objective = make_objective("segment", model, samples, part=4)
    assert objective.encode([(0, samples[0])])["labels"].shape == (1, SIDE, SIDE)
    settings = EngineSettings(steps=15, batch=4, learning_rate=1e-2)
    train_module(model.module, objective, samples, order_samples([0] * 8, 15, 4, 0), settings, RunFolder(tmp_path))
    losses = [line["loss"] for line in read_curves(tmp_path / "curves.jsonl")]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_what_is_refused() -> None:
    samples = draw_halves(2)
    with pytest.raises(InputError, match="gives no scores of pixels; task: segment needs a class such as Segformer"):
        make_objective("segment", build_model(make_miniature("vit"), "vit"), samples, part=2)
    unmasked = read_samples(open_data([{"image": np.zeros((8, 8, 3), dtype=np.uint8)}]))
    with pytest.raises(DataError, match="row 1: no mask; task: segment needs one in every line"):
        make_objective("segment", make_net(), unmasked, part=2)
    beyond = read_samples(open_data([{"image": np.zeros((8, 8, 3), dtype=np.uint8), "mask": np.full((8, 8), 7)}]))
    objective = make_objective("segment", make_net(), beyond, part=1)
    with pytest.raises(DataError, match="row 1: the mask holds class 7, but Net scores 2; expected 0 to 1, or 255 for no class"):
        objective.encode([(0, beyond[0])])


def test_a_processor_that_crops_is_refused() -> None:
    model = make_segformer()
    sizes = {"size": {"height": 40, "width": 40}, "crop_size": {"height": SIDE, "width": SIDE}}
    model.processors = Processors(image=hf.CLIPImageProcessorPil(**sizes))
    with pytest.raises(InputError, match="crops its images, which masks would not follow"):
        make_objective("segment", model, draw_halves(1), part=1)
