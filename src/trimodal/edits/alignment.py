"""The heads by which Whisper tells when a word was said: pairs of block and head of the decoder's attention to the audio,
`alignment_heads` in the generation configuration. When blocks or heads go, the pairs follow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from trimodal.core import Layout, Site

GENERATION = "generation_config.json"
_HEADS = "alignment_heads"
_Pair = list[int]


def remap_alignment_blocks_(module: nn.Module, layout: Layout, tower: str, kept: Sequence[int]) -> str:
    """Let the pairs name the blocks of `tower` by their new numbers; `layout` is that before the others went. Returns what
    became of the pairs, empty if nothing did."""
    if not any(site.tower == tower for site in layout.sites if _is_cross_query(site)):
        return ""
    return _remap_pairs_(module, lambda block, head: [kept.index(block), head] if block in kept else None)


def remap_alignment_heads_(module: nn.Module, layout: Layout, label: str, kept: Sequence[int]) -> str:
    """The same for the heads `kept` of `label`."""
    here = {site.block for site in layout.find_label_sites(label) if _is_cross_query(site)}

    def follow(block: int, head: int) -> _Pair | None:
        if block not in here:
            return [block, head]
        return [block, kept.index(head)] if head in kept else None

    return _remap_pairs_(module, follow) if here else ""


def write_alignment_heads(module: nn.Module, folder: Path) -> None:
    """Let the generation configuration in `folder`, a copy of the original's, name the heads that the module has."""
    file, own = folder / GENERATION, getattr(module, "generation_config", None)
    if own is None or not file.is_file():
        return
    said: Any = json.loads(file.read_text(encoding="utf-8"))
    pairs = getattr(own, _HEADS, None)
    if isinstance(said, dict) and said.get(_HEADS) != pairs:
        rest = {key: value for key, value in said.items() if key != _HEADS}
        whole = rest if pairs is None else {**rest, _HEADS: pairs}
        file.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _is_cross_query(site: Site) -> bool:
    return site.branch.partition(".")[0] == "cross" and site.role == "query"


def _remap_pairs_(module: nn.Module, follow: Callable[[int, int], _Pair | None]) -> str:
    """Replace every pair by what `follow` makes of it; without one left the entry goes, so that whoever asks for times of
    words is told that there are none."""
    config: Any = getattr(module, "generation_config", None)
    pairs = getattr(config, _HEADS, None)
    if not isinstance(pairs, list) or not all(_is_head_pair(pair) for pair in pairs):
        return ""
    left = [found for block, head in pairs if (found := follow(block, head)) is not None]
    if left == pairs:
        return ""
    if left:
        setattr(config, _HEADS, left)
    else:
        delattr(config, _HEADS)
    return f"{len(left)} of {len(pairs)} heads that tell the times of words stay" + (
        "" if left else ": there are none any more"
    )


def _is_head_pair(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(type(number) is int for number in pair)
