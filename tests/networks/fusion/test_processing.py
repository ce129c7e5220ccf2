"""The processor: shapes, loudness, lengths, and one folder for everything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModel, AutoProcessor

from trimodal.networks.fusion import FusionConfig, FusionModel, FusionProcessor, make_processor, register


@pytest.fixture
def processor(config: FusionConfig) -> FusionProcessor:
    return make_processor(config, ["add them", "which is larger?"])


@pytest.fixture
def sound() -> np.ndarray:
    return np.sin(np.arange(4000) / 3.0).astype(np.float32)


def test_shapes_of_all_inputs(processor: FusionProcessor, sound: np.ndarray) -> None:
    image = Image.fromarray(np.full((8, 8), 255, np.uint8))
    inputs = processor(images=[image, image], audio=[sound, sound[:1600]], text=["add them", "larger"])
    assert inputs["pixel_values"].shape == (2, 1, 16, 16)
    assert inputs["pixel_values"].unique().tolist() == [2.0]
    assert inputs["input_features"].shape == (2, 40, 100)
    assert inputs["audio_mask"].sum(dim=1).tolist() == [50, 20]
    assert inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_loudness_makes_no_difference(processor: FusionProcessor, sound: np.ndarray) -> None:
    loud, quiet = processor(audio=[sound, 0.01 * sound])["input_features"]
    assert np.allclose(loud[:, :49], quiet[:, :49], atol=0.02)


def test_words_are_known_in_any_case_and_others_are_unknown(processor: FusionProcessor) -> None:
    ids = processor(text="Add THEM, gap")["input_ids"][0].tolist()
    unknown = processor.tokenizer.unk_token_id
    assert ids[:2] == processor(text="add them")["input_ids"][0].tolist()
    assert unknown not in ids[:2]
    assert ids[2:] == [unknown, unknown]


def test_another_sampling_rate_is_refused(processor: FusionProcessor, sound: np.ndarray) -> None:
    with pytest.raises(ValueError, match="sampling rate"):
        processor(audio=sound, sampling_rate=16000)


def test_nothing_is_refused(processor: FusionProcessor) -> None:
    with pytest.raises(ValueError, match="give images, text or audio"):
        processor()


def test_one_folder_holds_model_and_processor(
    tmp_path: Path, processor: FusionProcessor, model: FusionModel, sound: np.ndarray
) -> None:
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    register()
    register()
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, FusionProcessor)
    assert isinstance(AutoModel.from_pretrained(tmp_path), FusionModel)
    first, second = (p(audio=sound, text="add them") for p in (processor, again))
    assert all(first[name].equal(second[name]) for name in first)
    assert not list(tmp_path.glob("*.py"))
