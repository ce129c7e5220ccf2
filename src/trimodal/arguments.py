"""What the command line can be told: every argument and option, said once for all verbs that take it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_MODEL = "A Hugging Face folder or hub id, a folder that trimodal wrote, or package.module:function."
_RECIPE = "A YAML file, or the name of a built-in recipe (see `trimodal recipes`)."
_INVENTORY = "What `trimodal inspect MODEL -o FILE` wrote of this very model, so that nothing is counted again."
_WHERE = "JSONL, CSV, Parquet or text file, folder of images, sounds or a saved dataset, hub id of a dataset (user/name:config)"
_DATA = f"{_WHERE}; `none` where nothing needs data."

EXITS = (
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
MapOption = Annotated[
    str | None,
    typer.Option(
        "--map", metavar="FIELD=COLUMN,…", show_default=False,
        help="Which column is which field, such as text=sentence,label=y; `label=` leaves one out, and so is what is no field.",
    ),
]
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
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target", "-t",
        help="What is to run the result: a target (see `trimodal targets`) or a YAML file; says what it cannot take.", show_default=False,
    ),
]
StagesOption = Annotated[
    Path | None,
    typer.Option(
        "--stages", metavar="FOLDER", show_default=False,
        help="Keep there what each stage leaves (pruned, distilled, quantized); the same command goes on from it after a kill.",
    ),
]
DestinationOption = Annotated[
    Literal["cpu"] | None,
    typer.Option(
        "--for",
        help="Export the result to the runtimes that are installed, time them on this machine, and remember the fastest that is faithful; "
        "without a recipe, by that called int8-full.",
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
AgainstOption = Annotated[str, typer.Option("--against", "-a", help=f"The original. {_MODEL}", show_default=False)]
VerifyDataOption = Annotated[str, typer.Option("--data", "-d", help=f"{_WHERE}.", show_default=False)]
