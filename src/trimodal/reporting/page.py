"""The page: plan, record and verdict of an artifact folder, as one HTML file that fetches nothing.

This file says what stands on the page and in which order; `wording` says it in words, `plots` places the marks,
and `report.html.j2` draws them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from trimodal.core import FitRecord, Metric, PlaceRecord, Plan, TowerSize, UntouchedTensors, Verdict
from trimodal.core.record import read_record_line
from trimodal.errors import IntegrityError, OutputError
from trimodal.reporting import plots, standing, wording
from trimodal.reporting.advice import CommandNames, suggest_next_steps
from trimodal.reporting.data_uses import list_data_uses
from trimodal.reporting.edit_sections import make_edit_section, make_waterfall
from trimodal.reporting.routing import make_routing_rows
from trimodal.reporting.training_section import TrainingTold, make_training_section, read_training
from trimodal.writing import replace_files

PAGE_NAME = "report.html"
WORST_SHOWN = 8
LEFT_SHOWN = 8


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
    file = out / "verdict.json"
    verdict = _parse_file(file, lambda text: Verdict.from_json(json.loads(text), str(file)))
    replace_files(out, {PAGE_NAME: build_page(out, verdict, name or out.resolve().name)})
    return out / PAGE_NAME


def build_page(out: Path, verdict: Verdict, name: str) -> str:
    """The page of the artifact folder `out`, with `verdict` in place of the one that lies there.

    Raises:
        OutputError: the plan is missing.
        IntegrityError: a file is there but does not hold what it should.
    """
    file = out / "plan.json"
    plan = _parse_file(file, lambda text: Plan.from_json(json.loads(text), str(file)))
    places, fits = _read_records(out / "record.jsonl")
    return render_page(plan, verdict, places, fits, name=name, trained=read_training(out))


def _parse_file(file: Path, parse: Any) -> Any:
    try:
        return parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OutputError(f"{file} is missing; expected a folder that trimodal compress wrote") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{file} cannot be read ({type(error).__name__}: {error}); write it anew") from error


def _read_records(file: Path) -> tuple[list[PlaceRecord], list[FitRecord]]:
    lines = _parse_file(file, str.splitlines) if file.is_file() else []
    read = [_read_line(line, f"{file}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    return [one for one in read if isinstance(one, PlaceRecord)], [one for one in read if isinstance(one, FitRecord)]


def _read_line(line: str, where: str) -> PlaceRecord | FitRecord | None:
    try:
        return read_record_line(json.loads(line), where)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where} is not valid JSON ({error}); take the line out") from error


def render_page(
    plan: Plan, verdict: Verdict, places: Sequence[PlaceRecord], fits: Sequence[FitRecord], *, name: str,
    trained: TrainingTold | None = None,
) -> str:  # fmt: skip
    """The page as HTML text; `name` is what the artifact folder is called, `trained` what `train` told of the original."""
    losses = rank_towers_by_loss(verdict, places)
    untouched = verdict.untouched or plan.untouched
    steps = [make_edit_section(number, edit, places, fits) for number, edit in enumerate(plan.edits)]
    return _load_template().render(
        name=name,
        source=wording.source_name(plan.source.name),
        plan=plan,
        verdict=verdict,
        headline=wording.keep_unbroken(wording.make_headline(verdict)),
        standings=(standing.judge_integrity(verdict), standing.judge_quality(verdict)),
        cautions=standing.list_cautions(verdict, plan),
        tiles=_make_tiles(verdict),
        sizes=_make_size_amounts(verdict),
        packing=_to_sentence(wording.describe_packing(verdict.packing)) if verdict.packing else "",
        stock=_to_sentence(wording.describe_stock(verdict.stock)) if verdict.stock else "",
        whiskers=plots.make_whisker_plots(verdict.metrics),
        towers=_make_tower_rows(verdict.towers),
        steps=steps,
        waterfall=make_waterfall(plan, steps),
        left=_make_untouched_rows(untouched) if untouched else [],
        left_line=_to_sentence(standing.describe_untouched(untouched)) if untouched else "",
        running=_describe_run(plan, verdict),
        depth=plots.make_depth_plot(places, [loss.tower for loss in losses]),
        worst=_find_worst_places(places, losses),
        unmeasured=_count_unmeasured(places),
        routing=make_routing_rows(places),
        next_steps=suggest_next_steps(plan, verdict, CommandNames.from_plan(plan, name)),
        losses=plots.make_loss_plots(fits),
        training=make_training_section(trained) if trained else None,
        data=list_data_uses(plan, verdict, fits, trained),
        provenance=_describe_provenance(plan, verdict),
        words=wording,
        percent=plots.format_percent,
    )


@cache
def _load_template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trimodal.reporting", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _to_sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


# What stands on the page


@dataclass(frozen=True)
class SummaryTile:
    """One number that matters, large, with a line beneath."""

    value: str
    unit: str
    text: str


def _make_tiles(verdict: Verdict) -> list[SummaryTile]:
    smaller = wording.format_ratio(verdict.size.before_bytes, verdict.size.after_bytes)
    value, _, unit = smaller.partition(" ")
    sizes = verdict.size
    before, after = wording.format_bytes(sizes.before_bytes), wording.format_bytes(sizes.after_bytes)
    tiles = [SummaryTile(value, unit, f"{before} became {after} on disk")]
    metric = wording.find_main_metric(verdict)
    if metric is None:
        return [*tiles, SummaryTile("–", "not measured", "no data was given to verify with")]
    after, _, unit = wording.format_score(metric, metric.after).partition(" ")
    original = f"{metric.name}; the original has {wording.format_score(metric, metric.before)}"
    tiles.append(SummaryTile(after, unit, wording.keep_unbroken(original)))
    word, _, amount = wording.describe_change(metric).partition(" ")
    value, _, unit = amount.partition(" ")
    if word == "no":
        word, value, unit = "drop", wording.format_drop(metric, abs(metric.drop)), "points" if metric.unit == "percent" else ""
    told = wording.describe_metric_cost(metric).removeprefix(wording.describe_change(metric)).strip(" ,")
    return [
        *tiles,
        SummaryTile(
            value,
            unit,
            wording.keep_unbroken(f"{word}, 95 % interval {told}" if told.startswith("[") else f"{word}; {told}"),
        ),
    ]


@dataclass(frozen=True)
class AmountBars:
    """A before and after with bar lengths in percent of the longest bar on the same scale."""

    name: str
    before: str
    after: str
    ratio: str
    before_percent: float
    after_percent: float
    note: str = ""


def _make_amount(name: str, before: float, after: float, longest: float, words: Any = wording.format_bytes) -> AmountBars:
    scale = 100 / longest if longest else 0.0
    return AmountBars(
        name, words(before), words(after), wording.format_ratio(before, after),
        round(before * scale, 2), round(after * scale, 2),
    )  # fmt: skip


def _make_size_amounts(verdict: Verdict) -> list[AmountBars]:
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
    return [_make_amount(*row, longest) for row in rows]


@dataclass(frozen=True)
class TowerRow:
    """One tower: parameters and bytes, and bits that one of its parameters takes on average."""

    name: str
    parameters: AmountBars
    bytes: AmountBars
    bits_before: str
    bits_after: str


def _make_tower_rows(towers: Sequence[TowerSize]) -> list[TowerRow]:
    most = max((max(t.parameters_before, t.parameters_after) for t in towers), default=0)
    longest = max((max(t.bytes_before, t.bytes_after) for t in towers), default=0)
    return [
        TowerRow(
            name=tower.tower,
            parameters=_make_amount(tower.tower, tower.parameters_before, tower.parameters_after, most, wording.format_count),
            bytes=_make_amount(tower.tower, tower.bytes_before, tower.bytes_after, longest),
            bits_before=_format_average_bits(tower.bytes_before, tower.parameters_before),
            bits_after=_format_average_bits(tower.bytes_after, tower.parameters_after),
        )
        for tower in towers
    ]


def _format_average_bits(stored: int, parameters: int) -> str:
    return f"{8 * stored / parameters:.1f}" if parameters else "–"


@dataclass(frozen=True)
class TowerLoss:
    """What a tower's modality lost, in points or hundredths of a cosine, and in words; None where that was not measured."""

    tower: str
    lost: float | None
    words: str


def rank_towers_by_loss(verdict: Verdict, places: Sequence[PlaceRecord]) -> list[TowerLoss]:
    """The towers with records, the one first whose modality lost most as measured. Those without a metric of their own
    follow by their largest output error."""
    measured = {metric.modality: metric for metric in reversed(verdict.metrics) if metric.primary}
    worst: dict[str, float] = {}
    for record in places:
        error = plots.worst_error_of(record)
        value = error if error is not None else record.weight_error or 0.0
        worst[record.tower] = max(worst.get(record.tower, 0.0), value if math.isfinite(value) else math.inf)
    found = [_make_tower_loss(tower, measured.get(tower)) for tower in worst]
    return sorted(found, key=lambda one: (one.lost is None, -(one.lost or 0.0), -worst[one.tower]))


def _make_tower_loss(tower: str, metric: Metric | None) -> TowerLoss:
    if metric is None:
        return TowerLoss(tower, None, "no metric of its own")
    lost = metric.drop if metric.unit == "percent" else 100 * metric.drop
    words = f"{metric.name}: {wording.describe_change(metric)}"
    return TowerLoss(tower, lost if math.isfinite(lost) else math.inf, words)


@dataclass(frozen=True)
class WorstPlace:
    """One of the places with the largest error of its tower; `edit` is the number of the edit that it belongs to, from 0."""

    tower: str
    lost: str
    place: str
    method: str
    edit: int
    error: str
    modality: str


def _find_worst_places(places: Sequence[PlaceRecord], losses: Sequence[TowerLoss]) -> list[WorstPlace]:
    """The places of each tower that moved most, tower by tower in the order of `losses`."""
    shown = max(2, WORST_SHOWN // max(1, len(losses)))
    return [row for loss in losses for row in _find_worst_of_tower(loss, [r for r in places if r.tower == loss.tower])[:shown]]


def _find_worst_of_tower(loss: TowerLoss, places: Sequence[PlaceRecord]) -> list[WorstPlace]:
    measured = [(record, modality, value) for record in places for modality, value in record.error.items()]
    if not measured:
        measured = [(r, "weights", r.weight_error) for r in places if r.weight_error is not None]
    highest: dict[tuple[int, str], tuple[PlaceRecord, str, float]] = {}
    for record, modality, value in sorted(measured, key=lambda entry: -entry[2]):
        highest.setdefault((record.edit, record.place), (record, modality, value))
    return [
        WorstPlace(loss.tower, loss.words, record.place, record.method, record.edit, plots.format_percent(value), modality)
        for record, modality, value in highest.values()
    ]


def _count_unmeasured(places: Sequence[PlaceRecord]) -> list[tuple[str, int, str]]:
    """(why, how many, the first one) of the places whose output error is not known, if any is known at all."""
    if not any(record.error for record in places):
        return []
    reasons: dict[str, list[str]] = {}
    for record in places:
        if not record.error:
            reasons.setdefault(record.unmeasured or "not known", []).append(record.place)
    return [(why, len(names), names[0]) for why, names in reasons.items()]


@dataclass(frozen=True)
class UntouchedRow:
    """Tensors that stay as they were."""

    name: str
    tower: str
    tensors: int
    bytes: str
    share: str
    why: str


def _make_untouched_rows(untouched: UntouchedTensors) -> list[UntouchedRow]:
    """The largest of what stays as it was, and the rest in one row."""
    rows = [
        UntouchedRow(
            one.name,
            one.tower or "none",
            one.tensors,
            wording.format_bytes(one.bytes),
            wording.format_share(one.bytes, untouched.of_bytes),
            one.why,
        )
        for one in untouched.alike[:LEFT_SHOWN]
    ]
    rest = untouched.alike[LEFT_SHOWN:]
    if rest:
        held = sum(one.bytes for one in rest)
        tensors, share = sum(one.tensors for one in rest), wording.format_share(held, untouched.of_bytes)
        rows.append(UntouchedRow(f"{len(rest)} further names", "", tensors, wording.format_bytes(held), share, ""))
    return rows


def _describe_run(plan: Plan, verdict: Verdict) -> list[tuple[str, str]]:
    """(what, value) of time, memory and machine."""
    found = verdict.latency
    rows = [
        (
            "Forward pass",
            _to_sentence(wording.describe_latency(found).partition(": ")[2]) if found else "not measured: too little data was given",
        ),
        ("Good to know", _to_sentence(wording.describe_speed(plan).removeprefix("time: ")) if wording.describe_speed(plan) else ""),
        ("This run took", ", ".join(f"{name} {wording.format_seconds(value)}" for name, value in verdict.seconds.items())),
        ("Peak memory of the run", wording.format_bytes(verdict.peak_bytes) if verdict.peak_bytes else ""),
        ("Machine", wording.describe_machine(verdict.machine) if verdict.machine else ""),
    ]
    return [row for row in rows if row[1]]


def _describe_provenance(plan: Plan, verdict: Verdict) -> list[tuple[str, str, bool]]:
    """(name, value, whether it is set as code)."""
    calibration = plan.calibration
    modalities = ", ".join(calibration.modalities) or "tensors"
    looked = f"{calibration.samples:,} samples of {modalities}" if calibration.samples else "none"
    rows = [
        ("Source", f"{wording.source_name(plan.source.name)} ({plan.source.family})", False),
        ("Source fingerprint, sha256", plan.source.fingerprint, True),
        ("Source parameters", f"{plan.source.parameters:,}", False),
        ("Calibration", looked, False),
        ("Calibration data, sha256", calibration.sha256 or "", True),
        ("Optional steps with nothing to do", "; ".join(f"{step.step} ({step.method})" for step in plan.skipped), False),
        ("Seeds", f"plan {plan.seed}, verification {verdict.seed}", False),
        ("Plan made with", f"trimodal {plan.trimodal}" if plan.trimodal else "", False),
        ("Versions", ", ".join(f"{name} {version}" for name, version in verdict.versions.items()), False),
    ]
    return [row for row in rows if row[1]]
