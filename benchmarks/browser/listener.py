"""A small Whisper that names three sounds in a row, trained here in a minute: `First a beep, then a hiss, at last a fall.`

Everything but its size is Whisper's own: a byte-level tokenizer with Whisper's special tokens and its 1501 timestamps, the feature
extractor with 80 mel bands, generation settings with languages and tasks. A sound lasts 2 s, so that there are 100 positions
of 0.02 s. Test sounds are rows of three that training never heard.
"""

from __future__ import annotations

import itertools
import json
import random
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.models.whisper.tokenization_whisper import LANGUAGES

RATE, SECONDS, PART = 16000, 2, 8000  # hertz, of one sound; samples of each of its three parts, silence behind them
STEPS, BATCH, LEARNING_RATE, TRAINING, TEST = 600, 32, 2e-3, 160, 16
_BEHIND_LANGUAGES = ("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
_END, _START = "<|endoftext|>", "<|startoftranscript|>"
_PADDING = -100  # a label that the loss leaves out

Sound = np.ndarray[Any, np.dtype[np.float32]]


def _sweep(low: float, high: float) -> Sound:
    """A tone that goes from `low` to `high` hertz."""
    hertz = np.linspace(low, high, PART)
    return np.sin(2 * np.pi * np.cumsum(hertz) / RATE).astype(np.float32)


def _make_part(name: str, noise: np.random.Generator) -> Sound:
    """One of the sounds, a little different each time, (PART,)."""
    shift = float(noise.uniform(0.9, 1.1))
    if name == "hiss":
        return 0.5 * noise.standard_normal(PART).astype(np.float32)
    if name == "click":
        return np.where(np.arange(PART) % int(1200 * shift) < 40, 1, 0).astype(np.float32)
    low, high = {"beep": (1000, 1000), "hum": (150, 150), "rise": (400, 3000), "fall": (3000, 400)}[name]
    return _sweep(low * shift, high * shift)


KINDS = ("beep", "hum", "hiss", "click", "rise", "fall")


def make_sound(names: Sequence[str], seed: int) -> Sound:
    """The three sounds one after the other, with a little noise, (3 * PART,) between -1 and 1."""
    noise = np.random.default_rng(seed)
    parts = [float(noise.uniform(0.3, 0.8)) * _make_part(name, noise) for name in names]
    sound = np.concatenate(parts) + 0.003 * noise.standard_normal(3 * PART)
    return np.clip(sound, -1, 1).astype(np.float32)


def name_sounds(names: Sequence[str]) -> str:
    """What is to be said, with the space in front that Whisper's words have."""
    return f" First a {names[0]}, then a {names[1]}, at last a {names[2]}."


def split_rows() -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Rows of three sounds to train with, and others to test with."""
    rows = list(itertools.product(KINDS, repeat=3))
    random.Random(0).shuffle(rows)
    return rows[:TRAINING], rows[TRAINING : TRAINING + TEST]


def make_tokenizer() -> Any:
    """A WhisperTokenizer of the sentences that are said; its ids stand as Whisper's do: words, special tokens, timestamps."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    learned.train_from_iterator([name_sounds(row) for row in split_rows()[0]], trainer)
    parts = json.loads(learned.to_str())["model"]
    tokenizer = hf.WhisperTokenizer(parts["vocab"], [tuple(pair) for pair in parts["merges"]])
    special = [_END, _START, *(f"<|{code}|>" for code in LANGUAGES), *_BEHIND_LANGUAGES]
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:], "pad_token": _END})
    tokenizer.add_tokens([f"<|{i * 0.02:.2f}|>" for i in range(1501)])
    tokenizer.set_prefix_tokens(language="english", task="transcribe", predict_timestamps=False)
    return tokenizer


def make_model(tokenizer: Any) -> Any:
    """The untrained model, and its generation settings."""
    ids = tokenizer.convert_tokens_to_ids
    end, start = ids(_END), ids(_START)
    torch.manual_seed(0)
    config = hf.WhisperConfig(
        d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=128, decoder_ffn_dim=128, num_mel_bins=80, max_source_positions=50 * SECONDS, max_target_positions=48,
        vocab_size=len(tokenizer), pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start,
        begin_suppress_tokens=None, suppress_tokens=None,
    )  # fmt: skip
    module = hf.WhisperForConditionalGeneration(config)
    module.generation_config = hf.GenerationConfig(
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start, max_length=48,
        is_multilingual=True, no_timestamps_token_id=ids("<|notimestamps|>"), prev_sot_token_id=ids("<|startofprev|>"),
        lang_to_id={f"<|{code}|>": ids(f"<|{code}|>") for code in LANGUAGES},
        task_to_id={task: ids(f"<|{task}|>") for task in ("transcribe", "translate")},
        begin_suppress_tokens=[ids("Ġ"), end], return_timestamps=False, max_initial_timestamp_index=50,
    )  # fmt: skip
    return module


def write_listener(folder: Path) -> None:
    """Train the model and save it with its tokenizer and feature extractor."""
    tokenizer = make_tokenizer()
    extractor = hf.WhisperFeatureExtractor(feature_size=80, chunk_length=SECONDS)
    module = make_model(tokenizer).train()
    rows = split_rows()[0]
    sounds = [make_sound(row, seed) for seed, row in enumerate(rows)]
    features = extractor(sounds, sampling_rate=RATE, return_tensors="pt").input_features  # (rows, 80, 200)
    said = tokenizer([name_sounds(row) for row in rows], padding=True, return_tensors="pt")
    labels = said.input_ids.masked_fill(said.attention_mask == 0, _PADDING)  # the end token is a word here, and is padding too
    _train(module, features, labels)
    hf.WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    module.eval().save_pretrained(folder)


def _train(module: Any, features: torch.Tensor, labels: torch.Tensor) -> None:
    """`labels` (rows, tokens) begin with the start token, which the model is given and need not say."""
    optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    for _ in range(STEPS):
        places = torch.randint(len(features), (BATCH,))
        given = labels[places, :-1].clamp(min=0)
        scores = module(input_features=features[places], decoder_input_ids=given).logits
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), labels[places, 1:].flatten(), ignore_index=_PADDING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def write_sounds(folder: Path) -> Path:
    """WAV files of the test rows beside their `data.jsonl`, as `trimodal compress` reads them; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, row in enumerate(split_rows()[1]):
        name = f"sound-{number:02}.wav"
        with wave.open(str(folder / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((make_sound(row, 1000 + number) * 32767).astype("<i2").tobytes())
        lines.append(json.dumps({"audio": name, "text": name_sounds(row).strip()}))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    return folder
