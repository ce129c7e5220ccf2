"""Prompts for models that speak about images and sounds: the placeholders among the words, as many as there are features.

The folder's own processor knows best. Where there is none, or a package that it needs is missing (a processor for films wants
torchvision), the prompt is put together from the image processor, the feature extractor and the tokenizer, and the model itself is asked
how many features it makes of what they give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.errors import ModelError
from trimodal.models import encoding
from trimodal.models.foreign import run_foreign
from trimodal.models.model import LoadedSample, Processors
from trimodal.models.transformers_models.signature import (
    find_modalities,
    find_placeholder,
    find_position_limit,
    list_parameters,
    read_setting,
)
from trimodal.models.transformers_models.texts import (
    continues_text,
    encode_text_rows,
    find_tokenizer,
    replace_tokenizer,
)

EncodeMedia = Callable[[Sequence[LoadedSample], str], dict[str, Tensor]]
_TYPES = {"image": 1, "audio": 3}  # what processors call tokens that stand for an image or a sound
_TYPE_NAMES = ("mm_token_type_ids", "token_type_ids")
_AROUND = {
    "image": (("vision_start_token_id", "boi_token_id", "boi_token_index"), ("vision_end_token_id", "eoi_token_id", "eoi_token_index")),
    "audio": (("audio_start_token_id", "boa_token_id"), ("audio_end_token_id", "eoa_token_id")),
}


def encode_prompts(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample], media: EncodeMedia) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` (samples, tokens), what the processors make of the samples' images and sounds, and for targets the
    `labels`. `media` encodes the images or the sounds of samples alone.

    Raises:
        DataError: some samples of the batch have an image or a sound and others have none.
        ModelError: the folder lacks a processor, or it fails.
    """
    shown = [m for m in ("image", "audio") if m in find_modalities(module) and getattr(loaded[0], m) is not None]
    encoding.require_modalities(loaded, "text", *shown)
    if not shown:
        return encode_text_rows(module, processors, loaded, find_position_limit(module))
    whole = _load_whole(processors)
    batch = _assemble_prompts(module, processors, loaded, shown, media) if whole is None else _run_whole(whole, loaded, shown)
    batch.pop("labels", None)
    if continues_text(module):
        known = replace_tokenizer(processors, find_tokenizer(processors))
        batch |= encoding.make_answer_labels(known, loaded, batch["input_ids"], batch["attention_mask"])
    return batch


def _load_whole(processors: Processors) -> Any:
    """The combined processor; None without one, or where it cannot be loaded."""
    try:
        return processors.whole
    except ModelError:
        return None


# With the folder's own processor


def _run_whole(processor: Any, loaded: Sequence[LoadedSample], shown: Sequence[str]) -> dict[str, Tensor]:
    """What the combined processor makes of the samples, with one placeholder for each image or sound in the prompt."""
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is not None and tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    told = getattr(processor, "text_kwargs", None) or getattr(processor.valid_processor_kwargs, "_defaults", {}).get("text_kwargs", {})
    given: dict[str, Any] = {"return_tensors": "pt", "text_kwargs": {"padding_side": "right"}}
    if not told.get("padding"):
        given["text_kwargs"]["padding"] = True
    if "image" in shown:
        given["images"] = [[sample.image] for sample in loaded]
    if "audio" in shown:
        rate = int(processor.feature_extractor.sampling_rate)
        given |= {"audio": encoding.collect_waveforms(loaded, rate), "audio_kwargs": {"sampling_rate": rate}}
    prompts = [write_prompt(processor, sample, shown) for sample in loaded]
    found = run_foreign(type(processor).__name__, partial(processor, text=prompts, **given))
    return {name: torch.as_tensor(value) for name, value in found.items() if isinstance(value, Tensor)}


def write_prompt(processor: Any, sample: LoadedSample, shown: Sequence[str]) -> str:
    """The sample's text as a user says it, with a placeholder for each of the modalities `shown` in front where it has none, and the
    target behind it as the answer. By the processor's chat template where it has one."""
    text, target = sample.text or "", sample.target or ""
    marks = {m: found for m in shown if isinstance(found := getattr(processor, f"{m}_token", None), str) and not _puts_own(processor)}
    if any(mark in text for mark in marks.values()):
        return " ".join(part for part in (text, target) if part)
    if getattr(processor, "chat_template", None):
        content = [*({"type": m} for m in shown), {"type": "text", "text": text}]
        said = [{"role": "user", "content": content}]
        write = partial(processor.apply_chat_template, said, add_generation_prompt=True, tokenize=False)
        return f"{run_foreign(f'the chat template of {type(processor).__name__}', write)}{target}"
    return "".join(_surround(processor, m, marks[m]) for m in shown if m in marks) + " ".join(part for part in (text, target) if part)


def _puts_own(processor: Any) -> bool:
    """Whether the processor writes the placeholders itself and wants none in the text, as BLIP-2's."""
    return hasattr(processor, "num_query_tokens")


def _surround(processor: Any, modality: str, mark: str) -> str:
    """The placeholder between the tokens that a sound begins and ends with, where the processor has such."""
    start, end = (getattr(processor, f"{modality}_{end}_token", "") for end in ("bos", "eos"))
    return f"{start}{mark}{end}" if isinstance(start, str) and isinstance(end, str) else mark


# From parts


def _assemble_prompts(
    module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample], shown: Sequence[str], media: EncodeMedia
) -> dict[str, Tensor]:
    """Text ids behind the placeholders, which go where the first text token that is not special stands."""
    seen = {modality: media(loaded, modality) for modality in shown}
    texts = encode_text_rows(module, processors, loaded, None)
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(texts["input_ids"], texts["attention_mask"], strict=True)]
    first = getattr(find_tokenizer(processors), "bos_token_id", None)
    for modality in reversed(shown):
        marks = place_marks(module, modality, seen[modality], len(loaded))
        rows = [[*row[: row[:1] == [first]], *mark, *row[row[:1] == [first] :]] for row, mark in zip(rows, marks, strict=True)]
    pad = getattr(find_tokenizer(processors), "pad_token_id", None) or 0
    ids, mask = encoding.pad_token_rows(rows, pad)
    batch = {"input_ids": ids, "attention_mask": mask, **mark_token_types(module, ids)}
    for part in seen.values():
        batch |= part
    return batch


def mark_token_types(module: nn.Module, ids: Tensor) -> dict[str, Tensor]:
    """For `ids` (samples, tokens) which of them stand for an image (1) or a sound (3), int64 alike, if forward asks for it."""
    types = torch.zeros_like(ids)
    for modality, number in _TYPES.items():
        placeholder = find_placeholder(module, modality)
        if placeholder is not None:
            types[ids == placeholder] = number
    return {name: types for name in _TYPE_NAMES if name in list_parameters(module)}


def place_marks(module: nn.Module, modality: str, encoded: Mapping[str, Tensor], samples: int) -> list[list[int]]:
    """For each of the `samples` the placeholders of its image or sound, between the tokens that say where one begins and ends where the
    configuration has such. `encoded` are the tensors that the encoder is given, of all samples."""
    placeholder = find_placeholder(module, modality)
    if placeholder is None:
        return [[] for _ in range(samples)]
    start, end = (read_setting(module, names, "thinker", "text") for names in _AROUND[modality])
    words = count_words(module)
    before, after = ([mark] if isinstance(mark, int) and mark < words else [] for mark in (start, end))
    counts = count_features(module, modality, encoded, samples)
    return [[*before, *[placeholder] * count, *after] for count in counts]


def count_words(module: nn.Module) -> int:
    """How many ids the model has an embedding for; 0 where its configuration does not say."""
    found = read_setting(module, ("vocab_size",), "text", "thinker", "decoder")
    return found if isinstance(found, int) else 0


def count_features(module: nn.Module, modality: str, encoded: Mapping[str, Tensor], samples: int) -> list[int]:
    """How many features the model makes of each sample's image or sound: it is asked; 1 each where it cannot be.

    Raises:
        ModelError: its encoder fails on them.
    """
    asked: list[Any] = [ask for part in module.modules() if (ask := getattr(part, f"get_{modality}_features", None)) is not None]
    if not asked:
        return _count_frames(module, encoded, samples)
    ask = asked[0]
    names = {name for one in asked for name in signature(one).parameters}
    given = {name: value for name, value in encoding.cast_floats(module, encoded).items() if name in names}
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    with torch.no_grad():
        call = partial(ask, **{name: value.to(device) for name, value in given.items()})
        found = run_foreign(f"{type(module).__name__}.get_{modality}_features", call)
    return _split_counts(getattr(found, "pooler_output", None), found, samples)


def _split_counts(pooled: Any, found: Any, samples: int) -> list[int]:
    """The number of features per sample, in whatever form a model returns them."""
    value = pooled if pooled is not None else getattr(found, "last_hidden_state", found)
    if isinstance(value, (list, tuple)):
        lengths = [part.shape[:-1].numel() for part in value]
        each = max(1, len(lengths) // samples)
        return [sum(lengths[start : start + each]) for start in range(0, each * samples, each)]
    return [value.shape[:-1].numel() // samples] * samples


def _count_frames(module: nn.Module, encoded: Mapping[str, Tensor], samples: int) -> list[int]:
    """Of a sound by the encoder's own rule for lengths (Qwen2-Audio's)."""
    rules = (getattr(part, "_get_feat_extract_output_lengths", None) for part in list(module.modules())[1:])
    rule: Any = next((found for found in rules if found is not None), None)
    mask = next((value for name, value in encoded.items() if "mask" in name), None)
    if rule is None or mask is None:
        return [1] * samples
    found = run_foreign("counting frames", partial(rule, mask.sum(-1)))
    counts: list[int] = (found[-1] if isinstance(found, tuple) else found).tolist()
    return counts
