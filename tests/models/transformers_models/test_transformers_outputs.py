"""What is compared follows from the head; boxes by where they lie; and an example is a guess that may fail."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of the package

from benchmarks.zoo.models import ZOO  # noqa: E402
from trimodal.graph import layout as layouts  # noqa: E402
from trimodal.inventory import inspect  # noqa: E402
from trimodal.loading.load import build_model  # noqa: E402
from trimodal.models.boxes import join_boxes, measure_overlaps  # noqa: E402
from trimodal.models.foreign import run_forward  # noqa: E402
from trimodal.models.model import Output  # noqa: E402
from trimodal.models.transformers_models import FAMILY  # noqa: E402
from trimodal.models.transformers_models.outputs import find_outputs  # noqa: E402
from trimodal.training.distilling import box_distance  # noqa: E402
from trimodal.verification.tasks import box_agreement  # noqa: E402


@cache
def made(name: str) -> Any:
    return next(animal for animal in ZOO if animal.name == name).make()


MASK, SAID = "attention_mask", "decoder_attention_mask"
EXPECTED = {
    "DistilBertForSequenceClassification": (Output("logits", "text", "logits", label="label"),),
    "XLMRobertaForTokenClassification": (Output("logits", "text", "tokens", mask=MASK),),
    "BertForQuestionAnswering": (Output("start_logits", "text", "logits"), Output("end_logits", "text", "logits")),
    "BertForMaskedLM": (Output("logits", "text", "tokens", mask=MASK),),
    "BertForMultipleChoice": (Output("logits", "text", "logits", label="label"),),
    "GPT2LMHeadModel": (Output("logits", "text", "tokens", mask=MASK),),
    "T5ForConditionalGeneration": (Output("logits", "text", "tokens", mask=SAID),),
    "MPNetModel": (Output("last_hidden_state", "text", "embedding", pool="mean", mask=MASK),),
    "BeitForImageClassification": (Output("logits", "image", "logits", label="label"),),
    "DINOv3ViTModel": (Output("last_hidden_state", "image", "embedding"),),
    "SegformerForSemanticSegmentation": (Output("logits", "image", "tokens", rows="pixel"),),
    "DPTForDepthEstimation": (Output("predicted_depth", "image", "embedding"),),
    "DetrForObjectDetection": (
        Output("pred_boxes", "image", "boxes", scores="logits", blank=True), Output("logits", "image", "tokens", rows="query"),
    ),
    "ConditionalDetrForObjectDetection": (
        Output("pred_boxes", "image", "boxes", scores="logits"), Output("logits", "image", "tokens", rows="query"),
    ),
    "Data2VecAudioForCTC": (Output("logits", "audio", "tokens"),),
    "WavLMForSequenceClassification": (Output("logits", "audio", "logits", label="label"),),
    "EncodecModel": (Output("audio_values", "audio", "embedding"),),
    "AltCLIPModel": (Output("image_embeds", "image", "embedding"), Output("text_embeds", "text", "embedding")),
    "Qwen2VLForConditionalGeneration": (Output("logits", "all", "tokens", mask=MASK),),
    "VisionEncoderDecoderModel/TrOCR": (Output("logits", "text", "tokens", mask=SAID),),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_outputs_follow_from_the_head(name: str) -> None:
    assert find_outputs(made(name)) == EXPECTED[name]


def test_what_is_no_class_has_no_label() -> None:
    sizes: dict[str, Any] = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    module = hf.ElectraForSequenceClassification(hf.ElectraConfig(**sizes, problem_type="multi_label_classification"))
    assert find_outputs(module) == (Output("logits", "text", "logits"),)


RUNNING = (
    "DistilBertForSequenceClassification", "T5ForConditionalGeneration", "SamModel", "Siglip2Model", "LlavaNextForConditionalGeneration",
    "Qwen3VLForConditionalGeneration", "Qwen2AudioForConditionalGeneration", "EncodecModel", "VideoMAEForVideoClassification",
    "ViTMAEForPreTraining",
)  # fmt: skip


@pytest.mark.parametrize("name", RUNNING)
def test_example_is_one_sample_that_runs(name: str) -> None:
    module = made(name)
    batch = FAMILY.example(module)
    with torch.no_grad():
        run_forward(module, batch)
    assert len(next(iter(batch.values()))) == 1
    assert all(len(value) == 1 for key, value in batch.items() if not key.startswith("pixel_values") or "image_grid_thw" not in batch)


def test_example_that_fails_leaves_operations_unknown() -> None:
    sizes: dict[str, Any] = {"vocab_size": 49, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "l_layers": 1}
    model = build_model(hf.LxmertModel(hf.LxmertConfig(**sizes, x_layers=1, r_layers=1, visual_feat_dim=16)), "lxmert")
    found = inspect(model)
    assert found.macs is None and "`visual_feats` cannot be `None`" in found.macs_note
    assert not model.layout.list_labels() and model.layout.uncuttable


@pytest.mark.parametrize("size", [(32, 48), 32])
def test_images_need_not_be_square(size: int | tuple[int, int]) -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "patch_size": 8}
    module = hf.BeitForImageClassification(hf.BeitConfig(**sizes, image_size=size))
    assert inspect(build_model(module, "beit")).macs


def test_large_models_are_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    module = made("FNetForSequenceClassification")
    assert layouts.find_layout(module).list_labels()
    monkeypatch.setattr(layouts, "MOST_ENTRIES", 100)
    found = layouts.find_layout(module)
    assert not found.list_labels() and "too many to find out by watching it run (100 at most)" in found.uncuttable[0].reason


def test_overlap_of_boxes() -> None:
    first = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.0, 0.0]])
    second = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.7, 0.5, 0.4, 0.4], [0.1, 0.9, 0.1, 0.1]])
    expected = torch.tensor([[1.0, 1 / 3, 0.0], [0.0, 0.0, 0.0]])  # half of each of two equal boxes: 1 of 3 halves
    torch.testing.assert_close(measure_overlaps(first, second), expected)


def test_boxes_know_how_sure_and_what_they_are() -> None:
    boxes, scores = torch.zeros(1, 2, 4), torch.tensor([[[0.0, 0.0, torch.inf], [2.0, 0.0, 0.0]]]).nan_to_num(posinf=50.0)
    sure = join_boxes(boxes, scores, blank=True)
    torch.testing.assert_close(sure[0, :, 4], torch.tensor([0.0, torch.e**2 / (torch.e**2 + 2)]))
    assert sure[0, 1, 5] == 0 and join_boxes(boxes, scores, blank=False)[0, 0, 5] == 2


def test_agreement_of_boxes_is_by_certainty_place_and_class() -> None:
    first = torch.tensor([[[0.5, 0.5, 0.4, 0.4, 0.9, 1.0], [0.2, 0.2, 0.2, 0.2, 0.1, 0.0]]])
    assert box_agreement(first, first.flip(1)).tolist() == [100.0], "in any order"
    moved = first.clone()
    moved[0, 0, 0] = 0.7
    torch.testing.assert_close(box_agreement(first, moved)[0], 100 * (0.9 / 3 + 0.1), rtol=1e-6, atol=0)
    renamed = first.clone()
    renamed[0, 0, 5] = 0
    torch.testing.assert_close(box_agreement(first, renamed)[0], 10.0, rtol=1e-6, atol=0)
    torch.testing.assert_close(box_distance(first, moved), torch.tensor(0.9 * 0.2 / 4))
