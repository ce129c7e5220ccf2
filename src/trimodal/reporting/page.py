"""The page: plan, record and verdict of an artifact folder, as one HTML file that fetches nothing.

This file says what stands on the page and in which order; `wording` says it in words, `plots` places the marks,
and `report.html.j2` draws them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from trimodal.core import Edit, FitRecord, PlaceRecord, Plan, TowerSize, Verdict
from trimodal.errors import IntegrityError, OutputError
from trimodal.methods import METHODS, Method
from trimodal.methods.options import describe
from trimodal.reporting import plots, wording
from trimodal.writing import write_whole

PAGE_NAME = "report.html"
PLACES_SHOWN = 300
WORST_SHOWN = 5


def report(out: str | Path, *, name: str | None = None) -> Path:
    """Write `report.html` into the artifact folder `out` and return its path.

    Reads `plan.json`, `verdict.json` and, where there is one, `record.jsonl`; never a model. `name` is what the
    page calls the folder, for one that is still being written under another name.

    Raises:
        OutputError: the folder or one of its files is missing, or the page cannot be written.
        IntegrityError: a file is there but does not hold what it should.
    """
    out = Path(out)
    if not out.is_dir():
        raise OutputError(f"there is no folder {out}; expected one that trimodal compress wrote")
    plan = _parsed(out / "plan.json", lambda text: Plan.from_json(json.loads(text)))
    verdict = _parsed(out / "verdict.json", lambda text: Verdict.from_json(json.loads(text)))
    places, fits = _records(out / "record.jsonl")
    page = render(plan, verdict, places, fits, name=name or out.resolve().name)
    write_whole(out / PAGE_NAME, page)
    return out / PAGE_NAME


def _parsed(file: Path, parse: Any) -> Any:
    try:
        return parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OutputError(f"{file} is missing; expected a folder that trimodal compress wrote") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{file} cannot be read ({type(error).__name__}: {error}); write it anew") from error


def _records(file: Path) -> tuple[list[PlaceRecord], list[FitRecord]]:
    places: list[PlaceRecord] = []
    fits: list[FitRecord] = []
    if not file.is_file():
        return places, fits
    for line in _parsed(file, lambda text: [json.loads(one) for one in text.splitlines() if one.strip()]):
        kind = line.get("kind") if isinstance(line, dict) else None
        try:
            if kind == "place":
                places.append(PlaceRecord(**{**line, "notes": tuple(line.get("notes", ()))}))
            elif kind == "fit":
                fits.append(FitRecord(**line))
        except TypeError as error:
            raise IntegrityError(f"{file} holds a {kind} line that cannot be read ({error}); write it anew") from error
    return places, fits


def render(plan: Plan, verdict: Verdict, places: Sequence[PlaceRecord], fits: Sequence[FitRecord], *, name: str) -> str:
    """The page as HTML text; `name` is what the artifact folder is called."""
    state, badge, remarks = wording.standing(verdict, plan)
    steps = [_step(number, edit, places, fits) for number, edit in enumerate(plan.edits)]
    return _template().render(
        name=name,
        source=wording.source_name(plan.source.name),
        plan=plan,
        verdict=verdict,
        headline=wording.unbroken(wording.headline(verdict)),
        state=state,
        badge=badge,
        remarks=remarks,
        tiles=_tiles(verdict),
        sizes=_sizes(verdict),
        packing="W" + wording.packing(verdict.packing)[1:] if verdict.packing else "",
        stock="L" + wording.stock(verdict.stock)[1:] if verdict.stock else "",
        speed="T" + speed[1:] if (speed := wording.speed(plan)) else "",
        whiskers=plots.whiskers(verdict.metrics),
        towers=_towers(verdict.towers),
        steps=steps,
        waterfall=_waterfall(plan, steps),
        depth=plots.depth_plot(places),
        worst=_worst(places),
        losses=plots.loss_plots(fits),
        provenance=_provenance(plan, verdict),
        words=wording,
        percent=plots.percent,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trimodal.reporting", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


# What stands on the page


@dataclass(frozen=True)
class Tile:
    """One number that matters, large, with a line beneath."""

    value: str
    unit: str
    text: str


def _tiles(verdict: Verdict) -> list[Tile]:
    smaller = wording.ratio(verdict.size.before_bytes, verdict.size.after_bytes)
    value, _, unit = smaller.partition(" ")
    sizes = verdict.size
    tiles = [Tile(value, unit, f"{wording.size(sizes.before_bytes)} became {wording.size(sizes.after_bytes)} on disk")]
    metric = wording.main_metric(verdict)
    if metric is None:
        return [*tiles, Tile("–", "not measured", "no data was given to verify with")]
    after, _, unit = wording.score(metric, metric.after).partition(" ")
    original = f"{metric.name}; the original has {wording.score(metric, metric.before)}"
    tiles.append(Tile(after, unit, wording.unbroken(original)))
    change, unit = wording.drop(metric, metric.drop), "points" if metric.unit == "percent" else ""
    text = f"drop, 95 % interval {wording.interval(metric)}, n = {metric.samples:,}"
    return [*tiles, Tile(change, unit, wording.unbroken(text))]


@dataclass(frozen=True)
class Amount:
    """A before and after with bar lengths in percent of the longest bar on the same scale."""

    name: str
    before: str
    after: str
    ratio: str
    before_percent: float
    after_percent: float
    note: str = ""


def _amount(name: str, before: float, after: float, longest: float, words: Any = wording.size) -> Amount:
    scale = 100 / longest if longest else 0.0
    return Amount(
        name, words(before), words(after), wording.ratio(before, after),
        round(before * scale, 2), round(after * scale, 2),
    )  # fmt: skip


def _sizes(verdict: Verdict) -> list[Amount]:
    sizes = verdict.size
    rows = [
        ("Everything needed to run it", sizes.before_bytes, sizes.after_bytes),
        ("of which weights", sizes.weights_before_bytes, sizes.weights_after_bytes),
        (
            "of which configuration and processors",
            sizes.before_bytes - sizes.weights_before_bytes,
            sizes.after_bytes - sizes.weights_after_bytes,
        ),
    ]
    longest = max(max(before, after) for _, before, after in rows)
    return [_amount(*row, longest) for row in rows]


@dataclass(frozen=True)
class TowerRow:
    """One tower: parameters and bytes, and bits that one of its parameters takes on average."""

    name: str
    parameters: Amount
    bytes: Amount
    bits_before: str
    bits_after: str


def _towers(towers: Sequence[TowerSize]) -> list[TowerRow]:
    most = max((max(t.parameters_before, t.parameters_after) for t in towers), default=0)
    longest = max((max(t.bytes_before, t.bytes_after) for t in towers), default=0)
    return [
        TowerRow(
            name=tower.tower,
            parameters=_amount(tower.tower, tower.parameters_before, tower.parameters_after, most, wording.count),
            bytes=_amount(tower.tower, tower.bytes_before, tower.bytes_after, longest),
            bits_before=_bits(tower.bytes_before, tower.parameters_before),
            bits_after=_bits(tower.bytes_after, tower.parameters_after),
        )
        for tower in towers
    ]


def _bits(stored: int, parameters: int) -> str:
    return f"{8 * stored / parameters:.1f}" if parameters else "–"


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


@dataclass(frozen=True)
class Step:
    """One edit of the plan and what came of it. `saved` is in bytes."""

    number: int
    method: str
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


def _step(number: int, edit: Edit, places: Sequence[PlaceRecord], fits: Sequence[FitRecord]) -> Step:
    done = [record for record in places if record.edit == number]
    fitted = [record for record in fits if record.edit == number]
    before, after = (
        sum(getattr(place, field) for place in (done or edit.places)) for field in ("bytes_before", "bytes_after")
    )
    known = next((method for method in METHODS if method.name == edit.method), None)
    taken = sum(record.seconds for record in done) + sum(record.seconds for record in fitted)
    rows = [_place_row(record) for record in done] or [
        PlaceRow(p.name, wording.size(p.bytes_before), wording.size(p.bytes_after), (), "", "", ()) for p in edit.places
    ]
    return Step(
        number=number,
        method=edit.method,
        idea=known.idea if known else "",
        paper=known.paper if known else "",
        settings=_settings(edit, known),
        where=edit.where,
        places=len(done or edit.places),
        saved=before - after,
        share=f"{wording.size(before)} → {wording.size(after)}" if before != after else "",
        seconds=wording.seconds(taken) if taken else "",
        rows=tuple(rows[:PLACES_SHOWN]),
        hidden=max(0, len(rows) - PLACES_SHOWN),
        left_alone=_reasons(edit),
        left_count=len(edit.left_alone),
    )


def _settings(edit: Edit, known: Method | None) -> tuple[tuple[str, str], ...]:
    """Each option that has a value in words, with its meaning where the method is known."""
    rows = {row["name"]: row for row in describe(known.config)} if known else {}
    return tuple(
        (wording.setting(name, value, rows.get(name, {}).get("unit", "")), rows.get(name, {}).get("help", ""))
        for name, value in edit.config.items()
        if value not in (None, "", [], {})
    )


def _place_row(record: PlaceRecord) -> PlaceRow:
    return PlaceRow(
        name=record.place,
        before=wording.size(record.bytes_before),
        after=wording.size(record.bytes_after),
        errors=tuple((modality, plots.percent(value)) for modality, value in record.error.items()),
        weight_error="" if record.weight_error is None else plots.percent(record.weight_error),
        seconds=wording.seconds(record.seconds),
        notes=record.notes,
    )


def _reasons(edit: Edit) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Places left alone, gathered by reason."""
    reasons: dict[str, list[str]] = {}
    for place in edit.left_alone:
        reasons.setdefault(place.reason, []).append(place.name)
    return tuple((reason, tuple(names)) for reason, names in reasons.items())


@dataclass(frozen=True)
class Bar:
    """One row of the waterfall: a floating bar in percent of the axis, and its words."""

    name: str
    start: float
    length: float
    value: str
    total: bool
    step: int = -1


def _waterfall(plan: Plan, steps: Sequence[Step]) -> list[Bar]:
    """From the original's tensors, edit by edit, to what is left; growth of a step is drawn to the right."""
    level = plan.source.tensor_bytes
    levels = [level]
    for step in steps:
        level -= step.saved
        levels.append(level)
    scale = 100 / max(*levels, 1)
    bars = [Bar("Original", 0.0, round(levels[0] * scale, 2), wording.size(levels[0]), total=True)]
    for step, before, after in zip(steps, levels, levels[1:], strict=False):
        start, length = max(0, min(before, after)) * scale, abs(max(0, before) - max(0, after)) * scale
        words = "no change in size" if before == after else _moved(before - after)
        bars.append(Bar(step.method, round(start, 2), round(length, 2), words, total=False, step=step.number))
    return [*bars, Bar("Compressed", 0.0, round(levels[-1] * scale, 2), wording.size(levels[-1]), total=True)]


def _moved(saved: int) -> str:
    return wording.size(-saved) if saved > 0 else f"+{wording.size(-saved)}"


@dataclass(frozen=True)
class Worst:
    """One of the places with the largest error."""

    place: str
    method: str
    edit: int
    error: str
    modality: str


def _worst(places: Sequence[PlaceRecord]) -> list[Worst]:
    measured = [(record, modality, value) for record in places for modality, value in record.error.items()]
    if not measured:
        measured = [(r, "weights", r.weight_error) for r in places if r.weight_error is not None]
    highest: dict[tuple[int, str], tuple[PlaceRecord, str, float]] = {}
    for record, modality, value in sorted(measured, key=lambda entry: -entry[2]):
        highest.setdefault((record.edit, record.place), (record, modality, value))
    return [
        Worst(record.place, record.method, record.edit, plots.percent(value), modality)
        for record, modality, value in list(highest.values())[:WORST_SHOWN]
    ]


def _provenance(plan: Plan, verdict: Verdict) -> list[tuple[str, str, bool]]:
    """(name, value, whether it is set as code)."""
    calibration = plan.calibration
    modalities = ", ".join(calibration.modalities)
    looked = f"{calibration.samples:,} samples of {modalities}" if calibration.samples else "none"
    rows = [
        ("Source", f"{wording.source_name(plan.source.name)} ({plan.source.family})", False),
        ("Source fingerprint, sha256", plan.source.fingerprint, True),
        ("Source parameters", f"{plan.source.parameters:,}", False),
        ("Calibration", looked, False),
        ("Calibration data, sha256", calibration.sha256 or "", True),
        ("Seeds", f"plan {plan.seed}, verification {verdict.seed}", False),
        ("Plan made with", f"trimodal {plan.trimodal}" if plan.trimodal else "", False),
        ("Versions", ", ".join(f"{name} {version}" for name, version in verdict.versions.items()), False),
        ("Time", ", ".join(f"{name} {wording.seconds(value)}" for name, value in verdict.seconds.items()), False),
    ]
    return [row for row in rows if row[1]]
