"""What Whisper's decoder is told before it speaks: start, language, task, and that no times are wanted.

    <|startoftranscript|> <|en|> <|transcribe|> <|notimestamps|>

in the order and with the defaults of Transformers' `generate` (Radford et al. 2022, arXiv 2212.04356, figure 1). A language that is
not said is found out, for each sound by itself: the one whose token is the most likely after the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimodal.errors import InputError, suggest_names
from trimodal.runtimes.generation_settings import GenerationSettings

Tokens = NDArray[np.int64]


def make_whisper_prompt(settings: GenerationSettings, batch: int, score: Callable[[Tokens], NDArray[Any]]) -> Tokens:
    """The prompt int64 (batch, tokens). `score` gives the next token's scores (batch, vocabulary) after tokens (batch, 1).

    Raises:
        InputError: there is no first token, or language or task are not the model's.
    """
    if settings.start is None:
        raise InputError("the decoder's first token is not said; give decoder_input_ids, or decoder_start_token_id in config.json")
    start = np.full((batch, 1), settings.start, np.int64)
    tokens = _forced_tokens(settings)
    columns: list[NDArray[np.int64]] = []
    if settings.language is not None:
        columns.append(np.full(batch, _find_token(settings.languages, settings.language, "<|{}|>", "language"), np.int64))
        tokens = tokens[1:]
    elif settings.languages and (not tokens or tokens[0] is None):
        columns.append(_hear_language(settings, score(start)))
        tokens = tokens[1:]
    for token in [*tokens, *_task_tokens(settings, tokens)]:
        if token is not None:
            columns.append(np.full(batch, token, np.int64))
    return np.concatenate([start, *(column[:, None] for column in columns)], axis=1)


def _forced_tokens(settings: GenerationSettings) -> Sequence[int | None]:
    """Those of the older way, which says place by place what comes after the start; not where the newer one is used."""
    if settings.language is not None or settings.task is not None:
        return []
    return [token for number, (place, token) in enumerate(settings.forced, 1) if place == number]


def _task_tokens(settings: GenerationSettings, before: Sequence[int | None]) -> list[int]:
    found: list[int] = []
    if settings.task is not None:
        found.append(_find_token(settings.tasks, settings.task, "{}", "task"))
    elif settings.language is not None and settings.tasks:
        found.append(settings.tasks["transcribe"])
    last = next(iter((*reversed(found), *reversed(before))), None)
    if settings.no_timestamps is not None and last != settings.no_timestamps:
        found.append(settings.no_timestamps)
    return found


def _hear_language(settings: GenerationSettings, scores: NDArray[Any]) -> Tokens:
    """The language's token (batch,) of the highest score among those of languages."""
    tokens: Tokens = np.array(sorted(settings.languages.values()), np.int64)
    found: Tokens = tokens[scores[:, tokens].argmax(axis=-1)]
    return found


def _find_token(table: Any, name: str, pattern: str, what: str) -> int:
    key = name if name in table else pattern.format(name)
    if key not in table:
        raise InputError(f"the model knows no {what} {name!r}; {suggest_names(name, table)}")
    return int(table[key])
