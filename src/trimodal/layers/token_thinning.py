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
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core.change import ChosenBy, Rest
from trimodal.errors import TrimodalError
from trimodal.layers.giving_way import give_way_, make_subclass
from trimodal.layers.read_tokens import (
    ReadTokens,
    count_what_was_read,
    find_read_tokens,
    give_all_states,
    list_read_tokens,
    note_read_tokens_,
    place_unmarked,
    read_all,
    take_places,
)
from trimodal.layers.token_merging import capture_output
from trimodal.maths import token_choice


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
    """What one module leaves behind for the next, in one thread: attention (items, T); and where tensors have no values, how many tokens
    every projector has marked."""

    attention: Tensor | None = None

    def __init__(self) -> None:
        self.marked: dict[int, int] = {}


_LOCAL = _Local()


def watch_attention_(block: nn.Module, watched: WatchedAttention) -> None:
    """Let `block` leave behind how much attention each token gets."""
    give_way_(block, _make_watching_class)
    block.watched_attention = watched  # type: ignore[assignment]


def mark_unread_(projector: nn.Module, settings: TokenThinning) -> None:
    """Let `projector`, whose output is (items, tokens, width), mark the tokens that need not be read."""
    give_way_(projector, _make_marking_class)
    projector.token_thinning = settings  # type: ignore[assignment]


def skip_marked_(decoder: nn.Module) -> None:
    """Let `decoder` take marked tokens out of its `inputs_embeds`; twice is the same as once."""
    if not getattr(decoder, "skips_marked", False):
        give_way_(decoder, _make_skipping_class)
        decoder.skips_marked = True  # type: ignore[assignment]


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

    return make_subclass(kind, _make_watching_class, forward)


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
        if found.is_meta:
            _LOCAL.marked[id(projector)] = found.shape[0] * (found.shape[1] - keep)
        return found.masked_fill(unread[..., None], torch.finfo(found.dtype).min)

    return make_subclass(kind, _make_marking_class, forward)


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
    if settings.rest == "join":
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


@cache
def _make_skipping_class(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(decoder: nn.Module, *inputs: Any, **named: Any) -> Any:
        embeds, past = named.get("inputs_embeds"), named.get("past_key_values")
        now = None if embeds is None else _find_read_tokens(embeds)
        if embeds is None or (now is None and find_read_tokens(past) is None):
            return kind.forward(decoder, *inputs, **named)
        here, before = now or read_all(embeds), list_read_tokens(past, embeds)
        whole = here if before is None else before.add(here)
        taken = {
            **named, "inputs_embeds": embeds if now is None else take_places(embeds, here.places),
            "attention_mask": _take_mask(named.get("attention_mask"), whole),
            "position_ids": _take_positions(named.get("position_ids"), here, whole.given - here.given),
        }  # fmt: skip
        with count_what_was_read(past):
            output = kind.forward(decoder, *inputs, **taken)
        note_read_tokens_(output.past_key_values, whole)
        if now is not None:
            output.last_hidden_state = give_all_states(output.last_hidden_state, here)
        return output

    return make_subclass(kind, _make_skipping_class, forward)


def _find_read_tokens(embeds: Tensor) -> ReadTokens | None:
    """Which of the tokens (batch, T, width) are read; None if all."""
    rows, tokens = embeds.shape[:2]
    if embeds.is_meta:  # there are no marks to be seen, but so many
        left = tokens - sum(_LOCAL.marked.values()) // rows
        _LOCAL.marked.clear()
        return replace(read_all(embeds[:, :left]), given=tokens) if left < tokens else None
    marked = embeds[..., 0] <= torch.finfo(embeds.dtype).min
    if tokens == 1 or not marked.any():
        return None
    return ReadTokens(tokens, *place_unmarked(marked))


def _take_mask(mask: Any, read: ReadTokens) -> Tensor:
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


def _take_positions(positions: Any, here: ReadTokens, before: int) -> Tensor:
    """The positions (batch, n) that what is read has in the whole text."""
    if positions is None:
        return here.places + before
    found: Tensor = positions.expand(len(here.places), -1).gather(1, here.places)
    return found


