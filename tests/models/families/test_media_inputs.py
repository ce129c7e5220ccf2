"""What families that see or hear make of samples: the model takes it, and it is what the model's own processor makes where that can be
loaded without torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from torch import Tensor, nn

from trimodal.errors import DataError
from trimodal.models.families import family_of
from trimodal.models.families.idefics3 import spell_image
from trimodal.models.families.llava_next import count_image_tokens
from trimodal.models.model import LoadedSample, Processors
from trimodal.models.processors import find_processors
from trimodal.networks import tiny, tiny_media, tiny_senses

NAMES = [*tiny_media.MEDIA, *tiny_senses.SENSES]
TARGETED = [*tiny_media.MEDIA, "blip2"]


def sample(number: int, target: str | None = "two birds") -> LoadedSample:
    """An image of its own size, half a second of noise, a few words."""
    random = np.random.default_rng(number)
    return LoadedSample(
        image=Image.fromarray(random.integers(0, 255, (40, 48 + 8 * number, 3), dtype=np.uint8)),
        audio=random.standard_normal(8000).astype(np.float32),
        sampling_rate=tiny.RATE,
        text=("the dog", "a red cat runs")[number],
        target=target,
    )


def opened(name: str, folder: Path) -> tuple[Any, Processors]:
    """The miniature, and the processors of its folder."""
    return tiny.make_miniature(name), find_processors(tiny.write_miniature(name, folder / name))


def encoded(module: nn.Module, processors: Processors, *samples: LoadedSample) -> dict[str, Tensor]:
    return family_of(module).encode(module, processors, samples)


def spell(name: str) -> tuple[int, ...]:
    """The ids of the words of a target."""
    return tuple(tiny_media.make_tokenizer()(name, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("name", NAMES)
def test_the_model_takes_what_its_family_encodes(name: str, tmp_path: Path) -> None:
    module, processors = opened(name, tmp_path)
    family = family_of(module)
    batch = encoded(module, processors, sample(0), sample(1))
    with torch.no_grad():
        assert all(output.select_tensor(module(**batch)) is not None for output in family.outputs(module))
        assert module(**encoded(module, processors, sample(0, None))) is not None
    for tower, kinds in family.tokens(module, batch).items():
        assert len(kinds) == 2 and tower.partition(".")[0] in {t.name for t in family.describe(module).towers}
    if name in TARGETED:
        said = batch["labels"][0][batch["labels"][0] >= 0].tolist()
        assert tuple(said[:2]) == spell("two birds") and said[2:] in ([], [tiny.EOS])
        held = family.tokens(module, batch)["text"]
        assert bool((held[batch["labels"] >= 0] == held.max()).all())  # the answer is the last of the kinds


@pytest.mark.parametrize("name", NAMES)
def test_an_example_of_the_usual_size_runs(name: str) -> None:
    module = tiny.make_miniature(name)
    with torch.no_grad():
        assert module(**family_of(module).example(module)) is not None


def compare(batch: dict[str, Tensor], found: Any) -> None:
    """Whether the processor gives the same, as far as both have it."""
    assert {"input_ids", "attention_mask"} < batch.keys() & found.keys()
    for key in batch.keys() & found.keys():
        assert torch.equal(batch[key], torch.as_tensor(found[key]).to(batch[key].dtype)), key


def test_prompts_of_pieces_are_those_of_idefics3s_processor(tmp_path: Path) -> None:
    module, processors = opened("idefics3", tmp_path)
    one = sample(1, None)
    batch = encoded(module, processors, one)
    assert batch["pixel_values"].shape[1] == 5
    compare(batch, processors.whole(images=[[one.image]], text=[f"<image>\n{one.text}"], return_tensors="pt"))
    assert spell_image("<image>", 2, 0, 0).count("<image>") == 2


def test_prompts_of_pieces_are_those_of_llava_nexts_processor(tmp_path: Path) -> None:
    module, processors = opened("llava-next", tmp_path)
    whole = hf.LlavaNextProcessor(
        processors.image, processors.text, patch_size=tiny.PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        image_token="<image>",
    )  # fmt: skip
    for one in (sample(0, None), sample(1, None)):
        compare(encoded(module, processors, one), whole(images=[one.image], text=[f"<image>\n{one.text}"], return_tensors="pt"))
    assert count_image_tokens(module, torch.tensor([[32, 64], [32, 32]])) == [16 + 4 * 9, 16 + 4 * 5]


def test_prompts_with_sound_are_those_of_qwen2_audios_processor(tmp_path: Path) -> None:
    module, processors = opened("qwen2-audio", tmp_path)
    one = sample(0, None)
    text = f"<|audio_bos|><audio><|audio_eos|>\n{one.text}"
    found = processors.whole(audio=[one.audio], text=[text], sampling_rate=tiny.RATE, return_tensors="pt")
    compare(encoded(module, processors, one), found)


def test_patches_have_as_many_placeholders_as_the_grid_says(tmp_path: Path) -> None:
    module, processors = opened("qwen2-vl", tmp_path)
    batch = encoded(module, processors, sample(0), sample(1))
    counts = (batch["input_ids"] == tiny.IMAGE_TOKEN).sum(dim=1)
    assert torch.equal(counts, batch["image_grid_thw"].prod(dim=1) // 4)
    assert torch.equal(batch["mm_token_type_ids"].bool(), batch["input_ids"] == tiny.IMAGE_TOKEN)
    assert len(batch["pixel_values"]) == int(batch["image_grid_thw"].prod(dim=1).sum())


def test_omni_takes_what_all_samples_hold(tmp_path: Path) -> None:
    module, processors = opened("qwen2.5-omni", tmp_path)
    both, heard = sample(0), LoadedSample(audio=sample(1).audio, sampling_rate=tiny.RATE, text="the dog")
    assert {"pixel_values", "input_features"} < encoded(module, processors, both).keys()
    batch = encoded(module, processors, both, heard)
    assert "pixel_values" not in batch and len(batch["input_features"]) == 2
    with pytest.raises(DataError, match="no audio"):
        encoded(module, processors, LoadedSample(text="the dog"))


def test_old_vision_processors_are_not_taken_for_audio(tmp_path: Path) -> None:
    fields = '{"image_processor_type": "ViTImageProcessor", "feature_extractor_type": "ViTFeatureExtractor"}'
    (tmp_path / "preprocessor_config.json").write_text(fields)
    assert find_processors(tmp_path).audio is None


def test_a_writers_start_token_may_stand_in_its_decoders_part_alone(tmp_path: Path) -> None:
    module, processors = opened("trocr", tmp_path)
    whole: Any = module.config
    generation: Any = module.generation_config
    delattr(whole, "decoder_start_token_id")
    generation.decoder_start_token_id, whole.decoder.decoder_start_token_id = None, 5
    assert encoded(module, processors, sample(0))["decoder_input_ids"][0, 0] == 5
    del whole.decoder.decoder_start_token_id
    assert encoded(module, processors, sample(0))["decoder_input_ids"][0, 0] == whole.decoder.bos_token_id
