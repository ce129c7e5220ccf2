"""What a model's folder says of how large its inputs may be: how many words it knows, and how long a text may be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimodal.runtimes.exported_folder import EXPORT_FILE, SAFE_WORDS

_VOCABULARIES = ("vocab_size", "vocabulary_size", "text_config.vocab_size", "decoder.vocab_size", "llm_config.vocab_size")
_LENGTHS = ("max_position_embeddings", "text_config.max_position_embeddings", "max_target_positions", "text_tokens")
_ROTARY = ("rope_theta", "rope_scaling", "rope_parameters")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_target_positions")


def count_words(folder: Path) -> int | None:
    """The size of the vocabulary, as the folder's config.json says it."""
    return _read_number(_read_json(folder / "config.json"), _VOCABULARIES)


def count_safe_words(folder: Path) -> int | None:
    """How many ids every embedding of the model has a row for: the vocabulary, else what its export.json says."""
    found = count_words(folder)
    return _read_number(_read_json(folder / EXPORT_FILE), (SAFE_WORDS,)) if found is None else found


def limit_tokens(folder: Path) -> int | None:
    """How many tokens a text may have, as the folder's config.json says it, table of positions or not."""
    return _read_number(_read_json(folder / "config.json"), _LENGTHS)


def read_most_tokens(folder: Path) -> int | None:
    """How many tokens a text may have for the model in `folder`, by its configuration; None where positions have no table."""
    config = _read_json(folder / "config.json")
    text = config.get("text_config") or config.get("decoder") or config
    if not isinstance(text, dict) or any(key in text for key in _ROTARY):
        return None
    return next((text[key] for key in _POSITIONS if isinstance(text.get(key), int)), None)


def _read_json(file: Path) -> dict[str, Any]:
    found: Any = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def _read_number(said: Any, places: Sequence[str]) -> int | None:
    """The whole number at the first of `places`, keys with dots between them."""
    for place in places:
        found = said
        for key in place.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, int):
            return found
    return None
