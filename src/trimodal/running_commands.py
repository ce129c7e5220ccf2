"""The sub-commands that have a model run elsewhere: `export`, `unpack`, `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimodal.application import add_command, open_named_data, print_result, screen
from trimodal.arguments import DataOption, ForceOption, JsonOption, MapOption, ModelArgument, OutputOption, TargetOption
from trimodal.errors import InputError
from trimodal.lazy import lazy_module

if TYPE_CHECKING:
    from trimodal.benching import bench as benching
    from trimodal.benching import choice as choices
    from trimodal.benching import table as bench_tables
    from trimodal.exporting import archive as archives
    from trimodal.exporting import export as exporting
    from trimodal.exporting import table as tables
else:
    benching, choices, bench_tables = (lazy_module(f"trimodal.benching.{name}") for name in ("bench", "choice", "table"))
    archives = lazy_module("trimodal.exporting.archive")
    exporting, tables = lazy_module("trimodal.exporting.export"), lazy_module("trimodal.exporting.table")

ArchiveArgument = Annotated[
    str, typer.Argument(help="A file that `trimodal export --to archive` wrote, or - for standard input.", show_default=False)
]
FORMATS = "onnx, openvino, compressed-tensors, archive"
RUNTIMES = "onnxruntime, openvino, torch"


@add_command
def export(
    model: ModelArgument,
    to: Annotated[str, typer.Option("--to", help=f"The format: {FORMATS}.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write, by default OUT/FORMAT; of an archive the file.", show_default=False),
    ] = None,
    data: DataOption = "none",
    map: MapOption = None,
    target: TargetOption = None,
    factory: Annotated[
        str | None,
        typer.Option("--factory", help="For an artifact that came from a function: that, package.module:name.", show_default=False),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a compressed model, or any other, as another runtime runs it.

    Example: `trimodal export ./clip-int8 --to onnx`
    """
    screen.print_notice(f"reading {model}")
    found = exporting.export(model, to, output, data=open_named_data(data, map), target=target, force=force, factory=factory)
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


@add_command
def bench(
    out: Annotated[
        str, typer.Argument(help="An artifact, a model's folder, or a folder that `trimodal export` wrote.", show_default=False)
    ],
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Others to compare with, such as the original.", show_default=False)
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option("--runtime", help=f"{RUNTIMES}, several with commas between them; `auto`: all, and the fastest that is faithful is "
                     "remembered in OUT. By default those of the first two that are installed.", show_default=False),
    ] = None,
    batch: Annotated[str, typer.Option("--batch", help="Samples at once, such as 1,8.")] = "1",
    tokens: Annotated[str, typer.Option("--tokens", help="Length of texts, such as 32,128.")] = "32",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="For every runtime; by default two.", show_default=False)] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often each is timed, in turn with the others.")] = 7,
    as_json: JsonOption = False,
) -> None:
    """Time a compressed model on this machine, in every runtime, beside the original.

    Example: `trimodal bench ./clip-int8 ./clip --batch 1,8`
    """
    sizes = {"batch": _read_numbers("--batch", batch), "tokens": _read_numbers("--tokens", tokens)}
    options: dict[str, Any] = {**sizes, "threads": threads, "rounds": rounds, "tell": screen.print_notice}
    if runtime is not None and "auto" in runtime.split(","):
        found, choice = choices.bench_and_choose(out, *(models or ()), **options)
    else:
        found, choice = benching.bench(out, *(models or ()), runtime=runtime, **options), None
    if as_json:
        print_result({**found.to_json(), **({} if choice is None else {"choice": choice.to_json()})})
    else:
        print_result(bench_tables.make_bench_table(found, choice))


def _read_numbers(name: str, text: str) -> list[int]:
    """Whole numbers with commas between them.

    Raises:
        InputError: it is something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise InputError(f"{name} is {text!r}; give whole numbers with commas between them, such as 1,8")
    return [int(part) for part in parts]
