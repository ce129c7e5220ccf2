"""Steps as a file tells of them, fair ones and with changes, and the bare module that they are carried out on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from trimodal.edits import read_edit
from trimodal.stock.replaying import replay_steps_

PATH = "visual_projection"
HUGE = 2**62


def treat(kind: str, options: Any, /, **changes: Any) -> dict[str, Any]:
    step = {"path": PATH, "kind": kind, "options": options, "tied": [], "bias": None}
    return {"treat": {**step, **changes}}


def quantized(**changes: Any) -> dict[str, Any]:
    """A fair step for the projection (16, 32) of the CLIP miniature, with `changes` anywhere in it."""
    options = {
        "bits": 4, "group": 32, "exponent": -3, "zero": None, "shared": False, "shape": [16, 32], "dtype": "float32",
    }  # fmt: skip
    inside = {key.removeprefix("options_"): value for key, value in changes.items() if key.startswith("options_")}
    outside = {key: value for key, value in changes.items() if not key.startswith("options_")}
    return treat("quantized", {**options, **inside}, **outside)


def codebook(tables: str, **changes: Any) -> dict[str, Any]:
    options = {
        "bits": 4, "group": 32, "exponent": 0, "tables": tables, "scaled": True, "shape": [16, 32], "dtype": "float32",
    }  # fmt: skip
    return treat("codebook", options, **changes)


def low_rank(rank: Any, shape: Any, **options: Any) -> dict[str, Any]:
    return treat("low_rank", {"shape": shape, "dtype": "float32", "rank": rank, "embedding": False, **options})


def sparse(kept: Any, shape: Any) -> dict[str, Any]:
    return treat("sparse", {"shape": shape, "dtype": "float32", "kept": kept})


def merge(**changes: Any) -> dict[str, Any]:
    """A fair merge of the CLIP miniature's image tokens, with `changes`."""
    how = {"tower": "image", "kind": "matching", "share": 0.5, "first": 0, "last": 0, "proportional": True}
    return {"merge": {**how, **changes}}


def thin(**changes: Any) -> dict[str, Any]:
    """A fair thinning of the LLaVA miniature's image tokens, with `changes`."""
    how = {"tower": "image", "share": 0.5, "by": "attention", "rest": "discard", "block": 0}
    return {"thin": {**how, **changes}}


def cut(label: Any, kept: Any, **more: Any) -> dict[str, Any]:
    return {"cut": {"label": label, "kept": kept, **more}}


def drop(tower: Any, kept: Any, **more: Any) -> dict[str, Any]:
    return {"drop": {"tower": tower, "kept": kept, **more}}


def share(*paths: Any) -> dict[str, Any]:
    return {"share": {"paths": list(paths)}}


def fold(what: Any, path: Any, *into: Any, **more: Any) -> dict[str, Any]:
    return {"fold": {"what": what, "path": path, "into": list(into), **more}}


def replay_(module: nn.Module, steps: Sequence[Any], size: int = 1 << 50) -> None:
    """Read `steps`, as from a file of `size` bytes, and carry them out on the bare `module`."""
    replay_steps_(module, [read_edit(step, size) for step in steps])
