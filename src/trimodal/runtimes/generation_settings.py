"""How a model generates: what its `generation_config.json` says, else its `config.json`.

All that a greedy search needs is honoured: where to end, what must not be said, what must be said first, a penalty for repetition, and
how Whisper is told language and task. Sampling is not: the most likely token is taken, as `generate(do_sample=False)` does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from trimodal.errors import InputError, suggest_names

NEW_TOKENS = 20
"""How many tokens are said at most where nobody says it, as in Transformers."""
_SECTIONS = ("text_config", "decoder")
_SEARCHES = ("num_beams", "do_sample", "top_k", "num_beam_groups", "penalty_alpha", "num_return_sequences")
_LEAST = {"max_new_tokens": 1, "max_length": 1, "min_new_tokens": 0}


@dataclass(frozen=True)
class GenerationSettings:
    """What a search goes by that chooses token after token. Tokens are numbers of the vocabulary.

    Attributes:
        max_new_tokens: how many tokens are said at most; None for what `max_length` leaves, or 20.
        max_length: the same with the prompt counted.
        positions: how many tokens, prompt included, the decoder has positions for; 0 for any.
        min_new_tokens: how many tokens are said before `end`.
        start: the first token of a decoder that is given none.
        end: each of them ends a text.
        pad: what stands behind the end of a text, in a batch of longer ones.
        suppressed: what is never said; `suppressed_first` is not said first.
        repetition_penalty: the scores of what was said or asked are divided by it where positive, else multiplied.
        image_token: what stands in a prompt where an image's features go.
        forced: Whisper's older way: which token stands at which place of the prompt, None for a language to be found out.
        languages: Whisper's tokens of languages by name, such as `<|en|>`; `tasks` those of tasks.
        no_timestamps: Whisper's token for text without times.
        language: what is spoken, such as `en`; found out by the model where it is not said. `task` is `transcribe` or `translate`.
        temperature: 0 takes the likeliest token, more draws one; `top_p` leaves out the least likely, `seed` makes it draw the same again.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    positions: int = 0
    min_new_tokens: int = 0
    start: int | None = None
    end: tuple[int, ...] = ()
    pad: int | None = None
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    repetition_penalty: float = 1.0
    image_token: int | None = None
    forced: tuple[tuple[int, int | None], ...] = ()
    languages: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, int] = field(default_factory=dict)
    no_timestamps: int | None = None
    language: str | None = None
    task: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def padding(self) -> int:
        """What stands behind the end of a text."""
        return self.pad if self.pad is not None else self.end[0] if self.end else 0

    def with_changes(self, **changed: Any) -> GenerationSettings:
        """These, but for what is not None in `changed`.

        Raises:
            InputError: there is no such setting, or it cannot have that value.
        """
        known = [part.name for part in fields(self)]
        for name in changed:
            if name in _SEARCHES:
                raise InputError(f"{name} belongs to another search; here one token is chosen after the other, by temperature and top_p")
            if name not in known:
                raise InputError(f"there is no setting {name!r} for generating; {suggest_names(name, known)}")
        _check_changes(changed, bool(self.languages), bool(self.tasks))
        return replace(self, **{name: value for name, value in changed.items() if value is not None})

    def count_new_tokens(self, prompt: int) -> int:
        """How many tokens are said at most after a prompt of `prompt` tokens.

        Raises:
            InputError: the prompt leaves no room.
        """
        most = self.max_new_tokens
        if most is None:
            most = self.max_length - prompt if self.max_length is not None and self.max_length > prompt else NEW_TOKENS
        if self.positions and prompt >= self.positions:
            raise InputError(f"a prompt of {prompt} tokens leaves no room: the decoder has {self.positions} positions; shorten it")
        return min(most, self.positions - prompt) if self.positions else most


def read_settings(folder: Path) -> GenerationSettings:
    """The settings of the model in `folder`; generation_config.json goes before config.json, and that before its part on text.

    Raises:
        InputError: they ask for a search that is not greedy.
    """
    config, generation = _read_json(folder / "config.json"), _read_json(folder / "generation_config.json")
    said: dict[str, Any] = {}
    for layer in (*(config.get(name) or {} for name in _SECTIONS), config, generation):
        said |= {name: value for name, value in layer.items() if value is not None}
    for name, plain in (("num_beams", 1), ("no_repeat_ngram_size", 0)):
        if generation.get(name, plain) not in (plain, None):
            raise InputError(
                f"{folder / 'generation_config.json'} asks for {name} {generation[name]}, expected {plain}: only the most likely token "
                "is taken here; change it, or use a library that searches"
            )
    return GenerationSettings(
        max_new_tokens=said.get("max_new_tokens"), max_length=generation.get("max_length"),
        positions=int(said.get("max_target_positions") or 0),
        min_new_tokens=int(said.get("min_new_tokens") or 0), start=said.get("decoder_start_token_id", said.get("bos_token_id")),
        end=_read_list(said.get("eos_token_id")), pad=said.get("pad_token_id"), suppressed=_read_list(said.get("suppress_tokens")),
        suppressed_first=_read_list(said.get("begin_suppress_tokens")), repetition_penalty=float(said.get("repetition_penalty") or 1.0),
        image_token=said.get("image_token_id", said.get("image_token_index")),
        forced=tuple((place, token) for place, token in said.get("forced_decoder_ids") or ()), languages=said.get("lang_to_id") or {},
        tasks=said.get("task_to_id") or {}, no_timestamps=said.get("no_timestamps_token_id"), language=said.get("language"),
        task=said.get("task"),
    )  # fmt: skip


def _check_changes(changed: Mapping[str, Any], has_languages: bool, has_tasks: bool) -> None:
    for name, least in _LEAST.items():
        value = changed.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise InputError(f"{name} is {value!r}; expected a whole number from {least}")
    penalty = changed.get("repetition_penalty")
    if penalty is not None and (not isinstance(penalty, int | float) or not 0 < penalty < float("inf")):
        raise InputError(f"repetition_penalty is {penalty!r}; expected a number above 0, of which 1 changes nothing")
    _check_chance(changed)
    for name, has in (("language", has_languages), ("task", has_tasks)):
        if changed.get(name) is not None and not has:
            raise InputError(f"{name} is {changed[name]!r}, and this model has no tokens for it; leave it out")


def _check_chance(changed: Mapping[str, Any]) -> None:
    for name, taken, fits in (
        ("temperature", "a number from 0 to 100", lambda value: 0 <= value <= 100),
        ("top_p", "a number above 0, at most 1", lambda value: 0 < value <= 1),
        ("seed", "a whole number from 0", lambda value: isinstance(value, int) and value >= 0),
    ):  # fmt: skip
        value = changed.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not fits(value)):
            raise InputError(f"{name} is {value!r}; expected {taken}")


def _read_list(value: Any) -> tuple[int, ...]:
    return () if value is None else (value,) if isinstance(value, int) else tuple(value)


def _read_json(file: Path) -> dict[str, Any]:
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found if isinstance(found, dict) else {}
