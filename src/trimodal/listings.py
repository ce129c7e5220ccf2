"""Tables for the terminal that need no torch: methods, targets, the machine, the places of an edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from trimodal.core.target_fit import TargetFit, name_briefly
from trimodal.machine import Environment
from trimodal.shorthand import short_name_of
from trimodal.targets import MEANINGS, Target

CERTAINTY_WORDS = {"exact": "", "at most": "at most ", "estimate": "about "}


def make_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    """A plain table, its cells taken as they are."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def make_method_row(row: Any) -> tuple[str, ...]:
    """A method of the catalogue: its name, the field's short name, the idea, what it works on."""
    defaults = {option["name"]: option["default"] for option in row["options"]}
    return row["name"], short_name_of(row["name"], defaults), row["idea"], row["works_on"]


def make_method_table(method: Any) -> Table:
    """The options of a method of the catalogue."""
    rows = [
        (o["name"], "required" if o["required"] else str(o["default"]), o["expected"] or o["type"], o["help"])
        for o in method["options"]
    ]
    table = make_table(("option", "default", "allowed", "meaning"), rows)
    _, short, idea, works_on = make_method_row(method)
    table.title = Text(f"{method['name']}: {idea}\n{method['paper']}\nby default: {short}\nworks on: {works_on}")
    table.title_justify = "left"
    return table


def make_target_table(target: Target) -> Group:
    """What a target takes: its rules in the order in which they are asked, then what is beside the codes, then what to know."""
    rules = [
        (layer, "; ".join(_join_words(w) for w in (rule.types, rule.grids, rule.groups, rule.inputs)), f"{rule.level}: {rule.why}")
        for layer, listed in target.weights.items() for rule in listed
    ]  # fmt: skip
    other = [
        (name.replace("_", " "), f"{support.level}: {support.why}")
        for group in (target.parts, target.structure) for name, support in vars(group).items()
    ]  # fmt: skip
    title = f"{target.name}: {target.about}\nformat {target.format}, runs in {target.runtime}"
    told = [
        *(f"{level}: {meaning}" for level, meaning in MEANINGS.items()),
        *(f"stays float: {one.operator}, as {one.why}" for one in target.float_operators),
        *(f"inputs {mode}: {said}" for mode, said in target.input_cautions.items()),
        *(f"beside the simulation: {said}" for said in target.simulation.differs),
        *(f"note: {note.text} ({note.source})" for note in target.notes),
    ]
    if target.device == "cpu":
        title += f"; {target.explain_misfit() or 'fits this machine'}"
    weights = make_table(("layer", "type in the file; grids; a scale per; inputs", "taken"), rules)
    return Group(Text(title), weights, make_table(("beside the codes", "taken"), other), *map(Text, told))


def _join_words(words: Sequence[object]) -> str:
    return ", ".join(map(str, words))


def make_target_row(target: Target) -> tuple[str, ...]:
    """A target: its name and format, what it is, and whether this machine is of its kind."""
    fits = "" if target.device != "cpu" else "yes" if target.machine_fits() else "no"
    return target.name, target.format, target.about, fits


def make_fit_table(fit: TargetFit) -> Group:
    """How a target takes what a plan stores, all places by name."""
    return Group(*map(Text, describe_fit(fit, most=fit.asked)))


def describe_fit(fit: TargetFit, most: int = 3) -> list[str]:
    """How a target takes what a plan stores: the counts, then at most so many places by reason, refused ones first."""
    native = fit.asked - fit.refused - fit.decoded
    counts = f"{native:,} taken as stored, {fit.decoded:,} decoded when loaded, {fit.refused:,} refused"
    told = [f"target {fit.target}: of {fit.asked:,} places {counts}"]
    for taken_as, word in (("refused", "cannot be taken"), ("decoded", "decoded to float when loaded"), ("native", "careful")):
        told += [f"{word} ({why}): {name_briefly(names, most)}" for why, names in fit.group_names(taken_as).items()]
    return [*told, *([f"careful: {fit.machine}"] if fit.machine else [])]


def list_machine_rows(found: Environment) -> list[tuple[str, str]]:
    """What the machine has, in words."""
    memory = "unknown" if found.memory_bytes is None else f"{found.memory_bytes / 1e9:.1f} GB"
    return [
        *found.versions.items(),
        ("python", found.python),
        ("system", found.system),
        ("processor", f"{found.processor}, {found.cores} to use, {found.threads} threads"),
        ("vector instructions", ", ".join(found.vectors) or "none of those that matter"),
        ("free memory", memory),
        ("free disk", f"{found.disk_bytes / 1e9:.1f} GB at {found.disk}"),
    ]


def make_edit_table(name: str, config: dict[str, Any], edit: Any) -> Group:
    """The places of a step, then its settings, then what it leaves alone, by reason."""
    rows = [
        (place.name, f"{place.bytes_before:,}", CERTAINTY_WORDS[place.certainty] + f"{place.bytes_after:,}")
        for place in edit.places
    ]
    table = make_table((name, "bytes before", "bytes after"), rows)
    settings = ", ".join(f"{key} {value}" for key, value in config.items())
    told = [f"{short_name_of(name, config)}: {settings}".removeprefix(": ")]
    told += [f"{place.name}: {place.note}" for place in edit.places if place.note]
    reasons = dict.fromkeys(alone.reason for alone in edit.left_alone)
    told += [f"left alone ({why}): {', '.join(a.name for a in edit.left_alone if a.reason == why)}" for why in reasons]
    return Group(table, *map(Text, filter(None, told)))
