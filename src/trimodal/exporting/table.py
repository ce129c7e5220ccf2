"""What an export wrote, as a table for the screen."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table

from trimodal.exporting.export import Export
from trimodal.exporting.graph_changes import describe_changes

_SHOWN = 3


def make_export_table(found: Export) -> Group:
    """Its files with inputs and outputs, and what is not stored or computed as the plan had it."""
    table = Table("file", "MB", "inputs", "outputs", "nodes", box=None, pad_edge=False)
    for part in found.result.components:
        size = sum((found.folder / file).stat().st_size for file in part.files) / 1e6
        table.add_row(part.files[0], f"{size:.2f}", ", ".join(part.inputs), ", ".join(part.outputs), str(part.nodes or ""))
    lines = [f"{part.name}: {told}" for part in found.result.components if (told := describe_changes(part.changes))]
    lines += [f"{len(found.result.coded)} layers with their codes as they were verified"]
    lines += _describe_layers("decoded to floats", found.result.decoded)
    lines += _describe_layers("input left in float", found.result.float_inputs)
    lines += [f"{check.name}: {check.status} ({check.detail})" for check in found.result.checks]
    lines += [f"careful: {note}" for note in found.result.notes]
    return Group(table, *lines, f"written: {found.place}")


def _describe_layers(what: str, layers: object) -> list[str]:
    """One line for each reason."""
    assert isinstance(layers, dict)
    reasons: dict[str, list[str]] = {}
    for path, reason in layers.items():
        reasons.setdefault(reason, []).append(path)
    return [
        f"{what}: {len(paths)} layers ({', '.join(paths[:_SHOWN])}{', …' if len(paths) > _SHOWN else ''}): {reason}"
        for reason, paths in reasons.items()
    ]  # fmt: skip
