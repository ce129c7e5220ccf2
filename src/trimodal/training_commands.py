"""The sub-command that trains: `train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimodal.application import add_command, print_result, screen
from trimodal.arguments import ForceOption, JsonOption, LimitsOption
from trimodal.lazy import lazy_module

if TYPE_CHECKING:
    from trimodal.training import settings
    from trimodal.training_runs import run as training
    from trimodal.training_runs import table as tables
else:
    settings = lazy_module("trimodal.training.settings")
    training, tables = lazy_module("trimodal.training_runs.run"), lazy_module("trimodal.training_runs.table")


@add_command
def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG.yaml", help="Model, data, task, and how (docs/training.md).", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write, in place of the configuration's.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of a run that was killed.")] = False,
    force: ForceOption = False,
    ignore_limits: LimitsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model, from nothing or from its weights, and write it as a folder in Hugging Face format.

    On more than one device: `torchrun --nproc_per_node 2 -m trimodal train CONFIG.yaml`
    """
    if not settings.is_main_process():
        screen.quiet = True
    with screen.show_progress(str(config)) as progress:
        found = training.train(
            config, out=output, resume=resume, force=force, ignore_limits=ignore_limits, progress=progress, tell=screen.print_notice
        )
    if settings.is_main_process():
        print_result(found.to_json() if as_json else tables.make_training_table(found))
        if not as_json:
            print_result(tables.describe_training(found))
