"""The built-in model: augmentation keeps shapes, training runs end to end, the packaged weights unpack."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trimodal.demo.training import (
    DemoSteps,
    QuestionBatches,
    make_demo_config,
    make_demo_processor,
    prepare_material,
    score_demo_model,
    train_demo_model,
    unpack_demo_model,
)
from trimodal.errors import OutputError
from trimodal.networks.fusion import FusionModel, FusionProcessor

PACKAGED = files("trimodal.demo.seehearread") / "model"
needs_weights = pytest.mark.skipif(not PACKAGED.is_dir(), reason="the packaged weights have not been made")


def test_batches_are_repeatable_and_their_answers_right() -> None:
    processor = make_demo_processor(make_demo_config())
    material = prepare_material(processor)
    first, second = (QuestionBatches(material, processor, size=8, seed=3)(0) for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)
    assert first["pixel_values"].shape == (8, 1, 16, 16)
    assert first["input_features"].shape == (8, 40, 100)
    assert all(value.isfinite().all() for value in first.values())
    assert first["audio_mask"].sum(dim=1).min() > 10


def test_a_short_training_makes_a_folder_that_answers(tmp_path: Path) -> None:
    told: list[str] = []
    folder = train_demo_model(
        tmp_path / "model",
        steps=DemoSteps(towers=1, fusion=2, joint=1),
        batch=4,
        on_step=lambda part, _: told.append(part),
    )
    assert told == ["towers", "fusion", "fusion", "joint"]
    scores = score_demo_model(
        FusionModel.from_pretrained(folder),
        FusionProcessor.from_pretrained(folder),
        split="validation",
        count=10,
    )
    assert scores.count == 10
    assert 0 <= scores.answer <= 1


@needs_weights
def test_the_packaged_model_unpacks_to_float32_and_answers(tmp_path: Path) -> None:
    folder = unpack_demo_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    model = FusionModel.from_pretrained(folder)
    scores = score_demo_model(model, FusionProcessor.from_pretrained(folder), count=300)
    assert scores.answer > 0.9
    with pytest.raises(OutputError, match="is not empty"):
        unpack_demo_model(folder)


@needs_weights
def test_the_packaged_weights_are_small() -> None:
    folder = Path(str(PACKAGED))
    assert (folder / "model.safetensors").stat().st_size <= 8_000_000
