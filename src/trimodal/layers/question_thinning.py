"""A decoder whose later blocks read only those tokens of an image or a sound that the end of the prompt looks at.

Three kinds of modules have their classes give way to subclasses:

1. the model around tower and decoder: it says which tokens are media, and where the prompt ends,
2. the decoder: hands both on to its blocks, and in the end a state for every token that it was given,
3. its blocks from the one that chooses on. That one runs as it is, computes one row of its attention, that of the prompt's last token,
   and hands on only what is left. Those behind it take of mask and positions what belongs to that.

Earlier blocks keep all tokens in the cache, later ones those that were left; every token keeps its position. The choice is made once,
where the prompt is read. Without a cache `generate` reads all from the start for every word, with what it has said behind the prompt; the
prompt's end is then still where it was, for it is remembered with the images or sounds, and tokens behind it change nothing before it. So
the same tokens are left. What is read first with them is taken for the prompt: of an assistant model's guesses that is too much.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

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

_READING, _PROMPT = "trimodal_reading", "trimodal_prompt"
_MEDIA = ("pixel_values", "input_features", "input_values")


@dataclass(frozen=True)
class QuestionThinning:
    """What a block behind which tokens go does: a `share` of the media's goes. Paths from the block: its `attention`, and that of its
    query projection, or of the norm behind that where there is one."""

    share: float
    attention: str
    query: str


@dataclass
class _Reading:
    """What the blocks of one call of the decoder are told: which tokens are `media`, bool (batch, T), None where none is new; the places of
    the prompts' `ends` (batch,); what the cache held `before`, and what is left of the tokens that are `here`, once it is known."""

    media: Tensor | None
    ends: Tensor | None
    before: ReadTokens | None
    here: ReadTokens | None = None

    @property
    def whole(self) -> ReadTokens:
        """All that later blocks have read after this call."""
        if self.here is None:
            raise TrimodalError("a block was called before the one that chooses what it reads")
        return self.here if self.before is None else self.before.add(self.here)


class _Local(threading.local):
    """What the model tells its decoder in one thread: media (batch, T), ends (batch,)."""

    told: tuple[Tensor, Tensor] | None = None


_LOCAL = _Local()


def thin_by_question_(
    model: nn.Module, decoder: nn.Module, blocks: list[nn.Module], placeholder: str, settings: QuestionThinning
) -> None:
    """Let `blocks`, those of `decoder` from the one that chooses on, read fewer of the tokens whose ids in `model` are what its
    configuration calls `placeholder`."""
    give_way_(model, _make_telling_class)
    model.placeholder_name = placeholder  # type: ignore[assignment]
    give_way_(decoder, _make_reading_class)
    give_way_(blocks[0], _make_choosing_class)
    blocks[0].question_thinning = settings  # type: ignore[assignment]
    for block in blocks[1:]:
        give_way_(block, _make_following_class)


@cache
def _make_telling_class(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(model: nn.Module, *inputs: Any, **named: Any) -> Any:
        ids = inputs[0] if inputs else named.get("input_ids")
        if ids is not None and ids.shape[1] > 1:
            named_so: Any = model.placeholder_name
            media = ids == int(getattr(model.config, named_so))
            prompt = _remember_prompt(ids, _find_carriers(named))
            _LOCAL.told = (media, _find_ends(ids, named.get("attention_mask"), prompt)) if media.any() else None
        try:
            return kind.forward(model, *inputs, **named)
        finally:
            _LOCAL.told = None

    return make_subclass(kind, _make_telling_class, forward)


def _find_carriers(named: Mapping[str, Any]) -> list[Any]:
    """What `generate` hands to the model again for every word, as long as there is no cache: images that are encoded already, else images
    or sounds."""
    encoded = [part for part in (named.get("mm_encoder_outputs") or {}).values() if part is not None]
    return encoded or [named[name] for name in _MEDIA if named.get(name) is not None]


def _remember_prompt(ids: Tensor, carriers: list[Any]) -> int:
    """How many of the `ids` (batch, T) are the prompt. The first call with these `carriers` is given nothing else; it is noted with them,
    for the calls to come."""
    for part in carriers:
        known: Tensor | None = getattr(part, _PROMPT, None)
        if known is not None and known.shape[1] <= ids.shape[1] and torch.equal(known, ids[:, : known.shape[1]]):
            return known.shape[1]
    for part in carriers:
        setattr(part, _PROMPT, ids)
    return ids.shape[1]


def _find_ends(ids: Tensor, mask: Any, prompt: int) -> Tensor:
    """The place of each prompt's last token that is no padding (batch,)."""
    order = torch.arange(prompt, device=ids.device).expand(len(ids), -1)
    if isinstance(mask, Tensor) and mask.dim() == 2:
        order = order * (mask[:, -ids.shape[1] :][:, :prompt] > 0)
    return order.amax(dim=1)


@cache
def _make_reading_class(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(decoder: nn.Module, *inputs: Any, **named: Any) -> Any:
        told, _LOCAL.told = _LOCAL.told, None
        past = named.get("past_key_values")
        if told is None and find_read_tokens(past) is None:
            return kind.forward(decoder, *inputs, **named)
        media, ends = told or (None, None)
        before = list_read_tokens(past, named["inputs_embeds"])
        reading = _Reading(media, ends, before, read_all(named["inputs_embeds"]) if media is None else None)
        with count_what_was_read(past):
            output = kind.forward(decoder, *inputs, **named, **{_READING: reading})
        note_read_tokens_(output.past_key_values, reading.whole)
        here = reading.here
        if here is not None and here.places.shape[1] < here.given:
            output.last_hidden_state = give_all_states(output.last_hidden_state, here)
        return output

    return make_subclass(kind, _make_reading_class, forward)


@cache
def _make_choosing_class(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(block: nn.Module, hidden: Tensor, *rest: Any, **named: Any) -> Any:
        reading: _Reading | None = named.pop(_READING, None)
        if reading is None or reading.media is None or reading.ends is None:
            return kind.forward(block, hidden, *rest, **named)
        settings: QuestionThinning = block.question_thinning  # type: ignore[assignment]
        attention: Any = block.get_submodule(settings.attention)
        if named.get("past_key_values") is None:  # an empty one is false
            named["past_key_values"] = DynamicCache()  # where the keys can be seen
        past = named["past_key_values"]
        held = past.get_seq_length(attention.layer_idx)
        with capture_output(block.get_submodule(settings.query)) as queries:
            output: Tensor = kind.forward(block, hidden, *rest, **named)
        with torch.no_grad():
            keys = past.layers[attention.layer_idx].keys
            if keys.shape[2] != held + hidden.shape[1]:
                raise TrimodalError("what a decoder reads can be chosen only with the usual cache, DynamicCache, which holds every key")
            row = _look_from_end(attention, queries[0], keys.float(), reading.ends, named)
            marked = mark_least(row[:, -hidden.shape[1] :], reading.media, settings.share)
        reading.here = ReadTokens(hidden.shape[1], *place_unmarked(marked))
        return take_places(output, reading.here.places)

    return make_subclass(kind, _make_choosing_class, forward)


def _look_from_end(attention: Any, queries: Tensor, keys: Tensor, ends: Tensor, named: Mapping[str, Any]) -> Tensor:
    """The row of `attention` that each prompt's last token gives, the mean over heads: (batch, S) float32. `queries` are those of its
    projection (batch, T, heads · width), or of the norm behind it (batch, T, heads, width) or (batch, heads, T, width); `keys` (batch,
    heads, S, width) those of the cache, `named` what the block is given."""
    new = named["position_embeddings"][0].shape[1]
    queries = queries.transpose(1, 2) if queries.dim() == 4 and queries.shape[1] != new else queries
    rows = torch.arange(len(ends), device=ends.device)
    last = queries.reshape(*queries.shape[:2], -1, attention.head_dim)[rows, ends][:, :, None].float()  # (batch, heads, 1, width)
    if getattr(attention, "use_rope", True):
        turn = sys.modules[type(attention).__module__].apply_rotary_pos_emb
        cosine, sine = (part.expand(len(ends), -1, -1)[rows, ends][:, None] for part in named["position_embeddings"])
        last = turn(last, last, cosine, sine)[0].float()
    logits = last @ keys.repeat_interleave(last.shape[1] // keys.shape[1], dim=1).transpose(2, 3) * attention.scaling
    seen = torch.arange(keys.shape[2], device=ends.device) <= (ends + keys.shape[2] - new)[:, None]
    mask = named.get("attention_mask")
    if mask is not None:
        given = _check_mask(mask).expand(len(ends), -1, -1, -1)[rows, 0, ends]
        seen = seen & (given if given.dtype is torch.bool else given > torch.finfo(given.dtype).min / 2)
    found: Tensor = logits.masked_fill(~seen[:, None, None], -torch.inf).softmax(dim=-1).mean(dim=1)[:, 0]
    return found


def _check_mask(mask: Any) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        raise TrimodalError("a decoder that reads fewer tokens behind some block needs attn_implementation='sdpa' or 'eager'")
    return mask


def mark_least(scores: Tensor, media: Tensor, share: float) -> Tensor:
    """Which of the tokens that are `media`, bool (batch, T), go: in every row the `share` of them with the least `scores` (batch, T),
    bool (batch, T). One of them always stays."""
    order = scores.masked_fill(~media, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.zeros_like(order).scatter(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    keep = [token_choice.count_kept_tokens(count, share) for count in media.sum(dim=1).tolist()]
    return media & (rank >= torch.tensor(keep, device=rank.device)[:, None])


@cache
def _make_following_class(kind: type[nn.Module]) -> type[nn.Module]:
    def forward(block: nn.Module, hidden: Tensor, *rest: Any, **named: Any) -> Any:
        reading: _Reading | None = named.pop(_READING, None)
        if reading is None:
            return kind.forward(block, hidden, *rest, **named)
        here, whole = reading.here, reading.whole
        if here is None or rest:
            raise TrimodalError(f"a {type(block).__name__} is called in a way that is not known, so its tokens cannot be chosen from")
        named["attention_mask"] = _take_mask(named.get("attention_mask"), here, whole)
        for name in ("position_embeddings", "position_ids"):
            if name in named:
                named[name] = _take_positions(named[name], here.places)
        return kind.forward(block, hidden, **named)

    return make_subclass(kind, _make_following_class, forward)


def _take_positions(value: Any, places: Tensor) -> Any:
    """Positions (batch or 1, T), or embeddings of them (batch or 1, T, width), of what is left."""
    if isinstance(value, tuple):
        return tuple(_take_positions(part, places) for part in value)
    if value is None:
        return None
    if value.dim() not in (2, 3):
        raise TrimodalError(f"positions {tuple(value.shape)} are of a kind that is not known, so a decoder's tokens cannot be chosen from")
    whole = value.expand(len(places), *value.shape[1:])
    return whole.gather(1, places) if value.dim() == 2 else take_places(whole, places)


def _take_mask(mask: Any, here: ReadTokens, whole: ReadTokens) -> Tensor | None:
    """The mask (batch, 1, n, all that was read) of what is left; None, each token looks at all before it, stays that as long as no row
    is filled up."""
    if mask is None and bool(whole.live.all()):
        return None
    rows, seen = here.places, whole.places
    if mask is None:
        at = (rows + whole.given - here.given)[:, :, None]
        return ((seen[:, None] <= at) & whole.live[:, None])[:, None]
    found = _check_mask(mask).expand(len(rows), -1, -1, -1)
    found = found.gather(2, rows[:, None, :, None].expand(-1, found.shape[1], -1, found.shape[3]))
    found = found.gather(3, seen[:, None, None].expand(-1, found.shape[1], found.shape[2], -1))
    hidden = ~whole.live[:, None, None]
    return found & ~hidden if found.dtype is torch.bool else found.masked_fill(hidden, torch.finfo(found.dtype).min)

