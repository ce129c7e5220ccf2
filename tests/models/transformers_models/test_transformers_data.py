"""Samples become what forward takes, for Transformers models that nobody declared."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of the package

from benchmarks.zoo.models import ZOO  # noqa: E402
from benchmarks.zoo.processors import make_processors  # noqa: E402
from trimodal.core import Sample  # noqa: E402
from trimodal.data.checks import check_modalities  # noqa: E402
from trimodal.errors import DataError, ModelError  # noqa: E402
from trimodal.loading.load import build_model  # noqa: E402
from trimodal.models import encoding, transformers_models  # noqa: E402
from trimodal.models.families import family_of  # noqa: E402
from trimodal.models.foreign import run_forward  # noqa: E402
from trimodal.models.model import LoadedSample, Processors  # noqa: E402
from trimodal.models.processors import find_processors  # noqa: E402
from trimodal.models.transformers_models import FAMILY  # noqa: E402
from trimodal.models.transformers_models.prompts import write_prompt  # noqa: E402
from trimodal.networks.tiny import BOS, EOS, IMAGE_TOKEN, PAD, RATE, make_tokenizer  # noqa: E402

TEXTS, TARGETS = ("the old cat sings", "a small dog", "red bird near the blue house"), ("blue fish", "the tree", "one")


@cache
def made(name: str) -> Any:
    """The zoo's model called `name`; not to be changed."""
    return next(animal for animal in ZOO if animal.name == name).make()


@pytest.fixture
def ready(tmp_path: Path) -> Any:
    """A model of the zoo with the processors of its folder."""

    def prepare(name: str) -> tuple[Any, Processors]:
        for part in make_processors(made(name)):
            part.save_pretrained(tmp_path)
        return made(name), find_processors(tmp_path)

    return prepare


def samples(modalities: tuple[str, ...]) -> list[LoadedSample]:
    """Three samples with a text, a target, and what else is asked for; sounds of unequal length."""
    random = np.random.default_rng(0)
    picture = [Image.fromarray(random.integers(0, 255, (40, 48, 3), dtype=np.uint8)) for _ in TEXTS]
    sound = [random.standard_normal(8000 - 400 * i).astype(np.float32) / 10 for i in range(3)]
    shown, heard = "image" in modalities, "audio" in modalities
    return [
        LoadedSample(picture[i] if shown else None, sound[i] if heard else None, RATE if heard else 0, TEXTS[i], TARGETS[i])
        for i in range(3)
    ]


def encoded(model: tuple[Any, Processors], loaded: list[LoadedSample] | None = None) -> dict[str, Tensor]:
    module, processors = model
    return FAMILY.encode(module, processors, loaded or samples(FAMILY.modalities(module)))


SHAPES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "DistilBertForSequenceClassification": {"input_ids": (3, 8), "attention_mask": (3, 8)},
    "BertForMultipleChoice": {"input_ids": (3, 1, 6), "attention_mask": (3, 1, 6)},
    "T5ForConditionalGeneration": {
        "input_ids": (3, 8), "attention_mask": (3, 8), "decoder_input_ids": (3, 4), "decoder_attention_mask": (3, 4),
    },
    "GPT2LMHeadModel": {"input_ids": (3, 9), "attention_mask": (3, 9), "labels": (3, 9)},
    "ViTMAEForPreTraining": {"pixel_values": (3, 3, 32, 32), "noise": (3, 16)},
    "ViTForMaskedImageModeling": {"pixel_values": (3, 3, 32, 32), "bool_masked_pos": (3, 16)},
    "VideoMAEForVideoClassification": {"pixel_values": (3, 4, 3, 32, 32)},
    "DetrForObjectDetection": {"pixel_values": (3, 3, 64, 64), "pixel_mask": (3, 64, 64)},
    "SamModel": {"pixel_values": (3, 3, 64, 64), "input_points": (3, 1, 1, 2)},
    "Data2VecAudioForCTC": {"input_values": (3, 8000), "attention_mask": (3, 8000)},
    "Wav2Vec2BertForCTC": {"input_features": (3, 24, 32), "attention_mask": (3, 24)},
    "OwlViTForObjectDetection": {"pixel_values": (3, 3, 32, 32), "input_ids": (3, 8), "attention_mask": (3, 8)},
    "Siglip2Model": {
        "pixel_values": (3, 16, 192), "pixel_attention_mask": (3, 16), "spatial_shapes": (3, 2), "input_ids": (3, 8),
        "attention_mask": (3, 8),
    },
    "Qwen2VLForConditionalGeneration": {
        "input_ids": (3, 11), "attention_mask": (3, 11), "mm_token_type_ids": (3, 11), "pixel_values": (24, 384), "image_grid_thw": (3, 3),
        "labels": (3, 11),
    },
    "SmolVLMForConditionalGeneration": {
        "input_ids": (3, 13), "attention_mask": (3, 13), "pixel_values": (3, 1, 3, 32, 32), "pixel_attention_mask": (3, 1, 32, 32),
        "labels": (3, 13),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_samples_become_what_forward_takes(name: str, ready: Any) -> None:
    module, processors = ready(name)
    batch = encoded((module, processors))
    assert {key: tuple(value.shape) for key, value in batch.items()} == dict(SHAPES[name])
    with torch.no_grad():
        result = run_forward(module, batch)
    for output in FAMILY.outputs(module):
        assert len(output.select_tensor(result)) == 3, f"{output.field}: one row for each sample"  # type: ignore[arg-type]


def test_decoder_gets_the_target_behind_its_start_token(ready: Any) -> None:
    words = make_tokenizer()
    batch = encoded(ready("T5ForConditionalGeneration"))
    said = words(TARGETS[0])["input_ids"]
    assert batch["decoder_input_ids"][0].tolist() == [PAD, *said[:-1]] and said[-1] == EOS
    assert batch["decoder_attention_mask"].sum(1).tolist() == [4, 4, 3]
    assert batch["input_ids"][1].tolist()[:5] == words(TEXTS[1])["input_ids"]


def test_placeholders_are_as_many_as_features(ready: Any) -> None:
    module, processors = ready("Qwen2VLForConditionalGeneration")
    batch = encoded((module, processors))
    features = int(batch["image_grid_thw"].prod(1).sum()) // 4  # two by two patches are one feature
    assert int((batch["input_ids"] == IMAGE_TOKEN).sum()) == features == 6
    assert batch["mm_token_type_ids"].equal((batch["input_ids"] == IMAGE_TOKEN).long())
    (codes,) = {id(value): value for value in FAMILY.tokens(module, batch).values()}.values()
    assert codes[2].tolist() == [2, 0, 0, *[2] * 6, 4, 4]  # text, image, text, and the answer with the end


def test_choices_and_questions_are_parted_by_lines(ready: Any) -> None:
    words = make_tokenizer()
    texts = ("what is this\ncat\ndog\nred bird", "a\nb\ncar")
    chosen = encoded(ready("BertForMultipleChoice"), [LoadedSample(text=text) for text in texts])
    assert chosen["input_ids"].shape[:2] == (2, 3)
    assert chosen["input_ids"][0, 1].tolist() == [*words("what is this", "dog")["input_ids"], PAD]
    asked = encoded(ready("BertForMultipleChoice"), [LoadedSample(text="what is this")])
    assert asked["input_ids"].shape[:2] == (1, 1)
    assert chosen["input_ids"][1, 1].equal(chosen["input_ids"][1, 2]), "the last choice again where others have more"


def test_target_is_the_answer_of_a_model_that_goes_on(ready: Any) -> None:
    batch = encoded(ready("GPT2LMHeadModel"))
    assert batch["labels"][0].tolist()[5:8] == batch["input_ids"][0].tolist()[5:8]
    assert set(batch["labels"][0].tolist()[:5]) == {encoding.NO_LABEL}


def test_what_nobody_can_make_is_refused_by_name() -> None:
    sizes: dict[str, Any] = {"vocab_size": 49, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "l_layers": 1}
    seeing = hf.LxmertModel(hf.LxmertConfig(**sizes, x_layers=1, r_layers=1, visual_feat_dim=16))
    with pytest.raises(DataError, match=r"LxmertModel needs visual_feats and visual_pos, .* encode\(samples\) .* or use --data none"):
        transformers_models.encode(seeing, Processors(text=make_tokenizer()), [LoadedSample(text="a cat")])
    speaking = hf.SpeechT5HifiGan(hf.SpeechT5HifiGanConfig(
        model_in_dim=16, upsample_initial_channel=8, upsample_rates=[2], upsample_kernel_sizes=[4]))  # fmt: skip
    with pytest.raises(DataError, match="SpeechT5HifiGan needs spectrogram, which nobody can make"):
        transformers_models.encode(speaking, Processors(), [LoadedSample()])
    with pytest.raises(DataError, match=r"nothing says how the inputs of it \(transformers\) are made of text; .*encode\(samples\)"):
        check_modalities(build_model(speaking, "it"), [Sample(1, text="a cat")])


def test_processor_that_cannot_be_loaded_is_done_without(ready: Any) -> None:
    def fail() -> Any:
        raise ModelError("its processor needs the package torchvision")

    module, parts = ready("Qwen2VLForConditionalGeneration")
    broken = Processors(later={"whole": fail, "image": lambda: parts.image, "text": lambda: parts.text})
    assert encoded((module, broken))["input_ids"].equal(encoded((module, parts))["input_ids"])
    with pytest.raises(ModelError, match=r"no preprocessor_config.json, which turns image into"):
        encoded((module, Processors(text=make_tokenizer())))


def test_folders_own_processor_writes_the_prompt(ready: Any) -> None:
    module, processors = ready("LlavaForConditionalGeneration/cohere")
    assert family_of(module) is FAMILY, "a decoder that the declared LLaVA does not know"
    batch = encoded((module, processors))
    assert (batch["input_ids"] == IMAGE_TOKEN).sum(1).tolist() == [16, 16, 16] and "labels" in batch
    asked = LoadedSample(text="what is this <image>", target="cat")
    assert write_prompt(processors.whole, asked, ["image"]) == "what is this <image> cat"
    assert write_prompt(processors.whole, LoadedSample(text="what"), ["image"]) == "<image>what"


def test_chat_template_is_used_where_there_is_one(ready: Any) -> None:
    processor = ready("LlavaForConditionalGeneration/cohere")[1].whole
    part = "{{ '<image>' if part.type == 'image' else part.text }}"
    processor.chat_template = "{% for said in messages %}{% for part in said.content %}" + part + "{% endfor %}{% endfor %}!"
    assert write_prompt(processor, LoadedSample(text=" what", target=" cat"), ["image"]) == "<image> what! cat"


def test_text_alone_needs_no_image_where_prompts_may_go_without(ready: Any) -> None:
    batch = encoded(ready("PaliGemmaForConditionalGeneration"), [LoadedSample(text="a cat"), LoadedSample(text="the red dog")])
    assert "pixel_values" not in batch and batch["input_ids"][0].tolist() == [BOS, *make_tokenizer()("a cat")["input_ids"][1:], PAD]


def test_padding_of_sound_is_no_token(ready: Any) -> None:
    module, processors = ready("Data2VecAudioForCTC")
    batch = encoded((module, processors))
    codes = next(iter(FAMILY.tokens(module, batch).values()))
    assert codes.shape == (3, 100) and (codes == encoding.AUDIO).sum(1).tolist() == [100, 95, 90]


class Speaking(hf.BertModel):
    """A class of a user's own, which says of itself how it is fed."""

    modalities = ("text",)

    def encode(self, loaded: list[LoadedSample]) -> dict[str, Tensor]:
        """A token of ones for each sample."""
        return {"input_ids": torch.ones(len(loaded), 1, dtype=torch.long)}


def test_own_class_comes_first() -> None:
    module = Speaking(hf.BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))
    assert transformers_models.encode(module, Processors(), [LoadedSample(text="a")] * 2)["input_ids"].shape == (2, 1)
    assert transformers_models.modalities(made("EncodecModel")) == ("audio",), "whose own encode means something else"
