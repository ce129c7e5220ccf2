"""From loaded samples to tensors, one function per modality. Families choose which of them their forward takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from trimodal.core import MODALITIES, TOKEN_KINDS
from trimodal.errors import DataError, ModelError
from trimodal.layers import place_unmarked
from trimodal.maths.token_choice import count_kept_tokens
from trimodal.models.model import LoadedSample, Processors

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGE, AUDIO, TEXT = (MODALITIES.index(modality) for modality in ("image", "audio", "text"))
ANSWER = TOKEN_KINDS.index("answer")
PADDING = -1
NO_LABEL = -100  # what Transformers leaves out of a loss
USUAL_TOKENS = 128  # length of a text when operations are counted, where the model takes that many
_FILES = {
    "image": "preprocessor_config.json",
    "audio": "preprocessor_config.json",
    "text": "tokenizer.json",
    "whole": "processor_config.json",
}


def require_modalities(loaded: Sequence[LoadedSample], *modalities: str) -> None:
    """Check that every sample holds every one of `modalities`.

    Raises:
        DataError: a sample lacks one.
    """
    for position, sample in enumerate(loaded, start=1):
        lacking = [m for m in modalities if getattr(sample, m) is None]
        if lacking:
            raise DataError(
                f"Sample {position} of a batch of {len(loaded)} holds no {' and no '.join(lacking)}; "
                f"this model needs {' and '.join(modalities)} in every line."
            )


def get_processor(processors: Processors, part: str) -> Any:
    """The `part` (`image`, `audio`, `text`, `whole`) of the model's processors.

    Raises:
        ModelError: the model's folder lacks it.
    """
    found = getattr(processors, part)
    if found is None:
        raise ModelError(
            f"The model folder has no {_FILES[part]}, which turns {'samples' if part == 'whole' else part} into "
            "tensors; copy it from where the model was published into the folder."
        )
    return found


def encode_images(processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """`pixel_values` (batch, channels, height, width) in float32."""
    require_modalities(loaded, "image")
    found = get_processor(processors, "image")(images=[sample.image for sample in loaded], return_tensors="pt")
    return {"pixel_values": found["pixel_values"]}


def tokenize_texts(tokenizer: Any, texts: Sequence[str], limit: int | None) -> list[list[int]]:
    """Token ids of each text, special tokens included, at most `limit` of them."""
    cut: dict[str, Any] = {"truncation": True, "max_length": limit} if limit is not None else {}
    ids: list[list[int]] = tokenizer(list(texts), **cut)["input_ids"]
    return ids


def pad_token_rows(rows: Sequence[Sequence[int]], pad: int, length: int = 0) -> tuple[Tensor, Tensor]:
    """Ids (batch, tokens) padded on the right to the longest row or to `length`, and their mask of ones and zeros."""
    length = max(length, *(len(row) for row in rows))
    ids = torch.full((len(rows), length), pad, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return ids, mask


def encode_texts(
    processors: Processors, loaded: Sequence[LoadedSample], limit: int | None = None, full: bool = False
) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` (batch, tokens), cut off after `limit` tokens.

    `full` pads every text to `limit` and gives no mask, for models that were trained so (SigLIP).
    """
    require_modalities(loaded, "text")
    tokenizer = get_processor(processors, "text")
    rows = tokenize_texts(tokenizer, [sample.text or "" for sample in loaded], limit)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ids, mask = pad_token_rows(rows, pad, limit or 0 if full else 0)
    return {"input_ids": ids} if full else {"input_ids": ids, "attention_mask": mask}


def collect_waveforms(loaded: Sequence[LoadedSample], rate: int) -> list[NDArray[np.float32]]:
    """The samples' audio at `rate` Hz, mono, float32."""
    require_modalities(loaded, "audio")
    return [resample_waveform(sample.audio, sample.sampling_rate, rate) for sample in loaded if sample.audio is not None]


def resample_waveform(wave: NDArray[np.float32], old: int, new: int) -> NDArray[np.float32]:
    """`wave` (samples,) at `old` Hz as it would be at `new` Hz (polyphase filter).

    Raises:
        DataError: the old rate is not positive, or scipy is not installed.
    """
    if old == new:
        return wave
    if old <= 0:
        raise DataError(f"Audio with a sampling rate of {old} Hz, expected a positive rate; check the file.")
    try:
        from scipy.signal import resample_poly
    except ImportError as missing:
        raise DataError(
            f"The audio has {old} Hz and the model takes {new} Hz, but scipy, which converts it, is not installed; "
            "run pip install 'trimodal[audio]'."
        ) from missing
    shared = gcd(old, new)
    return np.asarray(resample_poly(wave, new // shared, old // shared), dtype=np.float32)


def encode_audio(processors: Processors, loaded: Sequence[LoadedSample], **options: Any) -> dict[str, Tensor]:
    """What the model's feature extractor gives: `input_features` (batch, mels, frames) or `input_values` (batch, samples), and its
    mask if it has one."""
    extractor = get_processor(processors, "audio")
    rate = int(extractor.sampling_rate)
    found = extractor(collect_waveforms(loaded, rate), sampling_rate=rate, return_tensors="pt", **options)
    return {name: torch.as_tensor(value) for name, value in found.items()}


def cast_floats(module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The batch with its floating-point tensors in the module's own dtype, so that a half-precision model takes them."""
    dtype = _float_dtype_of(module)
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}


def mark_text_tokens(batch: Mapping[str, Tensor], ids: str = "input_ids", mask: str = "attention_mask") -> Tensor:
    """(batch, tokens): TEXT where the mask is one, ANSWER where there is a label too, PADDING elsewhere."""
    tokens = torch.full_like(batch[ids], TEXT, dtype=torch.long)
    if "labels" in batch and batch["labels"].shape == tokens.shape:
        tokens = tokens.masked_fill(batch["labels"] != NO_LABEL, ANSWER)
    return tokens.masked_fill(batch[mask] == 0, PADDING) if mask in batch else tokens


def leave_out_unread(codes: Tensor, media: Tensor, share: float, each: int = 0) -> Tensor:
    """`codes` (batch, tokens) of what a decoder reads, (batch, fewer): of the tokens that are `media`, bool (batch, tokens), a `share` is
    left out, of so many (`each`) that are one image or sound, or 0 of all in a row. Which they are is known only when the model runs, but
    they are all alike."""
    number = media.cumsum(dim=1) - 1
    counts = [each] * len(media) if each else media.sum(dim=1).tolist()
    keep = torch.tensor([count_kept_tokens(count, share) for count in counts], device=media.device)[:, None]
    places, live = place_unmarked(media & ((number % each if each else number) >= keep))
    return codes.gather(1, places).masked_fill(~live, PADDING)


def make_answer_labels(processors: Processors, loaded: Sequence[LoadedSample], ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """`labels` (batch, tokens): the ids of each sample's target at the end of its text, NO_LABEL elsewhere; nothing
    where no sample has a target.

    A target's length is counted alone; a tokenizer that merges across its border may be off by one token.
    """
    if not any(sample.target for sample in loaded):
        return {}
    tokenizer = processors.text if processors.text is not None else get_processor(processors, "whole").tokenizer
    labels = torch.full_like(ids, NO_LABEL)
    ends = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    for row, sample in enumerate(loaded):
        if sample.target:
            end = int(mask[row].sum())
            own = tokenizer(f" {sample.target}", add_special_tokens=False)["input_ids"]
            ended = end > 0 and int(ids[row, end - 1]) in ends  # which a target may hold itself
            said = len(own) + (ended and not (own and own[-1] in ends))
            labels[row, max(0, end - said) : end] = ids[row, max(0, end - said) : end]
    return {"labels": labels}


def make_decoder_rows(
    processors: Processors, loaded: Sequence[LoadedSample], start: int, end: int | None, limit: int
) -> list[list[int]]:
    """What a decoder is given for each sample, at most `limit` ids: the `start` token, then all of the target, or else of the
    text, but its `end`, which only has to be predicted."""
    said = [sample.target or sample.text for sample in loaded]
    if not any(said):
        return [[int(start)]] * len(said)
    found = tokenize_texts(get_processor(processors, "text"), [text or "" for text in said], None)
    rows = [row if row[:1] == [start] else [int(start), *row] for row in found]
    return [(row[:-1] if row[-1:] == [end] and len(row) > 1 else row)[:limit] for row in rows]


def make_blank_image(module: nn.Module, channels: int, height: int, width: int | None = None) -> dict[str, Tensor]:
    """`pixel_values` (1, channels, height, width) of one black image in the module's dtype and on its device."""
    return {"pixel_values": make_zero_input(module, channels, height, height if width is None else width)}


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """Of an image's size as configurations give it: one number for both, or (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def make_blank_text(module: nn.Module, tokens: int) -> dict[str, Tensor]:
    """`input_ids` int64 (1, tokens) of one text, all of them token 0. No mask: it would only say that all are real."""
    return {"input_ids": torch.zeros(1, tokens, dtype=torch.long, device=_device_of(module))}


def make_zero_input(module: nn.Module, *shape: int) -> Tensor:
    """Zeros (1, *shape) in the module's type and on its device."""
    return torch.zeros(1, *shape, dtype=_float_dtype_of(module), device=_device_of(module))


def _device_of(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def _float_dtype_of(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
