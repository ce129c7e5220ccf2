"""Texts from exported files, with numpy only: the tokens that `generate(do_sample=False)` gives in torch, or with a temperature such as
are drawn.

    prompt → step (all of it) → scores of the next token → one is chosen → step (that one, with the past) → … → end

What differs between models is how a step is made: `decoding_steps.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.runtimes.decoding_steps import start_steps
from trimodal.runtimes.generation_settings import GenerationSettings
from trimodal.runtimes.part import Part
from trimodal.runtimes.sampling import choose_tokens
from trimodal.runtimes.session import Arrays

Tokens = NDArray[np.int64]


def generate(parts: Mapping[str, Part], inputs: Arrays, settings: GenerationSettings) -> Tokens:
    """The tokens that follow the prompt, int64 (batch, new): the longest text's number of them, shorter ones padded.

    Args:
        parts: the exported files by name: `model`; `encoder_model` and `decoder_model_merged`; or `embed_tokens`, `decoder_model_merged`
            and what sees or hears.
        inputs: what the processor gives: `input_ids` int64 (batch, tokens) with `attention_mask`, padded on the left; `pixel_values`;
            `input_features` with or without `decoder_input_ids` (batch, tokens).
        settings: where to end and what not to say.

    Raises:
        InputError: these files do not generate, an input is missing, or the prompt leaves no room.
    """
    return np.stack(list(generate_stepwise(parts, inputs, settings)), axis=1)


def generate_stepwise(parts: Mapping[str, Part], inputs: Arrays, settings: GenerationSettings) -> Iterator[Tokens]:
    """The tokens of `generate` one after the other, int64 (batch,) each, as they are chosen.

    Raises:
        InputError: as `generate`, when the first is asked for.
    """
    steps = start_steps(parts, inputs, settings)
    tokens = steps.prompt
    begin = tokens.shape[1]
    most, running = settings.count_new_tokens(begin), np.ones(len(tokens), bool)
    chance = np.random.default_rng(settings.seed)
    logits = steps.advance(tokens)
    while True:
        scores = adjust_scores(logits, tokens, begin, settings)
        chosen = choose_tokens(scores, settings.temperature, settings.top_p, chance)
        chosen[~running] = settings.padding
        yield chosen
        tokens = np.concatenate([tokens, chosen[:, None]], axis=1)
        running &= ~np.isin(chosen, settings.end)
        if not running.any() or tokens.shape[1] - begin >= most:
            return
        logits = steps.advance(chosen[:, None])


def adjust_scores(logits: NDArray[Any], tokens: Tokens, begin: int, settings: GenerationSettings) -> NDArray[np.float32]:
    """The scores of the next token (batch, vocabulary) after `tokens` int64 (batch, so far), of which `begin` are the prompt: with
    those that must not be chosen at minus infinity."""
    scores = np.array(logits, np.float32)
    if settings.repetition_penalty != 1.0:
        seen = np.take_along_axis(scores, tokens, axis=1)
        weighed = np.where(seen < 0, seen * settings.repetition_penalty, seen / settings.repetition_penalty)
        np.put_along_axis(scores, tokens, weighed.astype(np.float32), axis=1)
    said = tokens.shape[1] - begin
    forbidden = list(settings.suppressed)
    if said == 0:
        forbidden += settings.suppressed_first
    if said < settings.min_new_tokens:
        forbidden += settings.end
    scores[:, [token for token in forbidden if token < scores.shape[1]]] = -np.inf
    return scores
