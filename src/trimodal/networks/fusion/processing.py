"""Turns images, sounds and words into the fused model's inputs, with Transformers' own parts.

Images: `ViTImageProcessor` (grey, resized). Sounds: log-mel energies. Words: a word-level fast tokenizer. One
folder holds all three, and ``FusionProcessor.from_pretrained(folder)`` reads it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerFast, ProcessorMixin, WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from trimodal.networks import fusion
from trimodal.networks.fusion.configuration import FusionConfig

PAD, UNKNOWN = "[PAD]", "[UNK]"
FLOOR = 6.0  # bels below the loudest energy of a clip at which its log-mel energies are cut


class FusionFeatureExtractor(WhisperFeatureExtractor):
    """Log-mel energies as Whisper's, for any sampling rate, and independent of how loud the recording is.

    Two departures from Whisper: the filters end at half the sampling rate (Whisper's are fixed to 8 kHz), and
    each clip is scaled by its own loudest energy, so that the values lie in [-1, 1] at any volume.
    """

    def __init__(
        self,
        feature_size: int = 40,
        sampling_rate: int = 8000,
        hop_length: int = 80,
        chunk_length: int = 1,
        n_fft: int = 256,
        return_attention_mask: bool = True,
        **kwargs: Any,
    ) -> None:
        # Whisper's constructor builds filters of its own and warns about those above half the sampling rate.
        # They are replaced below, so it is given a rate at which it has nothing to warn about.
        super().__init__(  # type: ignore[no-untyped-call, unused-ignore]
            feature_size=feature_size, sampling_rate=16000, hop_length=hop_length, chunk_length=chunk_length,
            n_fft=512, return_attention_mask=return_attention_mask, **kwargs,
        )  # fmt: skip
        self.sampling_rate = sampling_rate
        self.n_fft = n_fft
        self.n_samples = chunk_length * sampling_rate
        self.nb_max_frames = self.n_samples // hop_length
        self.mel_filters = mel_filter_bank(
            num_frequency_bins=1 + n_fft // 2, num_mel_filters=feature_size,
            min_frequency=60.0, max_frequency=sampling_rate / 2, sampling_rate=sampling_rate, mel_scale="htk",
        )  # fmt: skip

    def compute_log_mel(self, waveforms: Tensor) -> Tensor:
        """Samples (B, N) float -> log-mel energies (B, mels, N / hop) float32 in [-1, 1]."""
        window = torch.hann_window(self.n_fft, device=waveforms.device)
        spectrum = torch.stft(waveforms.float(), self.n_fft, self.hop_length, window=window, return_complex=True)
        power = spectrum[..., :-1].abs().square().contiguous()
        filters = torch.as_tensor(self.mel_filters, dtype=torch.float32, device=waveforms.device)
        energy = (filters.T @ power).clamp(min=1e-10).log10()
        loudest = energy.amax(dim=(1, 2), keepdim=True)
        return ((energy - loudest).clamp(min=-FLOOR) + FLOOR / 2) / (FLOOR / 2)

    def _torch_extract_fbank_features(self, waveform: np.ndarray[Any, Any], device: str = "cpu") -> Any:
        """Whisper's hook: samples (B, N) -> (B, mels, frames) as NumPy."""
        return self.compute_log_mel(torch.from_numpy(waveform).to(device)).cpu().numpy()


class FusionProcessor(ProcessorMixin):
    """Images, sounds and words -> the model's inputs, named in `model_input_names`."""

    def __init__(
        self,
        image_processor: Any = None,
        feature_extractor: Any = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        parts = (image_processor, feature_extractor, tokenizer)
        super().__init__(*parts, **kwargs)  # type: ignore[no-untyped-call, unused-ignore]

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        audio: Any = None,
        sampling_rate: int | None = None,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs for what is given; each argument is one item or a list of items, of equal length.

        `audio` items are float samples (N,); `sampling_rate` in Hz must be the extractor's where it is given.
        """
        if images is None and text is None and audio is None:
            raise ValueError("Nothing to process: give images, text or audio.")
        data: dict[str, Any] = {}
        if images is not None:
            data.update(self.image_processor(images, return_tensors=return_tensors))
        if audio is not None:
            data.update(self.audio_inputs(audio, sampling_rate, return_tensors))
        if text is not None:
            words = [text] if isinstance(text, str) else list(text)
            data.update(self.text_inputs(words, return_tensors, **kwargs))
        return BatchFeature(data)

    def audio_inputs(self, audio: Any, sampling_rate: int | None, return_tensors: str) -> dict[str, Any]:
        """Sounds -> `input_features` (B, mels, frames) float32 and `audio_mask` (B, frames) int."""
        rate = self.feature_extractor.sampling_rate if sampling_rate is None else sampling_rate
        features = self.feature_extractor(
            audio, sampling_rate=rate, return_tensors=return_tensors, return_attention_mask=True
        )
        return {"input_features": features["input_features"], "audio_mask": features["attention_mask"]}

    def text_inputs(self, words: list[str], return_tensors: str, **kwargs: Any) -> dict[str, Any]:
        """Texts -> `input_ids` and `attention_mask`, int64 (B, longest)."""
        options = {"padding": True, "truncation": True} | kwargs
        return dict(self.tokenizer(words, return_tensors=return_tensors, **options))

    @property
    def model_input_names(self) -> list[str]:
        """The names of the tensors that the model takes."""
        return ["pixel_values", "input_features", "audio_mask", "input_ids", "attention_mask"]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> FusionProcessor:
        """Read a folder; see `ProcessorMixin.from_pretrained`."""
        fusion.register()  # Transformers finds the feature extractor's class by its registered name
        return super().from_pretrained(*args, **kwargs)


def make_word_tokenizer(texts: Iterable[str], longest: int) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that knows the words of `texts` in lower case; it cuts at `longest` tokens."""
    pieces = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    words = sorted({word for text in texts for word, _ in pieces.pre_tokenize_str(text.lower())})
    vocabulary = {word: number for number, word in enumerate([PAD, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pieces
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call, unused-ignore]
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, model_max_length=longest,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def make_processor(config: FusionConfig, texts: Iterable[str], sampling_rate: int = 8000) -> FusionProcessor:
    """A processor that fits `config` and knows the words of `texts`; audio frames are 10 ms apart."""
    side = config.image_size
    images = ViTImageProcessorPil(size={"height": side, "width": side}, image_mean=[0.5], image_std=[0.25])
    hop = sampling_rate // 100
    sounds = FusionFeatureExtractor(
        feature_size=config.audio_mels, sampling_rate=sampling_rate, hop_length=hop,
        chunk_length=-(-config.audio_frames * hop // sampling_rate),
    )  # fmt: skip
    return FusionProcessor(images, sounds, make_word_tokenizer(texts, config.text_tokens))
