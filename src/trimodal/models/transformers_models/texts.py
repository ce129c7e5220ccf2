"""Texts for any text model: alone, as a question with its context, or as the choices that one question has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from trimodal.errors import ModelError
from trimodal.models import encoding
from trimodal.models.foreign import run_foreign
from trimodal.models.model import LoadedSample, Processors
from trimodal.models.transformers_models.signature import is_encoder_decoder, list_parameters

_LONGEST = 1_000_000  # what tokenizers without a limit say is far above


def find_tokenizer(processors: Processors) -> Any:
    """The tokenizer, alone or inside of the combined processor.

    Raises:
        ModelError: the folder has none, or it cannot be loaded.
    """
    if processors.text is not None:
        return processors.text
    try:
        found = getattr(processors.whole, "tokenizer", None)
    except ModelError:
        found = None
    return encoding.get_processor(processors, "text") if found is None else found


def encode_text_rows(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample], limit: int | None) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and what else the tokenizer gives and forward takes, (samples, tokens), padded on the right; of a
    model that chooses (samples, choices, tokens). A model that goes on with its text is given the target behind it, which are the
    `labels` then. A line break parts a question from its context, or from the choices, one on each line."""
    tokenizer = find_tokenizer(processors)
    kind = type(module).__name__
    texts = [sample.text or "" for sample in loaded]
    if kind.endswith("ForMultipleChoice"):
        return _encode_choices(module, tokenizer, texts, limit)
    if continues_text(module):
        joined = [" ".join(part for part in (sample.text, sample.target) if part) for sample in loaded]
        batch = pad_texts(module, tokenizer, joined, None, limit)
        known = replace_tokenizer(processors, tokenizer)
        return batch | encoding.make_answer_labels(known, loaded, batch["input_ids"], batch["attention_mask"])
    if kind.endswith("ForQuestionAnswering") and any("\n" in text for text in texts):
        pairs = [text.partition("\n") for text in texts]
        return pad_texts(module, tokenizer, [pair[0] for pair in pairs], [pair[2] for pair in pairs], limit)
    return pad_texts(module, tokenizer, texts, None, limit)


def replace_tokenizer(processors: Processors, tokenizer: Any) -> Processors:
    """Processors with nothing but this tokenizer."""
    return processors if processors.text is not None else Processors(text=tokenizer)


def continues_text(module: nn.Module) -> bool:
    """Whether the model says the next token of its text."""
    name = type(module).__name__
    said = name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))
    return said and not is_encoder_decoder(module) and "labels" in list_parameters(module)


def pad_texts(
    module: nn.Module, tokenizer: Any, texts: Sequence[str], seconds: Sequence[str] | None, limit: int | None
) -> dict[str, Tensor]:
    """All that the tokenizer gives for `texts`, or for them paired with `seconds`, padded on the right: (texts, tokens) int64."""
    most = min(limit or _LONGEST, int(getattr(tokenizer, "model_max_length", _LONGEST) or _LONGEST))
    cut: dict[str, Any] = {"truncation": True, "max_length": most} if most < _LONGEST else {}
    given = (list(texts),) if seconds is None else (list(texts), list(seconds))
    found: Mapping[str, Any] = run_foreign(type(tokenizer).__name__, partial(tokenizer, *given, **cut))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    rows = [list(row) or [pad] for row in found["input_ids"]]
    ids, mask = encoding.pad_token_rows(rows, pad)
    batch = {"input_ids": ids, "attention_mask": mask}
    for name, values in found.items():
        if name not in batch and name in list_parameters(module) and values and isinstance(values[0], (list, tuple)):
            batch[name] = encoding.pad_token_rows(values, 0)[0]
    return batch


def _encode_choices(module: nn.Module, tokenizer: Any, texts: Sequence[str], limit: int | None) -> dict[str, Tensor]:
    """Each text's first line with each of its others; with the last of them again where others have more. One line has itself alone."""
    lines = [text.splitlines() or [""] for text in texts]
    most = max(1, *(len(parts) - 1 for parts in lines))
    pairs = [(parts[0], (parts[1:] or [""])[min(number, max(0, len(parts) - 2))]) for parts in lines for number in range(most)]
    batch = pad_texts(module, tokenizer, [first for first, _ in pairs], [second for _, second in pairs], limit)
    return {name: value.unflatten(0, (len(texts), most)) for name, value in batch.items()}
