"""What a decoder has read of a text: all words, and some of the tokens that stand in the place of placeholders.

A cache holds only what was read, and a note that says where that stood. Outside of the decoder it counts the tokens of the whole text, by
which `generate` finds what is new.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.errors import TrimodalError

_NOTE = "trimodal_read_tokens"


def note_unread_share_(decoder: nn.Module, share: float, each: int) -> None:
    """Let `decoder` say that it does not read a `share` of the tokens of an image or a sound, of which so many (`each`) are one; 0 where
    it is a share of all that a text has."""
    decoder.unread_share = (share, each)  # type: ignore[assignment]


def find_unread_share(decoder: nn.Module) -> tuple[float, int]:
    """The share of an image's or a sound's tokens that `decoder` does not read, and how many are one, 0 for all that a text has."""
    share, each = getattr(decoder, "unread_share", (0.0, 0))  # type: ignore[misc]
    return float(share), int(each)


@dataclass(frozen=True)
class ReadTokens:
    """What of a text is in a cache: how many tokens were `given`, the `places` (batch, n) of those that were read, and which of them
    are `live`, bool (batch, n); the others fill up rows."""

    given: int
    places: Tensor
    live: Tensor

    def add(self, other: ReadTokens) -> ReadTokens:
        """With those of a text that goes on behind it."""
        if len(self.places) != len(other.places):
            raise TrimodalError(f"the cache holds {len(self.places)} texts and {len(other.places)} go on; give one line for each")
        places = torch.cat([self.places, other.places + self.given], dim=1)
        return ReadTokens(self.given + other.given, places, torch.cat([self.live, other.live], dim=1))

    def cut(self, count: int) -> ReadTokens:
        """Without the last `count` tokens of the text."""
        tail = torch.arange(self.given - count, self.given, device=self.places.device)
        if count > self.places.shape[1] or not bool((self.places[:, -count:] == tail).all()):
            raise TrimodalError(f"a cache that holds only some tokens of an image cannot be cut back by {count} tokens, into that image")
        return ReadTokens(self.given - count, self.places[:, :-count], self.live[:, :-count])


def read_all(embeds: Tensor) -> ReadTokens:
    """All of the tokens (batch, T, width)."""
    rows, tokens = embeds.shape[:2]
    places = torch.arange(tokens, device=embeds.device).expand(rows, -1)
    return ReadTokens(tokens, places, torch.ones_like(places, dtype=torch.bool))


def place_unmarked(marked: Tensor) -> tuple[Tensor, Tensor]:
    """The places of what is not `marked`, bool (batch, T), ascending: int64 (batch, n); and which of them those are, bool (batch, n).
    Rows of which fewer are left are filled up with marked ones."""
    left = int((~marked).sum(dim=1).max())
    places = marked.int().argsort(dim=1, stable=True)[:, :left].sort(dim=1).values
    return places, ~marked.gather(1, places)


def take_places(embeds: Tensor, places: Tensor) -> Tensor:
    """The tokens (batch, n, width) at `places` (batch, n)."""
    return embeds.gather(1, places[:, :, None].expand(-1, -1, embeds.shape[2]))


def give_all_states(hidden: Tensor, read: ReadTokens) -> Tensor:
    """For every token that was given the state of the last one up to it that was read: (batch, T, width)."""
    order = torch.arange(hidden.shape[1], device=hidden.device) * read.live
    latest = torch.zeros(len(hidden), read.given, dtype=torch.long, device=hidden.device).scatter(1, read.places, order)
    return take_places(hidden, latest.cummax(dim=1).values)


def find_read_tokens(past: Any) -> ReadTokens | None:
    """What the cache `past` says of which tokens it holds; None where they are all that there were."""
    found = getattr(past, _NOTE, None)
    return found if isinstance(found, ReadTokens) else None


def list_read_tokens(past: Any, embeds: Tensor) -> ReadTokens | None:
    """Which tokens the cache `past` of the texts (batch, T, width) holds, also where they are all that there were; None where it is
    empty."""
    held = 0 if past is None else int(past.get_seq_length())
    return find_read_tokens(past) or (read_all(embeds[:, :1].expand(-1, held, -1)) if held else None)


def note_read_tokens_(past: Any, read: ReadTokens) -> None:
    """Let the cache say of which tokens it holds what was read."""
    if past is None:
        return
    if not hasattr(past, _NOTE):
        past.__class__ = _make_noting_class(type(past))  # type: ignore[arg-type]
    setattr(past, _NOTE, read)


@contextmanager
def count_what_was_read(past: Any) -> Iterator[None]:
    """Meanwhile the cache counts what it holds."""
    note = getattr(past, _NOTE, None)
    if note is not None:
        delattr(past, _NOTE)
    try:
        yield
    finally:
        if note is not None:
            setattr(past, _NOTE, note)


@cache
def _make_noting_class(kind: type[Any]) -> type[Any]:
    """A cache of this kind that counts the tokens of the whole text."""

    def get_seq_length(past: Any, layer_idx: int = 0) -> int:
        note: ReadTokens | None = getattr(past, _NOTE, None)
        return int(kind.get_seq_length(past, layer_idx)) if note is None else note.given

    def crop(past: Any, tokens_to_remove: int) -> None:
        note: ReadTokens | None = getattr(past, _NOTE, None)
        if note is not None and tokens_to_remove < 0:
            setattr(past, _NOTE, note.cut(-tokens_to_remove))
        kind.crop(past, tokens_to_remove)

    members = {"get_seq_length": get_seq_length, "crop": crop, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), members)
