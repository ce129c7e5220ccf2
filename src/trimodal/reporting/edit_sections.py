"""What the page says of each edit: its places with what they cost, what it left alone, and the waterfall of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimodal.core import Edit, FitRecord, PlaceRecord, Plan
from trimodal.methods import Method, list_known_methods
from trimodal.methods.options import describe_options
from trimodal.reporting import plots, wording
from trimodal.shorthand import short_name_of

PLACES_SHOWN = 300
_HOW_MUCH = ("sparsity", "bits")


@dataclass(frozen=True)
class PlaceRow:
    """One place of an edit, planned and, if it ran, recorded."""

    name: str
    before: str
    after: str
    errors: tuple[tuple[str, str], ...]
    weight_error: str
    seconds: str
    notes: tuple[str, ...]
    unmeasured: str = ""


@dataclass(frozen=True)
class EditSection:
    """One edit of the plan and what came of it. `saved` is in bytes; `hidden` counts the places that the page does not list."""

    number: int
    method: str
    short: str
    idea: str
    paper: str
    settings: tuple[tuple[str, str], ...]
    where: tuple[str, ...]
    places: int
    saved: int
    share: str
    seconds: str
    rows: tuple[PlaceRow, ...]
    hidden: int
    left_alone: tuple[tuple[str, tuple[str, ...]], ...]
    left_count: int


def make_edit_section(number: int, edit: Edit, places: Sequence[PlaceRecord], fits: Sequence[FitRecord]) -> EditSection:
    """What the page says of the edit that has this number in the plan, from 0."""
    done = [record for record in places if record.edit == number]
    fitted = [record for record in fits if record.edit == number]
    before, after = (
        sum(getattr(place, field) for place in (done or edit.places)) for field in ("bytes_before", "bytes_after")
    )
    known = next((method for method in list_known_methods() if method.name == edit.method), None)
    taken = sum(record.seconds for record in done) + sum(record.seconds for record in fitted)
    rows = [_make_place_row(record) for record in done] or [
        PlaceRow(p.name, wording.format_bytes(p.bytes_before), wording.format_bytes(p.bytes_after), (), "", "", (p.note,) if p.note else ())
        for p in edit.places
    ]
    return EditSection(
        number=number,
        method=edit.method,
        short=short_name_of(edit.method, edit.config),
        idea=known.idea if known else "",
        paper=known.paper if known else "",
        settings=_describe_settings(edit, known),
        where=edit.where,
        places=len(done or edit.places),
        saved=before - after,
        share=f"{wording.format_bytes(before)} → {wording.format_bytes(after)}" if before != after else "",
        seconds=wording.format_seconds(taken) if taken else "",
        rows=tuple(rows[:PLACES_SHOWN]),
        hidden=max(0, len(rows) - PLACES_SHOWN),
        left_alone=_group_by_reason(edit),
        left_count=len(edit.left_alone),
    )


def _describe_settings(edit: Edit, known: Method | None) -> tuple[tuple[str, str], ...]:
    """How much, and each further option that differs from the method's default, in words; with its meaning where the method
    is known."""
    rows = {row["name"]: row for row in describe_options(known.config)} if known else {}
    return tuple(
        (wording.describe_setting(name, value, rows.get(name, {}).get("unit", "")), rows.get(name, {}).get("help", ""))
        for name, value in edit.config.items()
        if value not in (None, "", [], {}) and (name in _HOW_MUCH or not _is_default(value, rows.get(name)))
    )


def _is_default(value: Any, row: dict[str, Any] | None) -> bool:
    """Whether an option has the value that it has unasked."""
    if row is None or row["required"]:
        return False
    default = list(row["default"]) if isinstance(row["default"], tuple) else row["default"]
    return bool((list(value) if isinstance(value, tuple) else value) == default)


def _make_place_row(record: PlaceRecord) -> PlaceRow:
    return PlaceRow(
        name=record.place,
        before=wording.format_bytes(record.bytes_before),
        after=wording.format_bytes(record.bytes_after),
        errors=tuple((modality, plots.format_percent(value)) for modality, value in record.error.items()),
        weight_error="" if record.weight_error is None else plots.format_percent(record.weight_error),
        seconds=wording.format_seconds(record.seconds),
        notes=record.notes,
        unmeasured="" if record.error else record.unmeasured or "not known",
    )


def _group_by_reason(edit: Edit) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Places left alone, gathered by reason."""
    reasons: dict[str, list[str]] = {}
    for place in edit.left_alone:
        reasons.setdefault(place.reason, []).append(place.name)
    return tuple((reason, tuple(names)) for reason, names in reasons.items())


@dataclass(frozen=True)
class WaterfallBar:
    """One row of the waterfall: a floating bar, `start` and `length` in percent of the axis, and its words; `step` is the number
    of its edit, -1 for none."""

    name: str
    start: float
    length: float
    value: str
    total: bool
    step: int = -1


def make_waterfall(plan: Plan, steps: Sequence[EditSection]) -> list[WaterfallBar]:
    """From the original's tensors, edit by edit, to what is left; growth of a step is drawn to the right."""
    level = plan.source.tensor_bytes
    levels = [level]
    for step in steps:
        level -= step.saved
        levels.append(level)
    scale = 100 / max(*levels, 1)
    bars = [WaterfallBar("Original", 0.0, round(levels[0] * scale, 2), wording.format_bytes(levels[0]), total=True)]
    for step, before, after in zip(steps, levels, levels[1:], strict=False):
        start, length = max(0, min(before, after)) * scale, abs(max(0, before) - max(0, after)) * scale
        words = "no change in size" if before == after else _format_moved_bytes(before - after)
        bars.append(WaterfallBar(step.method, round(start, 2), round(length, 2), words, total=False, step=step.number))
    return [*bars, WaterfallBar("Compressed", 0.0, round(levels[-1] * scale, 2), wording.format_bytes(levels[-1]), total=True)]


def _format_moved_bytes(saved: int) -> str:
    return wording.format_bytes(-saved) if saved > 0 else f"+{wording.format_bytes(-saved)}"
