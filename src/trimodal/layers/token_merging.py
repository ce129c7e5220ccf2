"""Encoder blocks that merge the tokens which they hand on.

The block stays what it was, with its own weights, names and forward; only its class gives way to a subclass that

1. reads off the incoming tensor which original tokens its tokens stand for,
2. gives the block's attention the log of their sizes as an additive mask, in place of the mask for padding that came
   with the call (padding is a token of size 0),
3. runs the block, keeping what the key projection gives,
4. merges the block's output by the likeness of the keys, and notes on the new tensor what it stands for.

The notes travel as an attribute of the tensor that one block hands to the next. So there is no state between calls,
nothing to reset, and nothing that threads could share.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trimodal.errors import TrimodalError
from trimodal.maths import merging

_NOTE = "trimodal_tokens"


@dataclass(frozen=True)
class BlockMerging:
    """What one block does with tokens.

    Attributes:
        start: it is the first of its tower that merges; before it every token stands for itself.
        removed: share of the original tokens that are gone when it is done, matching (unless `factor`); None: it only
            heeds the sizes.
        factor: so many neighbours become one (`strided`); 0 for matching.
        key: path of its key projection, from the block; `width` is that of one head.
        protected: so many tokens at the front are never merged.
        proportional: whether attention counts a token as often as it stands for.
        restore: it is the tower's last, and hands on as many tokens as came in, each in the state of the one that it
            was merged into.
    """

    start: bool
    removed: float | None
    factor: int
    key: str
    width: int
    protected: int
    proportional: bool
    restore: bool


class _TokenState(NamedTuple):
    """What the tokens of a tensor stand for: `sizes` (batch, T now), the place of every original token among them
    (batch, T), and whether some original tokens were padding."""

    sizes: Tensor
    target: Tensor
    padded: bool

    @property
    def has_merged(self) -> bool:
        return self.sizes.shape[1] < self.target.shape[1]


def merge_tokens_(block: nn.Module, settings: BlockMerging) -> None:
    """Let `block` do with its tokens what `settings` say. Its forward takes the hidden states (batch, T, width) and as
    second argument a mask, and returns hidden states."""
    block.__class__ = _make_merging_class(type(block))  # type: ignore[arg-type]
    block.token_merging = settings  # type: ignore[assignment]


def has_token_merging(block: nn.Module) -> bool:
    """Whether `merge_tokens_` was called on `block`."""
    return isinstance(getattr(block, "token_merging", None), BlockMerging)


@cache
def _make_merging_class(kind: type[nn.Module]) -> type[nn.Module]:
    mask_name = list(inspect.signature(kind.forward).parameters)[2]

    def forward(block: nn.Module, hidden: Tensor, *rest: Any, **named: Any) -> Tensor:
        settings: BlockMerging = block.token_merging  # type: ignore[assignment]
        mask, rest = (rest[0], rest[1:]) if rest else (named.pop(mask_name, None), ())
        tokens = _make_unmerged_state(hidden, mask) if settings.start else _read_token_state(hidden, block)
        if tokens.has_merged:
            mask = _attention_mask(tokens, settings.proportional, hidden.dtype)
        with capture_output(block.get_submodule(settings.key)) as keys:
            output: Tensor = kind.forward(block, hidden, mask, *rest, **named)
        output, tokens = _merge_output(output, keys[0], tokens, settings)
        if settings.restore:
            return merging.restore_tokens(output, tokens.target) if tokens.has_merged else output
        setattr(output, _NOTE, tokens)
        return output

    members = {
        "forward": forward, "__module__": __name__, "__reduce__": lambda block: (_rebuild_merging_block, (kind,), vars(block)),
    }  # fmt: skip
    return type(f"Merging{kind.__name__}", (kind,), members)


def _rebuild_merging_block(kind: type[nn.Module]) -> nn.Module:
    """An empty block for a copy or a pickle to fill: its class has no name that could be imported."""
    made = _make_merging_class(kind)  # type: ignore[arg-type]
    return made.__new__(made)


def _merge_output(output: Tensor, keys: Tensor, tokens: _TokenState, settings: BlockMerging) -> tuple[Tensor, _TokenState]:
    """The block's output (batch, T, width) with fewer tokens, and what they stand for."""
    now, original = output.shape[1], tokens.target.shape[1]
    if settings.factor > 1:
        target = merging.group_neighbours(now, settings.factor, settings.protected).to(output.device).expand(output.shape[0], -1)
        left = settings.protected - (settings.protected - now) // settings.factor
    elif settings.removed is not None:
        wanted = round(settings.removed * original) - (original - now)
        remove = min(max(0, wanted), merging.max_removable_tokens(now, settings.protected))
        left = now - remove
        metric = keys.unflatten(-1, (-1, settings.width)).mean(dim=2)
        target = merging.match_tokens(metric, tokens.sizes, remove, settings.protected) if remove else tokens.target
    else:
        left = now
    if left == now:
        return output, tokens
    output, sizes = merging.average_tokens(output, tokens.sizes, target, left)
    return output, _TokenState(sizes, target.gather(1, tokens.target), tokens.padded)


def _make_unmerged_state(hidden: Tensor, mask: Tensor | None) -> _TokenState:
    """Tokens that each stand for themselves, those that `mask` hides for nothing."""
    place = torch.arange(hidden.shape[1], device=hidden.device).expand(hidden.shape[0], -1)
    if mask is None:
        return _TokenState(torch.ones_like(place, dtype=torch.float32), place, False)
    seen = mask[:, 0, 0] if mask.dim() == 4 else mask  # whom no token may look at is the same for all of them
    real = seen if seen.dtype is torch.bool else seen >= 0 if seen.is_floating_point() else seen > 0
    return _TokenState(real.expand(hidden.shape[0], -1).float(), place, True)


def _read_token_state(hidden: Tensor, block: nn.Module) -> _TokenState:
    found = getattr(hidden, _NOTE, None)
    if not isinstance(found, _TokenState):
        raise TrimodalError(
            f"a {type(block).__name__} was given tokens that no block before it has handed on; blocks that merge tokens "
            "must be called one after another, each with the very tensor that the one before it returned"
        )
    return found


def _attention_mask(tokens: _TokenState, proportional: bool, dtype: torch.dtype) -> Tensor | None:
    """The additive mask (batch, 1, 1, T) for attention among `tokens`."""
    if not proportional and not tokens.padded:
        return None
    return merging.logit_bias(tokens.sizes, proportional, dtype)[:, None, None, :]


@contextmanager
def capture_output(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What `layer` returns to this thread meanwhile."""
    found: list[Tensor] = []
    caller = threading.get_ident()

    def keep(_: nn.Module, inputs: Any, output: Tensor) -> None:
        if threading.get_ident() == caller:
            found.append(output)

    handle = layer.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()
