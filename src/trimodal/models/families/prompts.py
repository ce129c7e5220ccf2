"""Prompts with placeholders: what the processors of models that see or hear make of samples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.models import encoding
from trimodal.models.model import LoadedSample, Processors
from trimodal.models.transformers_models.encode import encode_for_forward


def write_prompts(loaded: Sequence[LoadedSample], placeholder: str, target: bool = True) -> list[str]:
    """The text of each sample, followed by its target; `placeholder` in front where the text does not hold it."""
    texts = [" ".join(part for part in (s.text, s.target if target else None) if part) for s in loaded]
    return [text if placeholder in text else f"{placeholder}\n{text}" for text in texts]


def encode_prompts(
    module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample], placeholder: Callable[[Any], str]
) -> dict[str, Tensor]:
    """What the model's own combined processor gives for one image and one text a sample, of that what forward takes: `input_ids`,
    `attention_mask` and with targets `labels`, all (batch, tokens), padded on the right; images as the model takes them.
    `placeholder` says what the processor knows an image by."""
    encoding.require_modalities(loaded, "image", "text")
    if processors.whole is None:  # the folder has the parts alone
        return encode_for_forward(module, processors, loaded)
    processor = encoding.get_processor(processors, "whole")
    prompts = write_prompts(loaded, placeholder(processor))
    images = [[sample.image] for sample in loaded]
    found = processor(images=images, text=prompts, padding=True, padding_side="right", return_tensors="pt")
    return finish_batch(module, processors, loaded, found)


def finish_batch(
    module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample], found: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Of `found` the tensors that forward takes, floats in the module's type; and the `labels` (batch, tokens) of the targets,
    if the model scores tokens."""
    taken = inspect.signature(type(module).forward).parameters
    batch = {n: v for n, v in found.items() if n in taken and n != "labels" and isinstance(v, Tensor)}
    if hasattr(module, "lm_head"):
        batch |= encoding.make_answer_labels(processors, loaded, batch["input_ids"], batch["attention_mask"])
    return encoding.cast_floats(module, batch)


def tokenize_prompts(processors: Processors, prompts: Sequence[str]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` int64 (batch, tokens), padded on the right; every placeholder stands in the prompts as often
    as it takes. For processors that cannot be loaded as a whole, as a part for videos is missing."""
    tokenizer = encoding.get_processor(processors, "text")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ids, mask = encoding.pad_token_rows(encoding.tokenize_texts(tokenizer, prompts, None), pad)
    return {"input_ids": ids, "attention_mask": mask}


def spell_token(processors: Processors, config: Any, *names: str) -> str:
    """The tokens whose ids the configuration holds under `names`, one after the other as they stand in a prompt; one that it does not
    hold is left out."""
    tokenizer = encoding.get_processor(processors, "text")
    held = [getattr(config, name, None) for name in names]
    return "".join(str(tokenizer.convert_ids_to_tokens(int(token))) for token in held if token is not None)


def mark_placeholders(ids: Tensor, token: int) -> Tensor:
    """int64, like `ids` (batch, tokens): 1 where an image's placeholder stands, else 0."""
    return (ids == token).to(torch.long)


def make_decoder_rows(
    processors: Processors, loaded: Sequence[LoadedSample], start: int, end: int | None, limit: int
) -> list[list[int]]:
    """What a decoder is given to say the target, or the text, of each sample: the token `start`, then all of it but its `end`, which only
    has to be predicted, at most `limit` tokens."""
    said = [sample.target or sample.text for sample in loaded]
    if not any(said):
        return [[start]] * len(said)
    found = encoding.tokenize_texts(encoding.get_processor(processors, "text"), [text or "" for text in said], None)
    rows = [row if row[:1] == [start] else [start, *row] for row in found]
    return [(row[:-1] if row[-1:] == [end] and len(row) > 1 else row)[:limit] for row in rows]
