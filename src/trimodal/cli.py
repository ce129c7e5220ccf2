"""The command line: one sub-command per verb, each a few lines over `pipeline`."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from trimodal import __version__
from trimodal.errors import TrimodalError

if TYPE_CHECKING:
    from trimodal.methods import Method

INTERRUPTED = 130
_CERTAINTY = {"exact": "", "at most": "at most ", "estimate": "about "}
_MODEL = "A Hugging Face folder or hub id, a folder that trimodal wrote, or package.module:function."
_RECIPE = "A YAML file, or the name of a built-in recipe (see `trimodal recipes`)."
_DATA = "A JSONL file or a folder with data.jsonl; `none` where nothing needs data."

ModelArgument = Annotated[str, typer.Argument(help=_MODEL, show_default=False)]
OutArgument = Annotated[Path, typer.Argument(help="A folder that `trimodal compress` wrote.", show_default=False)]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the output folder if it is not empty.")]
RecipeOption = Annotated[str, typer.Option("--recipe", "-r", help=_RECIPE, show_default=False)]
DataOption = Annotated[str, typer.Option("--data", "-d", help=_DATA)]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, help="Replaces the recipe's seed.", show_default=False)
]
DeviceOption = Annotated[str, typer.Option("--device", help="Where to compute, such as cpu or cuda:0.")]
PackOption = Annotated[
    Literal["plain", "entropy"],
    typer.Option("--pack", help="How weights are stored: `entropy` is smallest, and is decoded when it is loaded."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output, nothing else.")]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Compress multimodal models (image, text, audio) as a whole, and prove what the result is.\n\n"
    "inspect → plan → compress (with verify, save, report) → load. Each verb is also a function in `trimodal`.",
)
messages = Console(stderr=True, highlight=False)
out = Console(highlight=False)


def _version(asked: bool) -> None:
    if asked:
        out.print(f"trimodal {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command()
def inspect(
    model: ModelArgument, device: DeviceOption = "cpu", as_json: JsonOption = False, seed: SeedOption = None
) -> None:
    """Show towers, blocks, sites, parameters, bytes and operations of a model, per tower and in all."""
    from trimodal import pipeline
    from trimodal.reporting.table import inventory_table

    found = pipeline.inspect(model, device=device)
    _print(found.to_json() if as_json else inventory_table(found))


@app.command()
def plan(
    model: ModelArgument,
    recipe: RecipeOption,
    data: DataOption = "none",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the plan to this JSON file.")] = None,
    seed: SeedOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Show what a recipe will do to a model, every place by name. Changes nothing."""
    from trimodal import pipeline
    from trimodal.formats import write_whole

    made = pipeline.plan(model, recipe, data, seed=seed, device=device)
    if output is not None:
        write_whole(output, json.dumps(made.to_json(), indent=1, ensure_ascii=False) + "\n")
    if as_json:
        _print(made.to_json())
        return
    for edit in made.edits:
        _print(_edit_table(edit.method, edit.config, edit))
    _print(f"tensors: {made.source.tensor_bytes:,} → {_CERTAINTY[made.certainty]}{made.expected_tensor_bytes:,} bytes")


@app.command()
def compress(
    model: ModelArgument,
    recipe: RecipeOption,
    data: DataOption,
    output: OutputOption,
    pack: PackOption = "plain",
    force: ForceOption = False,
    seed: SeedOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Plan, compress, save, reload in a fresh process, verify and report: the main job.

    Example: `trimodal compress ./clip --recipe int4 --data ./pairs.jsonl -o ./clip-int4`
    """
    from trimodal import pipeline

    with _bar(as_json) as progress:
        result = pipeline.compress(
            model, recipe, data, output, pack=pack, seed=seed, device=device, force=force, progress=progress
        )
    _finish(result.verdict, result.plan, as_json, f"written: {output}  (open {output / 'report.html'})")


@app.command()
def verify(
    folder: OutArgument,
    against: Annotated[str, typer.Option("--against", "-a", help=f"The original. {_MODEL}", show_default=False)],
    data: Annotated[
        str, typer.Option("--data", "-d", help="A JSONL file or a folder with data.jsonl.", show_default=False)
    ],
    seed: SeedOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Measure a compressed model beside the original again, and write OUT/verdict.json."""
    from trimodal import pipeline

    with _bar(as_json) as progress:
        verdict = pipeline.verify(folder, against, data, seed=seed, device=device, progress=progress)
    _finish(verdict, pipeline.read_plan(folder), as_json, f"written: {folder / 'verdict.json'}")


@app.command()
def pack(
    folder: OutArgument,
    output: OutputOption,
    pack: PackOption = "entropy",
    force: ForceOption = False,
    seed: SeedOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Write a compressed model again with its weights entropy-coded or plain; needs no original."""
    from trimodal import pipeline
    from trimodal.reporting import wording

    found = pipeline.pack(folder, output, pack, force=force)
    if as_json:
        _print({"folder": str(output), "pack": pack, "packing": None if found is None else asdict(found)})
    else:
        _print(f"written: {output}" if found is None else f"{wording.packing(found)}\nwritten: {output}")


@app.command()
def report(
    folder: OutArgument, as_json: JsonOption = False, seed: SeedOption = None, device: DeviceOption = "cpu"
) -> None:
    """Write OUT/report.html, one self-contained page, from the plan, the record and the verdict."""
    from trimodal.reporting import report as write_report

    page = write_report(folder)
    _print({"report": str(page)} if as_json else f"written: {page}")


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method, to see its options.", show_default=False)] = None,
    as_json: JsonOption = False,
    seed: SeedOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """List the methods: paper, options, and on what each works."""
    from trimodal.methods import listed, works_on
    from trimodal.methods.options import describe

    found = listed(name)
    if as_json:
        _print([{"name": m.name, "kind": m.kind, "paper": m.paper, "idea": m.idea, "works_on": works_on(m),
                 "options": describe(m.config)} for m in found])  # fmt: skip
    elif name is None:
        _print(_table(("method", "what it does", "works on"), [(m.name, m.idea, works_on(m)) for m in found]))
        _print("`trimodal methods NAME` shows the options of one.")
    else:
        _print(_one_method(found[0]))


@app.command()
def recipes(as_json: JsonOption = False, seed: SeedOption = None, device: DeviceOption = "cpu") -> None:
    """List the built-in recipes."""
    from trimodal.planning import built_in

    known = built_in()
    _print(known if as_json else _table(("recipe", "what it does"), list(known.items())))


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option("--folder", help="Where demo-model, demo-data and demo-out are written.")
    ] = Path(),
    train: Annotated[
        bool, typer.Option("--train", help="Train the built-in model anew instead of unpacking it.")
    ] = False,
    seed: SeedOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Run the main job on the built-in model and data: see a digit, hear a digit, read what to do with them."""
    from trimodal import demo as job

    with _bar(as_json) as progress:
        result = job.run(folder, train=train, seed=seed, device=device, progress=progress)
    _finish(result.verdict, result.plan, as_json, f"written: {result.folder}  (open {result.folder / 'report.html'})")


def main() -> None:
    """Entry point: errors in one or two sentences, exit code 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Threads that spin while they wait made runs on a busy machine take three times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore")
    stopped = _stop_cleanly()
    try:
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()
    except TrimodalError as error:
        code = _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (typer.Abort, typer.Exit) as error:
        code = getattr(error, "exit_code", INTERRUPTED)
    except typer.TyperException as error:
        code = _say(error.format_message(), 2)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        code = _say(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 2)
    except MemoryError:
        code = _say("there is not enough memory for this model", 1)
    if code == INTERRUPTED:
        code = _say("interrupted; nothing was left half-written", 128 + stopped[0] if stopped else INTERRUPTED)
    sys.exit(code)


def _stop_cleanly() -> list[int]:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does; the list will hold which one came."""
    came: list[int] = []

    def stop(number: int, frame: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, stop)
    return came


def _say(message: str, code: int) -> int:
    messages.print(f"error: {message}", markup=False, soft_wrap=True)
    return code


def _print(what: Any) -> None:
    """Plain data as JSON, tables and text as they are."""
    if isinstance(what, dict | list):
        sys.stdout.write(json.dumps(what, indent=1, ensure_ascii=False) + "\n")
    else:
        out.print(what)


def _finish(verdict: Any, planned: Any, as_json: bool, message: str) -> None:
    """Show the verdict; a check that failed makes the exit code 1."""
    from trimodal.reporting.table import summary

    if as_json:
        _print(verdict.to_json())
    else:
        _print(summary(verdict, planned))
        _print(message)
    if not verdict.passed:
        failed = [check for check in verdict.checks if check.failed]
        raise typer.Exit(_say(f"{failed[0].name}: {failed[0].detail}", 1))


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on standard error; nothing where nobody looks."""
    columns = TextColumn("{task.description:<44.44}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=messages, transient=True, disable=quiet or not messages.is_terminal) as progress:
        task = progress.add_task("load")
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _one_method(method: Method) -> Table:
    from trimodal.methods import works_on
    from trimodal.methods.options import describe

    rows = [
        (o["name"], "required" if o["required"] else str(o["default"]), o["expected"] or o["type"], o["help"])
        for o in describe(method.config)
    ]
    table = _table(("option", "default", "allowed", "meaning"), rows)
    table.title = f"{method.name}: {method.idea}\n{method.paper}\nworks on: {works_on(method)}"
    table.title_justify = "left"
    return table


def _edit_table(name: str, config: dict[str, Any], edit: Any) -> Table:
    rows = [
        (place.name, f"{place.bytes_before:,}", _CERTAINTY[place.certainty] + f"{place.bytes_after:,}")
        for place in edit.places
    ]
    table = _table((name, "bytes before", "bytes after"), rows)
    settings = ", ".join(f"{key} {value}" for key, value in config.items())
    left = "".join(f"\nleft alone: {alone.name} ({alone.reason})" for alone in edit.left_alone)
    table.caption = f"{settings}{left}"
    table.caption_justify = "left"
    return table


if __name__ == "__main__":
    main()
