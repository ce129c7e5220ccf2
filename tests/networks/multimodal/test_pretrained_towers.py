"""Towers out of users' folders: the encoder alone, its weights as they were, frozen where asked, and the processors beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

import trimodal
from trimodal.data import batch_samples, read_samples
from trimodal.formats import open_model
from trimodal.models.families import family_of
from trimodal.networks.multimodal import MultimodalModel, save_processors
from trimodal.networks.tiny import make_feature_extractor, make_miniature_batch, write_miniature, write_miniature_data

SMALL: dict[str, Any] = {"fusion_width": 16, "head_dim": 8, "fusion_blocks": 2, "num_labels": 3}
VITALS = {"modality": "signal", "channels": 4, "length": 8, "patch": 2, "width": 16, "blocks": 0}


@pytest.mark.parametrize(
    ("towers", "kinds", "declared"),
    [
        ({"image": "clip", "text": "clip"}, ["CLIPVisionModel", "CLIPTextModel"], True),
        ({"image": "resnet", "audio": "whisper"}, ["ResNetModel", "WhisperEncoder"], True),
        ({"audio": "wav2vec2", "text": "mpnet"}, ["Wav2Vec2Model", "MPNetModel"], True),
        ({"text": "t5"}, ["T5Stack"], False),
        ({"text": "siglip"}, ["SiglipTextModel"], True),
    ],
)
def test_any_encoder_is_a_tower(towers: dict[str, str], kinds: list[str], declared: bool, tmp_path: Path) -> None:
    folders = {name: write_miniature(kind, tmp_path / f"{name}-{kind}") for name, kind in towers.items()}
    model = MultimodalModel.from_towers(**folders, vitals=VITALS, **SMALL)
    assert [type(model.towers[name].encoder).__name__ for name in towers] == kinds
    batch = {"vitals": torch.randn(2, 8, 4)}
    for name, kind in towers.items():
        given, stream = make_miniature_batch(kind, 2), model.by_name[name]
        batch[stream.input_name] = given[stream.input_name]
        batch |= {"attention_mask": given["attention_mask"]} if name == "text" and "attention_mask" in given else {}
    found = model(**batch, labels=torch.tensor([0, 2]))
    found.loss.backward()
    model.save_pretrained(tmp_path / "fused")
    loaded = hf.AutoModel.from_pretrained(tmp_path / "fused")
    torch.testing.assert_close(loaded(**batch).logits, found.logits, atol=1e-5, rtol=1e-5)
    assert (family_of(loaded).name == "multimodal") is declared


def test_padding_of_a_pretrained_tower_has_no_effect(tmp_path: Path) -> None:
    model = MultimodalModel.from_towers(text=write_miniature("bert", tmp_path / "bert"), vitals=VITALS, **SMALL)
    words = {key: value for key, value in make_miniature_batch("bert", 2).items() if key in ("input_ids", "attention_mask")}
    batch = {**words, "vitals": torch.randn(2, 8, 4)}
    other = {**batch, "input_ids": words["input_ids"].masked_fill(words["attention_mask"] == 0, 7)}
    torch.testing.assert_close(model(**other).logits, model(**batch).logits)
    absent = torch.tensor([1, 0])
    alone = model(vitals=batch["vitals"][1:]).logits
    torch.testing.assert_close(model(**other, text_present=absent).logits[1:], alone, atol=1e-6, rtol=1e-5)


def test_frozen_towers_stay_what_they_were(tmp_path: Path) -> None:
    encoder = hf.BertModel.from_pretrained(write_miniature("bert", tmp_path / "bert"))
    model = MultimodalModel.from_towers(notes=encoder, vitals=VITALS, frozen=True, **SMALL)
    assert model.by_name["notes"].modality == "text"
    model.save_pretrained(tmp_path / "fused")
    loaded = MultimodalModel.from_pretrained(tmp_path / "fused").train()
    trained = {name for name, value in loaded.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in loaded.named_parameters() if not name.startswith("towers.notes.")}
    assert loaded.towers["vitals"].training and not any(part.training for part in loaded.towers["notes"].modules())


def test_a_model_of_two_modalities_must_be_called_by_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="front is a CLIPModel, which reads no one modality; call the stream image, audio or text"):
        MultimodalModel.from_towers(front=write_miniature("clip", tmp_path / "clip"))
    with pytest.raises(ValueError, match="lidar is 7; expected a folder"):
        MultimodalModel.from_towers(lidar=7)


def test_a_folder_with_processors_takes_samples(tmp_path: Path) -> None:
    """Image and audio processors would write a file of one name; together they go into one."""
    folders = {name: write_miniature(kind, tmp_path / kind) for name, kind in (("image", "vit"), ("audio", "whisper"), ("text", "bert"))}
    model = MultimodalModel.from_towers(**folders, **SMALL)
    fused = tmp_path / "fused"
    model.save_pretrained(fused)
    save_processors(fused, image=folders["image"], audio=make_feature_extractor("whisper"), text=folders["text"])
    data = write_miniature_data(tmp_path / "data", 4, ("image", "audio", "text"))
    opened = open_model(fused)
    (batch,) = batch_samples(opened, read_samples(data), 4)
    assert set(batch) == {
        "pixel_values", "image_present", "input_features", "audio_mask", "audio_present", "input_ids", "attention_mask", "text_present",
    }  # fmt: skip
    with torch.no_grad():
        assert opened.module(**batch).logits.shape == (4, 3)
    counted = {tower.name: tower.macs for tower in trimodal.inspect(fused).towers}
    assert set(counted) == {"image", "audio", "text", "fusion"} and all(counted.values())
