"""What the decoder of an encoder-decoder is given: the start token and the target, but for its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from trimodal.models import encoding
from trimodal.models.declare import config_of
from trimodal.models.model import LoadedSample, Processors
from trimodal.models.transformers_models.signature import (
    find_decoder_limit,
    is_encoder_decoder,
    list_parameters,
    read_setting,
)
from trimodal.models.transformers_models.texts import find_tokenizer

_STARTS = ("decoder_start_token_id", "bos_token_id", "pad_token_id")


def encode_decoder_texts(
    module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample], batch: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`decoder_input_ids` and `decoder_attention_mask` (samples, tokens), int64: the start token and each sample's target, or its text
    where it has none. Nothing for a model without such a decoder, or whose decoder says sounds."""
    if not is_encoder_decoder(module) or "decoder_input_ids" in batch or says_sounds(module):
        return {}
    start, end = find_start_token(module), read_setting(module, ("eos_token_id",), "decoder", "text")
    said = [sample.target or sample.text or "" for sample in loaded]
    rows = [_shift_row(row, start, end) for row in _tokenize(processors, said)]
    ids, mask = encoding.pad_token_rows([row[: find_decoder_limit(module)] for row in rows], _pad_token_of(module))
    found = {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    return {name: value for name, value in found.items() if name in list_parameters(module)}


def find_start_token(module: nn.Module) -> int:
    """The id that a decoder's text begins with."""
    generation: Any = getattr(module, "generation_config", None)
    own = getattr(generation, "decoder_start_token_id", None)
    found = own if own is not None else getattr(config_of(module), "decoder_start_token_id", None)
    if found is None:
        found = next((value for name in _STARTS if (value := read_setting(module, (name,), "decoder", "text")) is not None), 0)
    return int(found[0] if isinstance(found, (list, tuple)) else found)


def says_sounds(module: nn.Module) -> bool:
    """Whether the decoder's tokens are codes of a sound codec, as MusicGen's are."""
    return getattr(config_of(module), "audio_encoder", None) is not None


def _tokenize(processors: Processors, said: Sequence[str]) -> list[list[int]]:
    if not any(said):
        return [[] for _ in said]
    return encoding.tokenize_texts(find_tokenizer(processors), said, None)


def _shift_row(row: Sequence[int], start: int, end: Any) -> list[int]:
    """The row behind the start token, without its own and without the end, which only has to be predicted."""
    ends = end if isinstance(end, (list, tuple)) else [end]
    kept = [start, *(row[1:] if row[:1] == [start] else row)]
    return kept[:-1] if len(kept) > 1 and kept[-1] in ends else kept


def _pad_token_of(module: nn.Module) -> int:
    found = read_setting(module, ("pad_token_id",), "decoder", "text")
    return int(found) if isinstance(found, int) and found >= 0 else 0
