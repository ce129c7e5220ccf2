"""The command line: one sub-command per verb, each a few lines over `pipeline`.

Nothing heavy is imported at the top: help, `recipes`, `methods` and `doctor` need no torch. What does is a `lazy_module`.
"""

from __future__ import annotations

import inspect as inspection
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from trimodal import __version__
from trimodal.catalogue import describe_methods, list_recipes, name_recipe_steps, read_recipe_schema
from trimodal.core import Plan, Verdict, json_text
from trimodal.errors import TrimodalError
from trimodal.garbage import skip_final_collection
from trimodal.lazy import lazy_module
from trimodal.machine import Environment, describe_environment, warnings_of
from trimodal.screen import Screen, print_json, replace_unknown_signs
from trimodal.shorthand import short_name_of

if TYPE_CHECKING:
    from trimodal import pipeline, reporting, writing
    from trimodal.demo import run as demo_run
    from trimodal.reporting import advice, standing, wording
    from trimodal.reporting import table as tables
else:
    pipeline, reporting, writing, demo_run = (lazy_module(f"trimodal.{name}") for name in ("pipeline", "reporting", "writing", "demo.run"))
    advice, standing, tables, wording = (lazy_module(f"trimodal.reporting.{name}") for name in ("advice", "standing", "table", "wording"))

INTERRUPTED = 130
KEYWORD = inspection.Parameter.KEYWORD_ONLY
_CERTAINTY = {"exact": "", "at most": "at most ", "estimate": "about "}
_MODEL = "A Hugging Face folder or hub id, a folder that trimodal wrote, or package.module:function."
_RECIPE = "A YAML file, or the name of a built-in recipe (see `trimodal recipes`)."
_INVENTORY = "What `trimodal inspect MODEL -o FILE` wrote of this very model, so that nothing is counted again."
_DATA = "A JSONL file or a folder with data.jsonl; `none` where nothing needs data."
_EXITS = (
    "Exit codes: 0 done, all checks passed; 1 a check failed, or an artifact is damaged; 2 the input cannot be used, and nothing "
    "was written; 130 interrupted (143 by SIGTERM), and nothing was left half-written."
)

ModelArgument = Annotated[str, typer.Argument(help=_MODEL, show_default=False)]
OutArgument = Annotated[Path, typer.Argument(help="A folder that `trimodal compress` wrote.", show_default=False)]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder to write.", show_default=False)]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace the output folder if it is not empty.")]
RecipeOption = Annotated[str, typer.Option("--recipe", "-r", help=_RECIPE, show_default=False)]
RecipeOrPlanOption = Annotated[
    str | None, typer.Option("--recipe", "-r", help=f"{_RECIPE} Either this or --plan.", show_default=False)
]
PlanOption = Annotated[
    Path | None,
    typer.Option("--plan", "-p", help="A plan to carry out, as `trimodal plan -o` wrote it or edited by hand.", show_default=False),
]
InventoryOption = Annotated[Path | None, typer.Option("--inventory", help=_INVENTORY, show_default=False)]
DataOption = Annotated[str, typer.Option("--data", "-d", help=_DATA)]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, help="Replaces the recipe's seed.", show_default=False)
]
DeviceOption = Annotated[str, typer.Option("--device", help="Where to compute, such as cpu or cuda:0.")]
LimitsOption = Annotated[
    bool, typer.Option("--ignore-limits", help="Begin even where the free memory or disk seem too small.")
]
PackOption = Annotated[
    Literal["plain", "entropy"],
    typer.Option("--pack", help="How weights are stored: `entropy` is smallest, and is decoded when it is loaded."),
]
RecipesPackOption = Annotated[
    Literal["plain", "entropy"] | None,
    typer.Option(
        "--pack",
        help="How weights are stored, where it is not as the recipe says: `entropy` is smallest, and is decoded when it is loaded.",
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON on standard output and nothing else; errors as JSON on standard error."),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also show each place, warnings, what the libraries say, and where errors come from.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress; only the result and errors.")]
LogOption = Annotated[
    Path | None,
    typer.Option("--log-file", metavar="FILE", help="Also write all that is told to this file, with the time.", show_default=False),
]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Compress multimodal models (image, text, audio) as a whole, and prove what the result is.\n\n"
    "inspect → plan → compress (with verify, save, report) → load. Each verb is also a function in `trimodal`.",
    epilog=_EXITS,
)
screen = Screen()
out = Console(highlight=False, emoji=False)


def add_command(function: Callable[..., None]) -> Callable[..., None]:
    """Make `function` a sub-command, with the options that all have: how much is shown, and where it is logged."""

    @wraps(function)
    def run(*, verbose: bool, quiet: bool, log_file: Path | None, **rest: Any) -> None:
        screen.verbose, screen.quiet, screen.log = verbose, quiet, log_file
        with screen.capture_logs():
            function(**rest)

    own = inspection.signature(function, eval_str=True)
    shared = (("verbose", VerboseOption, False), ("quiet", QuietOption, False), ("log_file", LogOption, None))
    added = [inspection.Parameter(name, KEYWORD, default=default, annotation=hint) for name, hint, default in shared]
    parameters = [p.replace(kind=KEYWORD) for p in own.parameters.values()] + added
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return app.command()(run)


def _show_version(asked: bool) -> None:
    if asked:
        out.print(f"trimodal {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of the program itself."""


@add_command
def inspect(
    model: ModelArgument,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the inventory to this JSON file.", show_default=False)
    ] = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Show towers, blocks, sites, parameters, bytes and MACs (multiply-accumulates) of a model, per tower and in all."""
    screen.print_notice(f"reading {model}")
    found = pipeline.inspect(model, device=device)
    _write_json(output, found.to_json())
    _print_result(found.to_json() if as_json else tables.make_inventory_table(found))


@add_command
def plan(
    model: ModelArgument,
    recipe: RecipeOption,
    data: DataOption = "none",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the plan to this JSON file.")] = None,
    seed: SeedOption = None,
    device: DeviceOption = "cpu",
    inventory: InventoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a recipe will do to a model, every place by name, and what that will take. Changes nothing."""
    screen.print_notice(f"reading {model}")
    made = pipeline.plan(model, recipe, data, seed=seed, device=device, inventory=inventory)
    _write_json(output, made.to_json())
    if as_json:
        _print_result({**made.to_json(), "estimate": made.estimate.to_json() if made.estimate else None})
        return
    for edit in made.edits:
        _print_result(_make_edit_table(edit.method, edit.config, edit))
    for step in made.skipped:
        _print_result(f"nothing to do: {step.step} ({step.method}), which is optional: {step.reason}")
    if made.pack != "plain":
        _print_result(f"the weight file will be {made.pack}-coded, so smaller than its tensors")
    _print_result(tables.summarize_untouched(made))
    _print_result(_describe_needs(made))
    _print_result(f"tensors: {made.source.tensor_bytes:,} → {_CERTAINTY[made.certainty]}{made.expected_tensor_bytes:,} bytes")


@add_command
def compress(
    model: ModelArgument,
    data: DataOption,
    output: OutputOption,
    recipe: RecipeOrPlanOption = None,
    plan: PlanOption = None,
    inventory: InventoryOption = None,
    pack: RecipesPackOption = None,
    force: ForceOption = False,
    ignore_limits: LimitsOption = False,
    seed: SeedOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Plan, compress, save, reload in a fresh process, verify and report: the main job.

    Example: `trimodal compress ./clip --recipe int4 --data ./pairs.jsonl -o ./clip-int4`
    """
    if (recipe is None) == (plan is None):
        raise typer.BadParameter("give exactly one of --recipe and --plan", param_hint="--recipe / --plan")
    with screen.show_progress(model) as progress:
        result = pipeline.compress(
            model, recipe, data, output, plan=plan, inventory=inventory, pack=pack, seed=seed, device=device, force=force,
            ignore_limits=ignore_limits, progress=progress, on_plan=_announce_plan,
        )  # fmt: skip
    written = f"written: {output}  (open {output / 'report.html'})"
    _finish_run(result.verdict, result.plan, as_json, written, str(output), model, data)


@add_command
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
    with screen.show_progress(f"{folder} and {against}") as progress:
        verdict = pipeline.verify(folder, against, data, seed=seed, device=device, progress=progress)
    _finish_run(
        verdict, pipeline.read_plan(folder), as_json, f"written: {folder / 'verdict.json'}", str(folder), against, data
    )


@add_command
def pack(
    folder: OutArgument,
    output: OutputOption,
    pack: PackOption = "entropy",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a compressed model again with its weights entropy-coded or plain; needs no original."""
    found = pipeline.pack(folder, output, pack, force=force)
    if as_json:
        _print_result({"folder": str(output), "pack": pack, "packing": None if found is None else asdict(found)})
    else:
        _print_result(f"written: {output}" if found is None else f"{wording.describe_packing(found)}\nwritten: {output}")


@add_command
def report(folder: OutArgument, as_json: JsonOption = False) -> None:
    """Write OUT/report.html, one self-contained page, from the plan, the record and the verdict."""
    page = reporting.report(folder)
    _print_result({"report": str(page)} if as_json else f"written: {page}")


@add_command
def methods(
    name: Annotated[str | None, typer.Argument(help="One method, to see its options.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """List the methods: paper, options, on what each works, and what the field calls it as it is by default."""
    found = describe_methods(name)
    if as_json:
        _print_result(list(found))
    elif name is None:
        _print_result(_make_table(("method", "by default", "what it does", "works on"), [_make_method_row(row) for row in found]))
        _print_result("`trimodal methods NAME` shows the options of one.")
    else:
        _print_result(_make_method_table(found[0]))


@add_command
def recipes(
    as_json: JsonOption = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a recipe, for editors.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the schema to this file.", show_default=False)
    ] = None,
) -> None:
    """List the built-in recipes, with the field's short names for their steps."""
    if output is not None and not schema:
        raise typer.BadParameter("it says where the schema goes, and goes with --schema", param_hint="--output")
    if output is not None:
        writing.write_text_atomically(output, json_text(read_recipe_schema(), indent=1, ensure_ascii=False) + "\n")
        return
    if schema:
        _print_result(read_recipe_schema())
        return
    known = list_recipes()
    rows = [(name, " + ".join(name_recipe_steps(name)), what) for name, what in known.items()]
    _print_result(known if as_json else _make_table(("recipe", "in short", "what it does"), rows))


@add_command
def doctor(as_json: JsonOption = False) -> None:
    """Show what a run depends on: versions, processor, threads, free memory and disk, optional parts and how to get them."""
    found = describe_environment()
    if as_json:
        _print_result({**found.to_json(), "warnings": warnings_of(found)})
        return
    _print_result(_make_table(("", ""), _list_machine_rows(found)))
    _print_result(_make_table(("optional part", "for", "there", "install with"), [
        (part.name, part.what, "yes" if part.is_installed else f"no: {', '.join(part.missing)}", "" if part.is_installed else part.install)
        for part in found.parts
    ]))  # fmt: skip
    for warning in warnings_of(found):
        _print_result(f"careful: {warning}")


@add_command
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
    with screen.show_progress("the built-in model") as progress:
        result = demo_run.run_demo(folder, train=train, seed=seed, device=device, progress=progress, on_plan=_announce_plan)
    _finish_run(
        result.verdict,
        result.plan,
        as_json,
        f"written: {result.folder}  (open {result.folder / 'report.html'})",
        *(str(folder / f"demo-{name}") for name in ("out", "model", "data")),
    )


def main() -> None:
    """Entry point: errors in one or two sentences, exit code 2 for bad input, 130 after Ctrl-C, 143 after SIGTERM."""
    skip_final_collection()
    replace_unknown_signs()
    screen.__init__(as_json="--json" in sys.argv)  # type: ignore[misc]
    _settle_libraries(verbose=bool({"-v", "--verbose"} & set(sys.argv)))
    stopped = _stop_cleanly()
    code = _run_command()
    if code == INTERRUPTED:
        code = 128 + stopped[0] if stopped else INTERRUPTED
        screen.print_error("Interrupted", "interrupted; nothing was left half-written", code)
    sys.exit(code)


def _settle_libraries(verbose: bool) -> None:
    """Keep libraries quiet unless the user wants to hear them, and threads from getting in each other's way."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "info" if verbose else "error")
    # Threads that spin while they wait made runs on a busy machine take three times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    if not verbose:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        warnings.filterwarnings("ignore")


def _run_command() -> int:
    """Run what the arguments ask for; what can be expected to go wrong becomes a sentence and an exit code."""
    try:
        code = app(standalone_mode=False, prog_name="trimodal") or 0
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except TrimodalError as error:
        return screen.print_error(type(error).__name__, str(error), error.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (typer.Abort, typer.Exit) as error:
        return getattr(error, "exit_code", INTERRUPTED)
    except typer.TyperException as error:
        return _report_misuse(error)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return screen.print_error("OSError", f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 2)
    except MemoryError:
        return screen.print_error("MemoryError", "there is not enough memory for this model", 1)


def _report_misuse(error: typer.TyperException) -> int:
    """Arguments that cannot be understood, or none at all, which shows the help."""
    if len(sys.argv) < 2:
        print(error.format_message(), end="", file=sys.stderr)  # empty where the help has been shown in colours
        return 2
    return screen.print_error("UsageError", error.format_message(), 2)


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


def _print_result(what: Any) -> None:
    """Plain data as JSON, tables and text as they are."""

    if isinstance(what, dict | list):
        print_json(what)
    elif isinstance(what, str):
        out.print(what, markup=False, soft_wrap=True)
    else:
        out.print(what, crop=False)


def _finish_run(verdict: Verdict, planned: Plan, as_json: bool, message: str, *names: str) -> None:
    """Show the verdict, and what next with the `names` of folder, model and data; a check that failed makes the exit code 1."""
    if as_json:
        _print_result({**verdict.to_json(), "estimate": planned.estimate.to_json()} if planned.estimate else verdict.to_json())
    else:
        _print_result(tables.make_summary(verdict, planned, advice.CommandNames(*names)))
        _print_result(message)
    if not verdict.passed:
        raise typer.Exit(screen.print_error("CheckFailed", standing.describe_failure(verdict), 1))


def _write_json(file: Path | None, data: dict[str, Any]) -> None:
    """Write plain data to the file that the user named, if any."""
    if file is not None:
        writing.write_text_atomically(file, json_text(data, indent=1, ensure_ascii=False) + "\n")


def _announce_plan(planned: Plan) -> None:
    """What lies ahead, and what of a plan that was given had to be reckoned anew."""
    if planned.recomputed:
        screen.print_notice(planned.recomputed)
    screen.print_notice(_describe_needs(planned))


def _describe_needs(planned: Plan) -> str:
    """What carrying out a plan will take, in one line."""
    found = planned.estimate
    if found is None:
        return ""
    memory, disk = wording.format_bytes(found.memory_bytes), wording.format_bytes(found.disk_bytes)
    return f"needs about {wording.format_seconds(found.total_seconds)}, {memory} of memory, {disk} on disk"


def _make_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _make_method_row(row: Any) -> tuple[str, ...]:
    defaults = {option["name"]: option["default"] for option in row["options"]}
    return row["name"], short_name_of(row["name"], defaults), row["idea"], row["works_on"]


def _make_method_table(method: Any) -> Table:
    rows = [
        (o["name"], "required" if o["required"] else str(o["default"]), o["expected"] or o["type"], o["help"])
        for o in method["options"]
    ]
    table = _make_table(("option", "default", "allowed", "meaning"), rows)
    _, short, idea, works_on = _make_method_row(method)
    table.title = Text(f"{method['name']}: {idea}\n{method['paper']}\nby default: {short}\nworks on: {works_on}")
    table.title_justify = "left"
    return table


def _list_machine_rows(found: Environment) -> list[tuple[str, str]]:
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


def _make_edit_table(name: str, config: dict[str, Any], edit: Any) -> Group:
    """The places of a step, then its settings, then what it leaves alone, by reason."""
    rows = [
        (place.name, f"{place.bytes_before:,}", _CERTAINTY[place.certainty] + f"{place.bytes_after:,}")
        for place in edit.places
    ]
    table = _make_table((name, "bytes before", "bytes after"), rows)
    settings = ", ".join(f"{key} {value}" for key, value in config.items())
    told = [f"{short_name_of(name, config)}: {settings}".removeprefix(": ")]
    reasons = dict.fromkeys(alone.reason for alone in edit.left_alone)
    told += [f"left alone ({why}): {', '.join(a.name for a in edit.left_alone if a.reason == why)}" for why in reasons]
    return Group(table, *map(Text, filter(None, told)))


if __name__ == "__main__":
    main()
