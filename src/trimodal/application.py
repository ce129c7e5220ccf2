"""The program that the sub-commands are added to, and how they show what they found."""

from __future__ import annotations

import inspect as inspection
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from trimodal.arguments import EXITS, LogOption, QuietOption, VerboseOption
from trimodal.lazy import lazy_module
from trimodal.screen import Screen, print_json

if TYPE_CHECKING:
    from trimodal import data
else:
    data = lazy_module("trimodal.data")

KEYWORD = inspection.Parameter.KEYWORD_ONLY

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Compress multimodal models (image, text, audio) as a whole, and prove what the result is.\n\n"
    "inspect → plan → compress (with verify, save, report) → load. Each verb is also a function in `trimodal`.",
    epilog=EXITS,
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


def open_named_data(name: str, map_text: str | None) -> Any:
    """What `--data` names, with its columns named as `--map` says; without a map the name itself, which the verbs open.

    Raises:
        DataError: the map or the data cannot be used.
    """
    return name if map_text is None else data.open_data(name, map=data.parse_map(map_text))


def print_result(what: Any) -> None:
    """Plain data as JSON, tables and text as they are."""
    if isinstance(what, dict | list):
        print_json(what)
    elif isinstance(what, str):
        out.print(what, markup=False, soft_wrap=True)
    else:
        out.print(what, crop=False)
