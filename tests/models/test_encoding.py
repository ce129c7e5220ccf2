"""From samples to tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from trimodal.errors import DataError, ModelError
from trimodal.models import encoding
from trimodal.models.families import family_of
from trimodal.models.model import LoadedSample, Processors
from trimodal.networks.tiny import make_miniature, make_tokenizer

SOUND = np.sin(np.arange(8000, dtype=np.float32) / 10)


def test_text_is_padded_on_the_right_and_cut_at_the_limit() -> None:
    samples = [LoadedSample(text="a red cat"), LoadedSample(text="the dog sings and runs and sleeps")]
    batch = encoding.encode_texts(Processors(text=make_tokenizer()), samples, limit=6)
    assert batch["input_ids"].shape == (2, 6)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6]
    assert batch["input_ids"][0, 5] == 0
    full = encoding.encode_texts(Processors(text=make_tokenizer()), samples, limit=16, full=True)
    assert set(full) == {"input_ids"} and full["input_ids"].shape == (2, 16)


def test_missing_modality_names_the_sample() -> None:
    samples = [LoadedSample(text="a", image=Image.new("RGB", (8, 8))), LoadedSample(text="b")]
    module = make_miniature("clip")
    with pytest.raises(DataError, match=r"Sample 2 of a batch of 2 holds no image; this model needs image and text"):
        family_of(module).encode(module, Processors(), samples)


def test_missing_processor_names_its_file() -> None:
    module = make_miniature("bert")
    with pytest.raises(ModelError, match=r"no tokenizer\.json.*copy it"):
        family_of(module).encode(module, Processors(), [LoadedSample(text="a")])


def test_resampling_keeps_the_tone() -> None:
    time = np.arange(8000) / 8000
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    up = encoding.resample_waveform(tone, 8000, 16000)
    assert up.shape == (16000,) and up.dtype == np.float32
    assert np.abs(np.fft.rfft(up)).argmax() == 440
    assert encoding.resample_waveform(tone, 8000, 8000) is tone
    with pytest.raises(DataError, match="sampling rate of 0 Hz"):
        encoding.resample_waveform(tone, 0, 8000)


def test_floats_take_the_modules_type() -> None:
    module = torch.nn.Linear(2, 2).to(torch.bfloat16)
    batch = encoding.cast_floats(module, {"x": torch.zeros(1), "ids": torch.zeros(1, dtype=torch.long)})
    assert (batch["x"].dtype, batch["ids"].dtype) == (torch.bfloat16, torch.long)


def test_whisper_says_the_target_without_its_end() -> None:
    from trimodal.networks.tiny import EOS, make_feature_extractor

    module = make_miniature("whisper")
    parts = Processors(audio=make_feature_extractor("whisper"), text=make_tokenizer())
    silent = LoadedSample(audio=SOUND, sampling_rate=8000)
    samples = [replace(silent, target="a red cat"), replace(silent, text="dog")]
    batch = family_of(module).encode(module, parts, samples)
    assert batch["input_features"].shape == (2, 16, 100)
    assert batch["decoder_attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert EOS not in batch["decoder_input_ids"]
    codes = family_of(module).tokens(module, batch)
    assert codes["text"].tolist() == [[2, 2, 2, 2], [2, 2, -1, -1]]
    assert codes["text.cross"].shape == (2, 50) and torch.equal(codes["text.cross"], codes["audio"])
    assert batch["attention_mask"].shape == (2, 100)
    assert torch.equal(codes["audio"] == 1, batch["attention_mask"][:, ::2] == 1)
    module(**batch)
    alone = family_of(module).encode(module, parts, [silent])
    assert alone["decoder_input_ids"].shape == (1, 1)


def test_llava_stream_is_image_where_the_patches_are() -> None:
    from trimodal.networks.tiny import make_processors

    module = make_miniature("llava")
    (whole,) = make_processors("llava", module)
    samples = [LoadedSample(image=Image.new("RGB", (40, 30)), text="what is this", target="a cat"),
               LoadedSample(image=Image.new("RGB", (40, 30)), text="<image> dog")]  # fmt: skip
    batch = family_of(module).encode(module, Processors(whole=whole), samples)
    codes = family_of(module).tokens(module, batch)["text"]
    assert (codes == 0).sum(dim=1).tolist() == [16, 16]
    assert (codes == encoding.ANSWER).sum(dim=1).tolist() == [3, 0]
    answer = batch["input_ids"][0][codes[0] == encoding.ANSWER]
    assert whole.tokenizer.decode(answer).split() == ["a", "cat", "[EOS]"]
    assert torch.equal(batch["labels"] != encoding.NO_LABEL, codes == encoding.ANSWER)
    assert (codes == -1).any(dim=1).tolist() == [False, True]
    module(**batch)


def test_wav2vec2_leaves_padding_out() -> None:
    module = make_miniature("wav2vec2")
    mask = torch.ones(2, 1600, dtype=torch.long)
    mask[1, 800:] = 0
    codes = family_of(module).tokens(module, {"input_values": torch.zeros(2, 1600), "attention_mask": mask})["audio"]
    with torch.no_grad():
        assert codes.shape == module(torch.zeros(2, 1600)).logits.shape[:2]
    assert (codes[0] == 1).all() and (codes[1] == -1).sum() == 10


def test_llama_knows_its_answer_from_the_prompt() -> None:
    module, parts = make_miniature("llama"), Processors(text=make_tokenizer())
    batch = family_of(module).encode(module, parts, [LoadedSample(text="a red", target="cat"), LoadedSample(text="dog")])
    codes = family_of(module).tokens(module, batch)["text"]
    real = batch["attention_mask"] == 1
    assert ((codes == encoding.ANSWER) == (batch["labels"] != encoding.NO_LABEL)).all()
    assert (codes == encoding.ANSWER).any(dim=1).tolist() == [True, False] and (codes[real] >= 0).all()
    assert "labels" not in family_of(module).encode(module, parts, [LoadedSample(text="a red")])
    module(**batch)
