"""Every error that trimodal raises on purpose, in one small tree.

    TrimodalError                something went wrong, said in one or two sentences
    ├── InputError               what the user gave cannot be used; the command line exits with 2
    │   ├── ModelError           the model folder, checkpoint or factory function
    │   ├── DataError            the data file, one of its lines, or a file that a line names
    │   ├── RecipeError          the recipe or the plan
    │   └── OutputError          the place to write to
    ├── IntegrityError           an artifact is not what it says it is; the command line exits with 1
    └── UnreachedError           no calibration sample came to a place that cannot do without; it is left alone, the run goes on

A message says what was found, what was expected, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TrimodalError(Exception):
    """Root of all errors that trimodal raises on purpose."""

    exit_code = 1


class InputError(TrimodalError):
    """What the user gave cannot be used."""

    exit_code = 2


class ModelError(InputError):
    """The model folder, checkpoint or factory function cannot be used."""


class DataError(InputError):
    """The data file, one of its lines, or a file that a line names cannot be used."""


class RecipeError(InputError):
    """The recipe or the plan cannot be used."""


class OutputError(InputError):
    """The place to write to cannot be used."""


class IntegrityError(TrimodalError):
    """An artifact is not what it says it is."""


class UnreachedError(TrimodalError):
    """No calibration sample came to a place that cannot do without one."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'? ` for the nearest known word, else the list of all known words."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}"
