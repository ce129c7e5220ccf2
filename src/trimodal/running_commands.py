"""The sub-commands that have a model run elsewhere: `export`, `unpack`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimodal.application import add_command, print_result, screen
from trimodal.arguments import DataOption, ForceOption, JsonOption, ModelArgument, OutputOption, TargetOption
from trimodal.lazy import lazy_module

if TYPE_CHECKING:
    from trimodal.exporting import archive as archives
    from trimodal.exporting import export as exporting
    from trimodal.exporting import table as tables
else:
    archives = lazy_module("trimodal.exporting.archive")
    exporting, tables = lazy_module("trimodal.exporting.export"), lazy_module("trimodal.exporting.table")

ArchiveArgument = Annotated[
    str, typer.Argument(help="A file that `trimodal export --to archive` wrote, or - for standard input.", show_default=False)
]
FORMATS = "onnx, openvino, compressed-tensors, archive"


@add_command
def export(
    model: ModelArgument,
    to: Annotated[str, typer.Option("--to", help=f"The format: {FORMATS}.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write, by default OUT/FORMAT; of an archive the file.", show_default=False),
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


@add_command
def unpack(
    archive: ArchiveArgument,
    output: OutputOption,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the folder that an archive holds, the same bytes again.

    Example: `curl -s https://example.org/model.tri | trimodal unpack - -o ./model`
    """
    folder = archives.unpack(archive, output, force=force)
    print_result({"folder": str(folder)} if as_json else f"written: {folder}")
