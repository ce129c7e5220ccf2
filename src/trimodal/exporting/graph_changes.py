"""What was done to a graph after it was traced, step by step, in words: plain data that goes into export.json and onto the screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class GraphChange:
    """One step: its name, how many nodes there were `before` and `after`, and how many went of each kind of operator."""

    name: str
    before: int
    after: int
    gone: Mapping[str, int] = field(default_factory=dict)


def describe_changes(changes: Sequence[GraphChange]) -> str:
    """`402 nodes as traced, 379 written: 12 constants computed (…), 8 equal nodes made one (8 Concat)`; empty without changes."""
    if not changes:
        return ""
    said = [f"{change.before - change.after} {change.name}{_name_kinds(change.gone)}" for change in changes if change.after < change.before]
    return f"{changes[0].before} nodes with the codes, {changes[-1].after} written: {', '.join(said) or 'nothing was to be removed'}"


def _name_kinds(gone: Mapping[str, int]) -> str:
    """The kinds of operators that went, most frequent first, but the constants, which are no operators."""
    kinds = [(kind, count) for kind, count in sorted(gone.items(), key=lambda one: (-one[1], one[0])) if kind != "Constant"]
    return f" ({', '.join(f'{count} {kind}' for kind, count in kinds)})" if kinds else ""
