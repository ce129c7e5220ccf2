"""The sub-commands that have a model run elsewhere: `export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimodal.application import add_command, print_result, screen
from trimodal.arguments import DataOption, ForceOption, JsonOption, ModelArgument, TargetOption
from trimodal.lazy import lazy_module

if TYPE_CHECKING:
    from trimodal.exporting import export as exporting
    from trimodal.exporting import table as tables
else:
    exporting, tables = lazy_module("trimodal.exporting.export"), lazy_module("trimodal.exporting.table")

FORMATS = "onnx, openvino"


@add_command
def export(
    model: ModelArgument,
    to: Annotated[str, typer.Option("--to", help=f"The format: {FORMATS}.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write; by default OUT/FORMAT.", show_default=False)
    ] = None,
    data: DataOption = "none",
    target: TargetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a compressed model, or any other, as another runtime runs it.

    Example: `trimodal export ./clip-int8 --to onnx`
    """
    screen.print_notice(f"reading {model}")
    found = exporting.export(model, to, output, data=data, target=target, force=force)
    print_result(found.to_json() if as_json else tables.make_export_table(found))
