"""A decoder that reads only some of the tokens of an image or a sound, while the text still has a placeholder for each.

Three modules stay what they are, with their own weights, names and forward; only their classes give way to subclasses:

1. a block of the tower, where attention chooses: it leaves behind how much attention each of its tokens gets,
2. the projector, which makes of the tower's tokens what the decoder reads: it chooses, and *marks* the tokens that need not be read:
   every entry is the lowest number of its type,
3. the decoder: takes marked tokens out of its input, with mask and positions, runs, and hands on a state for every token that it was
   given, which of one that was taken out is the state of the last one before it that was read.

The mark is in the numbers. So it passes all that Transformers does in between: images encoded before `generate` begins, repeated for
every beam, put in the place of their placeholders, several in one text. What comes behind the decoder (scores, labels, loss) has the
length of the text as before. Tokens keep the positions that they have in the whole text.

A cache holds only what was read, and a note that says where that stood. Outside of the decoder it counts the tokens of the whole text,
by which `generate` finds what is new.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core.change import ChosenBy, Rest
from trimodal.errors import TrimodalError
from trimodal.layers.token_merging import capture_output
from trimodal.maths import token_choice

_NOTE = "trimodal_read_tokens"


@dataclass(frozen=True)
class TokenThinning:
    """Which of the projector's tokens are marked: a `share` of those of every item, chosen `by` what; and what becomes of the `rest`."""

    share: float
    by: ChosenBy
    rest: Rest


@dataclass(frozen=True)
class WatchedAttention:
    """Where a block's attention is seen: paths of its query and key projection, from the block, and the width of one head. `first`:
    what counts is how the first token, a class token, looks at the others; else how all do."""

    query: str
    key: str
    width: int
    first: bool


class _Local(threading.local):
    """What one module leaves behind for the next, in one thread: attention (items, T); and where tensors have no values, how many
    tokens were marked."""

    attention: Tensor | None = None
    marked: int = 0


_LOCAL = _Local()


def watch_attention_(block: nn.Module, watched: WatchedAttention) -> None:
    """Let `block` leave behind how much attention each token gets."""
    _give_way_(block, _make_watching_class)
    block.watched_attention = watched  # type: ignore[assignment]


def mark_unread_(projector: nn.Module, settings: TokenThinning) -> None:
    """Let `projector`, whose output is (items, tokens, width), mark the tokens that need not be read."""
    _give_way_(projector, _make_marking_class)
    projector.token_thinning = settings  # type: ignore[assignment]


def skip_marked_(decoder: nn.Module) -> None:
    """Let `decoder` take marked tokens out of its `inputs_embeds`; twice is the same as once."""
    if not getattr(decoder, "skips_marked", False):
        _give_way_(decoder, _make_skipping_class)
        decoder.skips_marked = True  # type: ignore[assignment]


def find_thinning(projector: nn.Module) -> TokenThinning | None:
    """What `mark_unread_` told this projector; None if nothing."""
    found = getattr(projector, "token_thinning", None)
    return found if isinstance(found, TokenThinning) else None


def place_unmarked(marked: Tensor) -> tuple[Tensor, Tensor]:
    """The places of what is not `marked`, bool (batch, T), ascending: int64 (batch, n); and which of them those are, bool (batch, n).
    Rows of which fewer are left are filled up with marked ones."""
    left = int((~marked).sum(dim=1).max())
    places = marked.int().argsort(dim=1, stable=True)[:, :left].sort(dim=1).values
    return places, ~marked.gather(1, places)


def _give_way_(module: nn.Module, make: Callable[[type[nn.Module]], type[nn.Module]]) -> None:
    module.__class__ = make(type(module))  # type: ignore[assignment]


def _make_subclass(kind: type[nn.Module], make: Callable[..., type[nn.Module]], forward: Callable[..., Any]) -> type[nn.Module]:
    """A subclass with the name of `kind`, by which Transformers knows what it can record of it."""
    members = {
        "forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__,
        "__reduce__": lambda module: (_rebuild, (make, kind), vars(module)),
    }  # fmt: skip
    return type(kind.__name__, (kind,), members)


def _rebuild(make: Callable[[type[nn.Module]], type[nn.Module]], kind: type[nn.Module]) -> nn.Module:
    """An empty module for a copy or a pickle to fill: its class cannot be imported."""
    made = make(kind)
    return made.__new__(made)


@cache
def _make_watching_class(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(block: nn.Module, *inputs: Any, **named: Any) -> Any:
        watched: WatchedAttention = block.watched_attention  # type: ignore[assignment]
        query, key = (block.get_submodule(path) for path in (watched.query, watched.key))
        with capture_output(query) as queries, capture_output(key) as keys:
            output = kind.forward(block, *inputs, **named)
        with torch.no_grad():
            _LOCAL.attention = token_choice.measure_attention(queries[0].detach(), keys[0].detach(), watched.width, watched.first)
        return output

    return _make_subclass(kind, _make_watching_class, forward)


@cache
def _make_marking_class(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(projector: nn.Module, *inputs: Any, **named: Any) -> Tensor:
        settings: TokenThinning = projector.token_thinning  # type: ignore[assignment]
        found: Tensor = kind.forward(projector, *inputs, **named)
        attention, _LOCAL.attention = _LOCAL.attention, None
        keep = token_choice.count_kept_tokens(found.shape[1], settings.share)
        if keep == found.shape[1]:
            return found
        found, kept = _choose_tokens(found, attention, keep, settings)
        unread = torch.ones_like(found[..., 0], dtype=torch.bool).scatter(1, kept, False)
        _LOCAL.marked += found.shape[0] * (found.shape[1] - keep) if found.is_meta else 0
        return found.masked_fill(unread[..., None], torch.finfo(found.dtype).min)

    return _make_subclass(kind, _make_marking_class, forward)


def _choose_tokens(found: Tensor, attention: Tensor | None, keep: int, settings: TokenThinning) -> tuple[Tensor, Tensor]:
    """The tokens (items, T, width), changed where they stand for others, and the places (items, `keep`) of those to read."""
    tokens = found.shape[1]
    count = round(keep * token_choice.CONTEXT) if settings.rest == "context" else 0
    with torch.no_grad():
        if settings.by == "diversity":
            kept = token_choice.choose_diverse(found, keep - count)
        else:
            scores = found.float().norm(dim=-1) if settings.by == "norm" else _take_attention(attention, found)
            kept = token_choice.choose_strongest(scores, keep - count)
    if settings.rest == "merge":
        return token_choice.join_nearest(found, kept, kept), kept
    if count:
        context = token_choice.choose_context(kept, tokens, count)
        return token_choice.join_nearest(found, kept, context), torch.cat([kept, context], dim=1)
    return found, kept


def _take_attention(attention: Tensor | None, found: Tensor) -> Tensor:
    """The attention that each of the projector's tokens got in the tower, of which a class token at the front may be left out."""
    if attention is None or attention.shape[0] != found.shape[0] or attention.shape[1] < found.shape[1]:
        seen = "none" if attention is None else f"{tuple(attention.shape)}"
        raise TrimodalError(
            f"tokens are chosen by the attention that they got, and of {tuple(found.shape[:2])} tokens there is {seen}; "
            "call the tower and its projector one after the other, with the same items, or choose by diversity"
        )
    return attention[:, -found.shape[1] :]


@dataclass(frozen=True)
class _ReadTokens:
    """What of a text is in a cache: how many tokens were `given`, the `places` (batch, n) of those that were read, and which of them
    are `live`, bool (batch, n); the others fill up rows."""

    given: int
    places: Tensor
    live: Tensor

    def add(self, other: _ReadTokens) -> _ReadTokens:
        """With those of a text that goes on behind it."""
        if len(self.places) != len(other.places):
            raise TrimodalError(f"the cache holds {len(self.places)} texts and {len(other.places)} go on; give one line for each")
        places = torch.cat([self.places, other.places + self.given], dim=1)
        return _ReadTokens(self.given + other.given, places, torch.cat([self.live, other.live], dim=1))


@cache
def _make_skipping_class(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(decoder: nn.Module, *inputs: Any, **named: Any) -> Any:
        embeds, past = named.get("inputs_embeds"), named.get("past_key_values")
        before: _ReadTokens | None = getattr(past, _NOTE, None)
        now = None if embeds is None else _find_read_tokens(embeds)
        if embeds is None or (before is None and now is None):
            return kind.forward(decoder, *inputs, **named)
        here = now or _read_all(embeds)
        whole = here if before is None else before.add(here)
        taken = {
            **named, "inputs_embeds": embeds if now is None else _take_places(embeds, here.places),
            "attention_mask": _take_mask(named.get("attention_mask"), whole),
            "position_ids": _take_positions(named.get("position_ids"), here, whole.given - here.given),
        }  # fmt: skip
        with _count_what_was_read(past):
            output = kind.forward(decoder, *inputs, **taken)
        _note_read_tokens_(output.past_key_values, whole)
        if now is not None:
            output.last_hidden_state = _give_all_states(output.last_hidden_state, here)
        return output

    return _make_subclass(kind, _make_skipping_class, forward)


def _find_read_tokens(embeds: Tensor) -> _ReadTokens | None:
    """Which of the tokens (batch, T, width) are read; None if all."""
    rows, tokens = embeds.shape[:2]
    if embeds.is_meta:  # there are no marks to be seen, but so many
        left, _LOCAL.marked = tokens - _LOCAL.marked // rows, 0
        return replace(_read_all(embeds[:, :left]), given=tokens) if left < tokens else None
    marked = embeds[..., 0] <= torch.finfo(embeds.dtype).min
    if tokens == 1 or not marked.any():
        return None
    return _ReadTokens(tokens, *place_unmarked(marked))


def _read_all(embeds: Tensor) -> _ReadTokens:
    rows, tokens = embeds.shape[:2]
    places = torch.arange(tokens, device=embeds.device).expand(rows, -1)
    return _ReadTokens(tokens, places, torch.ones_like(places, dtype=torch.bool))


def _take_places(embeds: Tensor, places: Tensor) -> Tensor:
    return embeds.gather(1, places[:, :, None].expand(-1, -1, embeds.shape[2]))


def _take_mask(mask: Any, read: _ReadTokens) -> Tensor:
    """The mask (batch, n) of what was read. It is given where none was, too: by gaps in the positions alone, without a mask,
    Transformers takes one text for several."""
    if mask is None:
        return read.live.long()
    if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[1] != read.given:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise TrimodalError(
            f"the mask is {shape}, and the decoder, which reads only some of {read.given} tokens, expected ({len(read.places)}, "
            f"{read.given}): give a mask over the whole text, and no cache of fixed size"
        )
    return mask.gather(1, read.places) * read.live


def _take_positions(positions: Any, here: _ReadTokens, before: int) -> Tensor:
    """The positions (batch, n) that what is read has in the whole text."""
    if positions is None:
        return here.places + before
    found: Tensor = positions.expand(len(here.places), -1).gather(1, here.places)
    return found


def _give_all_states(hidden: Tensor, read: _ReadTokens) -> Tensor:
    """For every token that was given the state of the last one up to it that was read: (batch, T, width)."""
    order = torch.arange(hidden.shape[1], device=hidden.device) * read.live
    latest = torch.zeros(len(hidden), read.given, dtype=torch.long, device=hidden.device).scatter(1, read.places, order)
    return _take_places(hidden, latest.cummax(dim=1).values)


def _note_read_tokens_(past: Any, read: _ReadTokens) -> None:
    """Let the cache say of which tokens it holds what was read."""
    if past is None:
        return
    if not hasattr(past, _NOTE):
        past.__class__ = _make_noting_class(type(past))
    setattr(past, _NOTE, read)


@contextmanager
def _count_what_was_read(past: Any) -> Iterator[None]:
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
        note: _ReadTokens | None = getattr(past, _NOTE, None)
        return int(kind.get_seq_length(past, layer_idx)) if note is None else note.given

    def crop(past: Any, *lengths: Any) -> None:
        raise TrimodalError(
            "a cache that holds only some of an image's tokens cannot be cut back; generate without an assistant model and without "
            "prompt lookup"
        )

    members = {"get_seq_length": get_seq_length, "crop": crop, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), members)
