"""Miniatures of all families, made on the fly from seeded random weights: for tests, and to try things offline.

Two blocks, width 32, four heads, a vocabulary of a few dozen words. The weights are larger than those that training
starts from, so that every part has a visible effect on the output.
"""

from __future__ import annotations

import json
import math
import wave
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from torch import Tensor, nn
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from trimodal.errors import InputError, suggest_names
from trimodal.networks import tiny_media, tiny_senses
from trimodal.networks.fusion import FusionConfig, FusionModel, make_processor
from trimodal.networks.tiny_parts import (
    BLOCKS,
    BOS,
    EOS,
    IMAGE_SIZE,
    IMAGE_TOKEN,
    PAD,
    PATCH,
    RATE,
    SAMPLES,
    TEXT_SIZES,
    VISION,
    VOCABULARY,
    WORDS,
    Miniature,
    make_tokenizer,
    make_word_batch,
    prepend_image_tokens,
)
from trimodal.networks.tiny_text import SEQ2SEQ, TEXT


class Mixture(nn.Module):
    """A module of no known family: a recurrent text part, a convolutional image part, and a joint classifier."""

    modalities = ("image", "text")

    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3))
        self.text_embedding = nn.Embedding(VOCABULARY, 16)
        self.text_recurrent = nn.LSTM(16, 16, batch_first=True)
        self.classifier = nn.Sequential(nn.Linear(32, 24), nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 2))

    def example(self) -> dict[str, Tensor]:
        """One sample, all zeros: an image (1, 3, side, side) and three tokens (1, 3)."""
        return {
            "pixel_values": torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE),
            "input_ids": torch.zeros(1, 3, dtype=torch.long),
        }

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
        """(B, 3, S, S) and (B, T) -> scores (B, 2)."""
        seen = self.vision(pixel_values).mean(dim=(2, 3))
        read = self.text_recurrent(self.text_embedding(input_ids))[0][:, -1]
        scores: Tensor = self.classifier(torch.cat([seen, read], dim=1))
        return scores


class Listener(nn.Module):
    """A recognizer of the kind before Transformers: convolution, two-way LSTMs, a GRU, words frame by frame."""

    modalities = ("audio",)

    def __init__(self) -> None:
        super().__init__()
        self.audio_stem = nn.Conv1d(16, 24, 3, stride=2, padding=1)
        self.audio_lstm = nn.LSTM(24, 16, num_layers=2, batch_first=True, bidirectional=True)
        self.audio_gru = nn.GRU(32, 24, bias=False)
        self.audio_words = nn.Linear(24, VOCABULARY)

    def example(self) -> dict[str, Tensor]:
        """One sample, all zeros: `input_features` (1, 16, 6)."""
        return {"input_features": torch.zeros(1, 16, 6)}

    def forward(self, input_features: Tensor) -> Tensor:
        """(B, 16, T) -> scores (B, T/2, VOCABULARY)."""
        heard = self.audio_stem(input_features).relu().transpose(1, 2)
        heard = self.audio_lstm(heard)[0].transpose(0, 1)
        scores: Tensor = self.audio_words(self.audio_gru(heard)[0].transpose(0, 1))
        return scores


def _num_labels_option(n: int) -> dict[str, Any]:
    """The number of classes, which configurations take without declaring it."""
    return {"num_labels": n}


def _make_clip() -> nn.Module:
    return hf.CLIPModel(hf.CLIPConfig(text_config=TEXT_SIZES, vision_config=VISION, projection_dim=16))


def _make_siglip() -> nn.Module:
    return hf.SiglipModel(hf.SiglipConfig(text_config={**TEXT_SIZES, "projection_size": 32}, vision_config=VISION))


def _make_vit() -> nn.Module:
    return hf.ViTForImageClassification(hf.ViTConfig(**VISION))


def _make_dinov2() -> nn.Module:
    sizes = {name: value for name, value in VISION.items() if name != "intermediate_size"}
    return hf.Dinov2ForImageClassification(hf.Dinov2Config(**sizes, mlp_ratio=2))


def _make_bert() -> nn.Module:
    return hf.BertModel(hf.BertConfig(**TEXT_SIZES))


def _make_whisper() -> nn.Module:
    config = hf.WhisperConfig(
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=16, max_source_positions=50, max_target_positions=24,
        vocab_size=VOCABULARY, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS,
        begin_suppress_tokens=None, suppress_tokens=None,
    )  # fmt: skip
    return hf.WhisperForConditionalGeneration(config)


def _make_llama() -> nn.Module:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT_SIZES, num_key_value_heads=2, tie_word_embeddings=True))


def _make_qwen3() -> nn.Module:
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**TEXT_SIZES, num_key_value_heads=2, head_dim=16))


def _make_llava() -> nn.Module:
    config = hf.LlavaConfig(
        vision_config={**VISION, "model_type": "clip_vision_model"},
        text_config={**TEXT_SIZES, "model_type": "llama", "num_key_value_heads": 2, "max_position_embeddings": 64},
        image_token_index=IMAGE_TOKEN, image_seq_length=(IMAGE_SIZE // PATCH) ** 2, tie_word_embeddings=False,
    )  # fmt: skip
    return hf.LlavaForConditionalGeneration(config)


def _make_clap() -> nn.Module:
    audio = {
        "hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [2, 2], "num_attention_heads": [2, 4],
        "spec_size": 32, "num_mel_bins": 8, "patch_size": 4, "patch_stride": [4, 4], "window_size": 4,
    }  # fmt: skip
    text = {**TEXT_SIZES, "pad_token_id": PAD, "type_vocab_size": 1, "projection_dim": 16}
    config = hf.ClapConfig(text_config=text, audio_config={**audio, "projection_dim": 16}, projection_dim=16)
    return hf.ClapModel(config)


def _make_wav2vec2() -> nn.Module:
    config = hf.Wav2Vec2Config(
        **BLOCKS, vocab_size=VOCABULARY, conv_dim=(16, 16, 16), conv_stride=(5, 4, 4), conv_kernel=(10, 3, 3),
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, pad_token_id=PAD, layerdrop=0.0,
    )  # fmt: skip
    return hf.Wav2Vec2ForCTC(config)


def _make_ast() -> nn.Module:
    config = hf.ASTConfig(**BLOCKS, max_length=48, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8)
    return hf.ASTForAudioClassification(config)


def _make_resnet(layer_type: str) -> nn.Module:
    sizes: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 2]}
    return hf.ResNetForImageClassification(hf.ResNetConfig(**sizes, layer_type=layer_type, **_num_labels_option(2)))


def _make_fusion() -> nn.Module:
    streams = ("image", "audio", "text", "fusion")
    sizes: dict[str, Any] = {f"{s}_{what}": n for s in streams for what, n in (("width", 32), ("blocks", 2))}
    sizes |= {"head_dim": 8, "mlp_ratio": 2, "audio_mels": 16, "audio_frames": 100, "text_tokens": 16}
    return FusionModel(FusionConfig(**sizes, vocabulary_size=VOCABULARY, **_num_labels_option(4)))


def _make_text(name: str) -> Callable[[], nn.Module]:
    return lambda: TEXT[name](TEXT_SIZES)


MEDIA: Mapping[str, Miniature] = {**tiny_media.MEDIA, **tiny_senses.SENSES}
MINIATURES: Mapping[str, Callable[[], nn.Module]] = {
    "clip": _make_clip,
    "siglip": _make_siglip,
    "vit": _make_vit,
    "dinov2": _make_dinov2,
    "bert": _make_bert,
    "whisper": _make_whisper,
    "llama": _make_llama,
    "qwen3": _make_qwen3,
    "llava": _make_llava,
    "clap": _make_clap,
    "wav2vec2": _make_wav2vec2,
    "ast": _make_ast,
    "resnet": lambda: _make_resnet("bottleneck"),
    "resnet-basic": lambda: _make_resnet("basic"),
    "fusion": _make_fusion,
    "generic": Mixture,
    "lstm": Listener,
    **{name: _make_text(name) for name in ("gpt2", "t5", "mixtral")},
    **{name: MEDIA[name].make for name in ("qwen2-vl", "swin")},
}
# Families that are tried by themselves and not with every method, which would take too long.
_TEXTS = {name: _make_text(name) for name in TEXT if name not in MINIATURES}
FURTHER: Mapping[str, Callable[[], nn.Module]] = {**_TEXTS, **{name: kind.make for name, kind in MEDIA.items() if name not in MINIATURES}}
PLAIN = ("generic", "lstm")  # of no family, with no configuration to write


def make_miniature(name: str, seed: int = 0) -> nn.Module:
    """The miniature called `name`, in evaluation mode; same seed, same weights.

    Raises:
        InputError: there is none.
    """
    known = {**MINIATURES, **FURTHER}
    if name not in known:
        raise InputError(f"There is no miniature called {name!r}; {suggest_names(name, known)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = known[name]()
        _enlarge_weights_(module)
    return module.eval()


def _enlarge_weights_(module: nn.Module) -> None:
    """Draw all weights anew: matrices with variance 1 / inputs, vectors near what they are, running statistics near 0
    and 1. What a folder would not hold stays, such as positions that a class works out."""
    left_out = getattr(module, "_keys_to_ignore_on_save", None) or ()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in left_out:
                continue
            noise = torch.randn_like(parameter)
            if "experts." in name and parameter.dim() > 1:  # of which each has inputs of its own
                parameter.copy_(noise / math.sqrt(parameter.shape[-1]))
            elif parameter.dim() > 1:
                parameter.copy_(noise / math.sqrt(max(1, math.prod(parameter.shape[1:]))))
            elif parameter.dim() == 1:
                parameter.add_(0.1 * noise)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
                part.running_mean.normal_(std=0.1)
                part.running_var.uniform_(0.5, 1.5)


def make_miniature_batch(name: str, n: int, seed: int = 0) -> dict[str, Tensor]:
    """Keyword arguments of the miniature's forward for `n` samples, random but sensible: images (n, 3, side, side), tokens int64
    (n, tokens), sounds as each takes them."""
    random = torch.Generator().manual_seed(seed)
    if name in MEDIA:
        return MEDIA[name].batch(n, random)
    pixels = {"pixel_values": torch.randn(n, 3, IMAGE_SIZE, IMAGE_SIZE, generator=random)}
    words = make_word_batch(n, random)
    batches: dict[str, Callable[[], dict[str, Tensor]]] = {
        "clip": lambda: pixels | words,
        "siglip": lambda: pixels | {"input_ids": words["input_ids"]},
        "bert": lambda: words,
        "llama": lambda: words,
        "qwen3": lambda: words,
        "whisper": lambda: {
            "input_features": torch.randn(n, 16, 100, generator=random),
            "decoder_input_ids": words["input_ids"],
            "decoder_attention_mask": words["attention_mask"],
        },
        "llava": lambda: pixels | prepend_image_tokens(words),
        "clap": lambda: words | {
            "input_features": torch.randn(n, 1, 100, 8, generator=random),
            "is_longer": torch.zeros(n, 1, dtype=torch.bool),
        },
        "wav2vec2": lambda: {"input_values": torch.randn(n, 1600, generator=random)},
        "ast": lambda: {"input_values": torch.randn(n, 48, 16, generator=random)},
        "fusion": lambda: words | {
            "pixel_values": torch.randn(n, 1, 16, 16, generator=random),
            "input_features": torch.randn(n, 16, 100, generator=random),
            "audio_mask": torch.ones(n, 100, dtype=torch.long),
        },
        "generic": lambda: pixels | {"input_ids": words["input_ids"]},
        "lstm": lambda: {"input_features": torch.randn(n, 16, 24, generator=random)},
        **dict.fromkeys(TEXT, lambda: words),
        **dict.fromkeys(SEQ2SEQ, lambda: words | {
            f"decoder_{part}": value[:, :8] for part, value in make_word_batch(n, random).items()
        }),
    }  # fmt: skip
    return batches.get(name, lambda: pixels)()


def _make_image_processor() -> Any:
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessorPil(size=size, crop_size=size)


def make_feature_extractor(name: str) -> Any:
    """The feature extractor that fits the audio miniature called `name`."""
    if name == "whisper":
        return hf.WhisperFeatureExtractor(feature_size=16, sampling_rate=RATE, chunk_length=1)
    if name == "clap":
        return hf.ClapFeatureExtractor(
            feature_size=8, sampling_rate=RATE, hop_length=80, max_length_s=0.5, fft_window_size=256,
            frequency_max=8000, truncation="rand_trunc", padding="repeatpad",
        )  # fmt: skip
    if name == "ast":
        return hf.ASTFeatureExtractor(sampling_rate=RATE, num_mel_bins=16, max_length=48)
    return hf.Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True, return_attention_mask=True)


def make_processors(name: str, module: nn.Module) -> Sequence[Any]:
    """What is saved beside the model, each with `save_pretrained`."""
    if name in MEDIA:
        return MEDIA[name].processors()
    if name == "fusion":
        return (make_processor(module.config, [" ".join(WORDS)], sampling_rate=RATE),)  # type: ignore[arg-type]
    if name == "llava":
        return (
            hf.LlavaProcessor(
                _make_image_processor(), make_tokenizer(), patch_size=PATCH, vision_feature_select_strategy="default",
                image_token="<image>", num_additional_image_tokens=1,
            ),
        )  # fmt: skip
    modalities = {
        "clip": "it", "siglip": "it", "vit": "i", "dinov2": "i", "resnet": "i", "resnet-basic": "i", "bert": "t", "llama": "t",
        "qwen3": "t", "whisper": "at", "clap": "at", "wav2vec2": "a", "ast": "a", **dict.fromkeys(TEXT, "t"),
    }.get(name, "")  # fmt: skip
    parts = {"i": _make_image_processor, "a": lambda: make_feature_extractor(name), "t": make_tokenizer}
    return tuple(make() for letter, make in parts.items() if letter in modalities)


def write_miniature(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the miniature called `name` as a complete Hugging Face folder and return it: configuration, safetensors, and all
    processors it needs.

    Raises:
        InputError: it is one of those in `PLAIN`, which have no configuration to write.
    """
    module = make_miniature(name, seed)
    if not isinstance(module, hf.PreTrainedModel):
        raise InputError(f"The miniature {name!r} is a plain module and has no folder; use miniature({name!r}).")
    folder.mkdir(parents=True, exist_ok=True)
    module.save_pretrained(folder)
    for part in make_processors(name, module):
        part.save_pretrained(folder)
    return folder


def write_miniature_data(folder: Path, n: int, modalities: Sequence[str], seed: int = 0) -> Path:
    """Write `n` samples and return the path of their `data.jsonl`: noisy coloured PNGs, tones in 16-bit WAV, short
    sentences; with `label`, `labels`, `target` and `group`."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(n):
        line: dict[str, Any] = {"label": i % 2, "labels": dict.fromkeys(modalities, i % 2), "group": f"g{i // 4}"}
        if "image" in modalities:
            line["image"] = f"image-{i}.png"
            colour = random.integers(0, 200, 3)
            pixels = (colour + random.integers(0, 56, (40, 48, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / line["image"])
        if "audio" in modalities:
            line["audio"] = f"audio-{i}.wav"
            _write_tone(folder / line["audio"], float(random.uniform(200, 2000)), random)
        if "text" in modalities:
            line["text"] = " ".join(random.choice(WORDS, int(random.integers(4, 9))))
        line["target"] = " ".join(random.choice(WORDS, 4))
        lines.append(json.dumps(line))
    path = folder / "data.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _write_tone(path: Path, hertz: float, random: np.random.Generator) -> None:
    """Half a second of a tone with some noise, 16 bits, mono."""
    time = np.arange(SAMPLES) / RATE
    signal = 0.5 * np.sin(2 * np.pi * hertz * time) + 0.02 * random.standard_normal(SAMPLES)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(signal, -1, 1) * 32767).astype("<i2").tobytes())
