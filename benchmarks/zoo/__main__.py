"""Small models of many Transformers classes, each tried as a user would.

    python -m benchmarks.zoo [--model TEXT] [--quick] [--write docs/zoo.md]

Of each a whole folder with processors; most are of no declared family. It is looked at with `inspect`, then compressed with `int8` without
data, with `int8-full` and `int4` with data. Where a family declares its axes, half of the heads and neurons are cut, what is left is
trained for four steps towards the original, and rounded to 4 bits. What is refused says why; that is a result too, a traceback is none.

Lines that were fixed before it ran: no traceback; at least nine tenths of the bytes in places, or a reason; a fresh process puts out what
the model in memory puts out; GPT-2 and Mixtral at least 3.3 times smaller with int8. Exit code 1 if one fails. About 20 minutes on a quiet
core; `--quick` takes every sixth model and leaves out all with 4 bits.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

import transformers

from benchmarks.passlines import PassLine, finish, table
from benchmarks.zoo.models import ZOO
from benchmarks.zoo.trying import RECIPES, Cell, Trial, try_animal

LEAST_COVERED = 0.9
LEAST_RATIO = 3.3
ROUNDING = 1e-5
BY_RATIO = {"GPT-2": "GPT2LMHeadModel", "Mixtral": "MixtralForCausalLM"}
COLUMNS = ("model", "family", "takes", "towers and blocks", "covered", *RECIPES, "measured, int4", "reload")


def list_lines(trials: list[Trial]) -> list[PassLine]:
    """The lines, of those models that ran."""
    cells = [cell for trial in trials for cell in trial.cells.values()]
    crashed = sum(bool(trial.crashed) for trial in trials) + sum(bool(cell.crashed) for cell in cells)
    bare = [trial for trial in trials if trial.covered < LEAST_COVERED and not trial.animal.why and not trial.crashed]
    lines = [
        PassLine("tracebacks", crashed, most=0),
        PassLine(f"models below {LEAST_COVERED:.0%} of bytes covered without a reason", len(bare), most=0),
        PassLine("largest difference of outputs after reload", max((cell.difference for cell in cells), default=0.0), most=ROUNDING),
        PassLine("models that could use no data, without a reason", len(_find_refused(trials)), most=0),
    ]
    for name, kind in BY_RATIO.items():
        ratios = [trial.cells["int8"].ratio for trial in trials if trial.animal.name == kind and "int8" in trial.cells]
        lines += [PassLine(f"{name}, int8, times smaller", ratio, least=LEAST_RATIO) for ratio in ratios]
    return lines


def _find_refused(trials: list[Trial]) -> list[Trial]:
    return [trial for trial in trials if any(cell.refused for cell in trial.cells.values()) and not trial.animal.why]


def _show(trial: Trial) -> tuple[str, ...]:
    """A row of the table."""
    measured = trial.cells["int4"].metrics if "int4" in trial.cells else ""
    difference = max((cell.difference for cell in trial.cells.values()), default=0.0)
    ratios = [_show_cell(trial.cells[recipe]) if recipe in trial.cells else "" for recipe in RECIPES]
    return (trial.animal.name, trial.family, trial.takes, trial.towers, f"{trial.covered:.1%}", *ratios, measured, f"{difference:.0g}")


def _show_cell(cell: Cell) -> str:
    return "traceback" if cell.crashed else "refused" if cell.refused else f"{cell.ratio:.2f} ×"


def _explain(trial: Trial) -> list[str]:
    """What went otherwise than hoped, a line each."""
    said = [f"{trial.animal.name}: {trial.crashed}"] if trial.crashed else []
    said += [f"{trial.animal.name}, {cell.recipe}: {cell.crashed or cell.refused}" for cell in trial.cells.values()
             if cell.crashed or cell.refused]  # fmt: skip
    if trial.covered < LEAST_COVERED and not trial.crashed:
        said.append(f"{trial.animal.name}: {1 - trial.covered:.0%} in no place ({trial.left}). {trial.animal.why}")
    if trial.counted:
        said.append(f"{trial.animal.name}: operations unknown: {trial.counted}")
    return said


def main() -> None:
    """Try what is asked for, print and perhaps write the table, and judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="only models with this in their name")
    parser.add_argument("--quick", action="store_true", help="every sixth model, without int4")
    parser.add_argument("--write", type=Path, help="a file for the table")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity(logging.ERROR)
    transformers.logging.disable_progress_bar()
    chosen = [animal for animal in ZOO if asked.model.lower() in animal.name.lower()][:: 6 if asked.quick else 1]
    recipes = tuple(recipe for recipe in RECIPES if "int4" not in recipe or not asked.quick)
    trials = []
    for animal in chosen:
        trials.append(try_animal(animal, recipes))
        print(" | ".join(_show(trials[-1])), flush=True)
        print("".join(f"    {line}\n" for line in _explain(trials[-1])), end="", flush=True)
    if not trials:
        sys.exit(f"no model of the zoo has {asked.model!r} in its name")
    shown = table(COLUMNS, [_show(trial) for trial in trials])
    if asked.write:
        notes = [line for trial in trials for line in _explain(trial)]
        asked.write.write_text("\n".join([shown, "", *(f"- {note}" for note in notes), ""]), encoding="utf-8")
    finish(list_lines(trials))


if __name__ == "__main__":
    main()
