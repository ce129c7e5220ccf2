"""The command line: one sub-command per verb, each a few lines over `pipeline`.

Nothing heavy is imported at the top: help, `recipes`, `methods` and `doctor` need no torch. What does is a `lazy_module`.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trimodal import __version__, listing_commands, running_commands, serving_commands, training_commands
from trimodal.application import add_command, app, open_named_data, out, print_result, screen
from trimodal.arguments import (
    AgainstOption,
    DataOption,
    DestinationOption,
    DeviceOption,
    ForceOption,
    InventoryOption,
    JsonOption,
    LimitsOption,
    MapOption,
    ModelArgument,
    OutArgument,
    OutputOption,
    PackOption,
    PlanOption,
    RecipeOption,
    RecipeOrPlanOption,
    RecipesPackOption,
    SeedOption,
    StagesOption,
    TargetOption,
    VerifyDataOption,
)
from trimodal.core import Plan, Verdict, json_text
from trimodal.errors import TrimodalError
from trimodal.garbage import skip_final_collection
from trimodal.lazy import lazy_module
from trimodal.listings import (
    CERTAINTY_WORDS,
    describe_fit,
    make_edit_table,
    make_fit_table,
)
from trimodal.screen import replace_unknown_signs

if TYPE_CHECKING:
    from trimodal import pipeline, reporting, writing
    from trimodal.benching import for_cpu
    from trimodal.benching import table as bench_tables
    from trimodal.demo import answering as demo_answering
    from trimodal.demo import run as demo_run
    from trimodal.demo import table as demo_tables
    from trimodal.pipeline_runs import run as pipeline_runs
    from trimodal.reporting import advice, standing, wording
    from trimodal.reporting import table as tables
    from trimodal.training_runs import table as training_tables
else:
    pipeline, reporting, writing, demo_run = (lazy_module(f"trimodal.{name}") for name in ("pipeline", "reporting", "writing", "demo.run"))
    for_cpu, bench_tables = lazy_module("trimodal.benching.for_cpu"), lazy_module("trimodal.benching.table")
    pipeline_runs, training_tables = lazy_module("trimodal.pipeline_runs.run"), lazy_module("trimodal.training_runs.table")
    demo_answering, demo_tables = lazy_module("trimodal.demo.answering"), lazy_module("trimodal.demo.table")
    advice, standing, tables, wording = (lazy_module(f"trimodal.reporting.{name}") for name in ("advice", "standing", "table", "wording"))

INTERRUPTED = 130
RECIPE_FOR_CPU = "int8-full"
__all__ = ["app", "listing_commands", "main", "running_commands", "serving_commands", "training_commands"]  # whose commands are added by its import
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
    print_result(found.to_json() if as_json else tables.make_inventory_table(found))


@add_command
def plan(
    model: ModelArgument,
    recipe: RecipeOption,
    data: DataOption = "none",
    map: MapOption = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the plan to this JSON file.")] = None,
    seed: SeedOption = None,
    device: DeviceOption = "cpu",
    inventory: InventoryOption = None,
    target: TargetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a recipe will do to a model, every place by name, and what that will take. Changes nothing."""
    screen.print_notice(f"reading {model}")
    made = pipeline.plan(model, recipe, open_named_data(data, map), seed=seed, device=device, inventory=inventory, target=target)
    _write_json(output, made.to_json())
    if as_json:
        print_result({**made.to_json(), "estimate": made.estimate.to_json() if made.estimate else None})
        return
    for edit in made.edits:
        print_result(make_edit_table(edit.method, edit.config, edit))
    for step in made.skipped:
        print_result(f"nothing to do: {step.step} ({step.method}), which is optional: {step.reason}")
    if made.pack != "plain":
        print_result(f"the weight file will be {made.pack}-coded, so smaller than its tensors")
    if made.target is not None:
        print_result(make_fit_table(made.target))
    print_result(tables.summarize_untouched(made))
    print_result(tables.describe_needs(made))
    print_result(f"tensors: {made.source.tensor_bytes:,} → {CERTAINTY_WORDS[made.certainty]}{made.expected_tensor_bytes:,} bytes")


@add_command
def compress(
    model: ModelArgument,
    data: DataOption,
    output: OutputOption,
    recipe: RecipeOrPlanOption = None,
    plan: PlanOption = None,
    map: MapOption = None,
    inventory: InventoryOption = None,
    pack: RecipesPackOption = None,
    force: ForceOption = False,
    ignore_limits: LimitsOption = False,
    target: TargetOption = None,
    destination: DestinationOption = None,
    stages: StagesOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Plan, compress, save, reload in a fresh process, verify and report: the main job.

    Example: `trimodal compress ./clip --recipe int4 --data ./pairs.jsonl -o ./clip-int4`
    """
    if destination is not None and recipe is None and plan is None:
        recipe = RECIPE_FOR_CPU
    if (recipe is None) == (plan is None):
        raise typer.BadParameter("give exactly one of --recipe and --plan", param_hint="--recipe / --plan")
    if destination is not None:
        for_cpu.check_preparable(model)
    given = open_named_data(data, map)
    with screen.show_progress(model) as progress:
        result = pipeline.compress(
            model, recipe, given, output, plan=plan, inventory=inventory, pack=pack, seed=seed, device=device, force=force,
            ignore_limits=ignore_limits, target=target, stages=stages, progress=progress, on_plan=_announce_plan,
        )  # fmt: skip
    written = f"written: {output}  (open {output / 'report.html'})"
    _finish_run(result.verdict, result.plan, as_json, written, str(output), model, data, map or "")
    if destination is not None:
        found, choice = for_cpu.prepare_for_cpu(output, given, model, tell=screen.print_notice)
        if not as_json:
            print_result(bench_tables.make_bench_table(found, choice))


@add_command
def run(
    pipeline: Annotated[
        Path, typer.Argument(metavar="PIPELINE.yaml", help="Train, compress, export: docs/training.md.", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write, in place of the pipeline's.", show_default=False)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after a kill or a change; what has the same inputs is not done again.")
    ] = False,
    force: ForceOption = False,
    ignore_limits: LimitsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train, prune, distil, quantize, recover and export, all from one file, restartable at each arrow.

    Example: `trimodal run examples/training/pipeline.yaml`
    """
    with screen.show_progress(str(pipeline)) as progress:
        found = pipeline_runs.run_pipeline(
            pipeline, out=output, resume=resume, force=force, ignore_limits=ignore_limits, progress=progress,
            tell=screen.print_notice, on_plan=_announce_plan,
        )  # fmt: skip
    if as_json:
        print_result(found.to_json())
    if found.training is not None and not as_json:
        print_result(training_tables.make_training_table(found.training))
        print_result(training_tables.describe_training(found.training))
    written = "\n".join(f"written: {place}" for place in (found.folder, *found.exports.values()))
    if not as_json:
        print_result(tables.make_summary(found.verdict, found.plan))
        print_result(written)
    _require_passed(found.verdict)


@add_command
def verify(
    folder: OutArgument,
    against: AgainstOption,
    data: VerifyDataOption,
    map: MapOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Measure a compressed model beside the original again, and write OUT/verdict.json."""
    with screen.show_progress(f"{folder} and {against}") as progress:
        verdict = pipeline.verify(folder, against, open_named_data(data, map), seed=seed, device=device, progress=progress)
    _finish_run(
        verdict, pipeline.read_plan(folder), as_json, f"written: {folder / 'verdict.json'}", str(folder), against, data, map or "",
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
        print_result({"folder": str(output), "pack": pack, "packing": None if found is None else asdict(found)})
    else:
        print_result(f"written: {output}" if found is None else f"{wording.describe_packing(found)}\nwritten: {output}")


@add_command
def report(folder: OutArgument, as_json: JsonOption = False) -> None:
    """Write OUT/report.html, one self-contained page, from the plan, the record and the verdict."""
    page = reporting.report(folder)
    print_result({"report": str(page)} if as_json else f"written: {page}")


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
    out, model, data = (folder / f"demo-{name}" for name in ("out", "model", "data"))
    written = f"written: {result.folder}  (open {result.folder / 'report.html'})"
    _finish_run(result.verdict, result.plan, as_json, written, str(out), str(model), str(data))
    if not as_json:
        print_result(demo_tables.make_demo_table(demo_answering.run_exported(model, data, out, screen.print_notice)))


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


def _finish_run(verdict: Verdict, planned: Plan, as_json: bool, message: str, *names: str) -> None:
    """Show the verdict, and what next with the `names` of folder, model, data and its map; a check that failed makes the exit code 1."""
    if as_json:
        print_result({**verdict.to_json(), "estimate": planned.estimate.to_json()} if planned.estimate else verdict.to_json())
    else:
        print_result(tables.make_summary(verdict, planned, advice.CommandNames(*names)))
        print_result(message)
    _require_passed(verdict)


def _require_passed(verdict: Verdict) -> None:
    """A check that failed makes the exit code 1."""
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
    for line in describe_fit(planned.target) if planned.target else ():
        screen.print_notice(line)
    screen.print_notice(tables.describe_needs(planned))


if __name__ == "__main__":
    main()
