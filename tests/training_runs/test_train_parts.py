"""Models that are made of parts of others, processors that are put together, and masks as labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file, load_model
from torch import nn

import trimodal
from trimodal.core import Sample
from trimodal.errors import RecipeError
from trimodal.models.model import Output
from trimodal.networks.tiny import write_miniature_data
from trimodal.training_runs.building import build_training_model

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
VISION = {**SIZES, "image_size": 16, "patch_size": 8}
LLAVA: dict[str, Any] = {
    "class": "LlavaForConditionalGeneration",
    "config": {"vision_config": {"model_type": "clip_vision_model", **VISION}, "text_config": {"model_type": "llama", **SIZES},
               "image_seq_length": 4},
    "processors": {
        "image": {"class": "CLIPImageProcessor", "size": {"height": 16, "width": 16}, "crop_size": {"height": 16, "width": 16}},
        "text": {"vocabulary": 300},
        "whole": {"class": "LlavaProcessor", "patch_size": 8, "vision_feature_select_strategy": "default",
                  "num_additional_image_tokens": 1},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    text = {**SIZES, "vocab_size": 300, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    model = hf.CLIPModel(hf.CLIPConfig(vision_config=VISION, text_config=text))
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    return folder


def test_a_llava_begins_with_the_tower_of_a_clip(clip: Path) -> None:
    samples = [Sample(1, text="what is it ?", target="red"), Sample(2, text="where is it ?", target="left")]
    built = build_training_model({**LLAVA, "parts": {"model.vision_tower": str(clip)}}, samples, 0, "t")
    own, found = built.model.module.state_dict(), load_file(clip / "model.safetensors")
    tower = {name.removeprefix("model.vision_tower."): value for name, value in own.items() if "vision_tower" in name}
    for name, value in tower.items():
        assert torch.equal(value, found[name if name in found else f"vision_model.{name.removeprefix('vision_model.')}"])
    words = len(built.model.processors.text)  # the placeholder is the last that the tokenizer was told of
    assert built.model.module.config.image_token_id == built.model.processors.text.convert_tokens_to_ids("<image>") == words - 1
    assert own["model.language_model.embed_tokens.weight"].shape == (words, 16)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"model.vision": "."}, r"model\.parts names 'model\.vision'; did you mean 'model\.vision_tower'\?"),
        ({"model.language_model": "{clip}"}, r"model\.parts\.model\.language_model: .* lacks .*, so it holds no LlamaModel of this"),
    ],
)
def test_parts_that_are_none(clip: Path, parts: dict[str, str], said: str) -> None:
    given = {path: source.format(clip=clip) for path, source in parts.items()}
    with pytest.raises(RecipeError, match=said):
        build_training_model({**LLAVA, "parts": given}, [Sample(1, text="a", target="b")], 0, "t")


def test_a_part_of_other_sizes(clip: Path) -> None:
    config = {**LLAVA["config"], "vision_config": {**LLAVA["config"]["vision_config"], "intermediate_size": 48}}
    given = {**LLAVA, "config": config, "parts": {"model.vision_tower": str(clip)}}
    with pytest.raises(RecipeError, match=r"is \(32,\) in .*, but \(48,\) by model\.config"):
        build_training_model(given, [Sample(1, text="a", target="b")], 0, "t")


def test_a_llava_is_trained_and_asked(tmp_path: Path) -> None:
    data = write_miniature_data(tmp_path / "data", 16, ["image", "text"])
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    splits = ["test" if number % 4 == 0 else "train" for number in range(len(rows))]
    lines = [{**row, "target": "yes", "split": split, "group": None} for row, split in zip(rows, splits, strict=True)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = trimodal.train({"model": LLAVA, "data": str(data), "task": "generate", "steps": 40, "batch": 4, "learning_rate": 1e-2,
                            "evaluate_every": 20, "output": str(tmp_path / "out"), "track": "none"})  # fmt: skip
    assert found.metrics["answer_accuracy"] == 100.0  # there is but one answer, and it was never said before
    assert found.curves[0]["eval_answer_accuracy"] == 0.0
    result = trimodal.compress(tmp_path / "out", {"steps": [{"quantize.rtn": {"where": "*", "bits": 8}}]}, str(data), tmp_path / "small")
    answers = {metric.name: metric for metric in result.verdict.metrics}["answer accuracy"]
    assert (answers.before, answers.after, answers.samples) == (100.0, 100.0, 4)


class Enlarger(nn.Module):
    """Makes a map smaller and larger again, by a layer that trimodal turns round while it works."""

    modalities = ("image",)
    outputs = (Output("output", "image", "tokens", rows="pixel"),)

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 2, stride=2), nn.ConvTranspose2d(8, 2, 2, stride=2)

    def encode(self, samples: Any) -> dict[str, torch.Tensor]:
        return {"image": torch.stack([torch.from_numpy(np.array(s.image)).permute(2, 0, 1) / 255 for s in samples])}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.up(self.down(image).relu())
        return found


@pytest.fixture
def halves(tmp_path: Path) -> Callable[[], Path]:
    def write() -> Path:
        for number in range(8):
            mask = np.zeros((16, 16), dtype=np.uint8)
            mask[:, 2 * number :] = 1
            Image.fromarray(mask).save(tmp_path / f"m{number}.png")
            Image.fromarray(np.stack([220 * mask, mask, mask], axis=2)).save(tmp_path / f"i{number}.png")
        lines = [{"image": f"i{n}.png", "mask": f"m{n}.png", "split": "test" if n % 4 == 3 else "train"} for n in range(8)]
        (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return tmp_path / "data.jsonl"

    return write


def test_a_module_of_ones_own_learns_masks_and_is_saved_as_it_was(halves: Callable[[], Path], tmp_path: Path) -> None:
    config = {"model": Enlarger, "task": "segment", "steps": 40, "batch": 4, "learning_rate": 3e-2, "track": "none",
              "early_stopping": {"metric": "image_dice", "patience": 9}}  # fmt: skip
    found = trimodal.train(config, data=str(halves()), out=tmp_path / "out")
    assert found.metrics["image_dice"] > 90 and found.metrics["image_iou"] > 80
    fresh = Enlarger()
    load_model(fresh, tmp_path / "out" / "model.safetensors")  # of its own class, in its own shapes
    with torch.no_grad():
        scores = fresh(fresh.encode([type("Shown", (), {"image": Image.open(tmp_path / "i3.png")})])["image"])
    said = scores[0].argmax(dim=0).numpy()
    assert (said == np.asarray(Image.open(tmp_path / "m3.png"))).mean() > 0.9


def test_a_segmenter_that_is_made_has_the_classes_of_the_masks(halves: Callable[[], Path]) -> None:
    samples = trimodal.open_data(str(halves()))
    config = {"depths": [1], "hidden_sizes": [8], "num_encoder_blocks": 1, "sr_ratios": [1], "patch_sizes": [3], "strides": [2],
              "num_attention_heads": [1], "mlp_ratios": [2], "decoder_hidden_size": 8}  # fmt: skip
    built = build_training_model({"class": "SegformerForSemanticSegmentation", "config": config}, list(samples), 0, "t")
    assert built.model.module.config.num_labels == 2
