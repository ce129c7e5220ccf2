"""Every error that trimodal raises on purpose, in one small tree.

    TrimodalError                something went wrong, said in one or two sentences
    ├── InputError               what the user gave cannot be used; the command line exits with 2
    │   ├── ModelError           the model folder, checkpoint or factory function
    │   ├── DataError            the data file, one of its lines, or a file that a line names
    │   ├── RecipeError          the recipe or the plan
    │   ├── TargetError          the profile of a runtime, or what it cannot take
    │   └── OutputError          the place to write to
    ├── IntegrityError           an artifact is not what it says it is; the command line exits with 1
    └── UnreachedError           no calibration sample came to a place that cannot do without; it is left alone, the run goes on

A message says what was found, what was expected, where, and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

_OFFERED = 3
_WHOLE_CUTOFF, _PART_CUTOFF = 0.5, 0.6


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


class TargetError(InputError):
    """The profile of a target cannot be used, or the target can take nothing of what is asked for."""


class OutputError(InputError):
    """The place to write to cannot be used."""


class IntegrityError(TrimodalError):
    """An artifact is not what it says it is."""


class UnreachedError(TrimodalError):
    """No calibration sample came to a place that cannot do without one."""


def suggest_names(word: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the known words nearest to `word`, else the list of all known words.

    A word with a part that few names have means these (`gptq` means `quantize.gptq`); else the name counts that is most like
    it, as a whole or in its last part.
    """
    names = sorted(known)
    shared = _find_sharing_part(word, names)
    few, kind = len(shared) <= _OFFERED, shared and len(_split_name(word)) == 1
    meant = shared if shared and few else [] if kind else _find_most_alike(word, names)
    if not meant:
        return f"known: {', '.join(shared or names)}"
    offered = "' or '".join(meant)
    return f"did you mean '{offered}'?"


def _find_sharing_part(word: str, names: Sequence[str]) -> list[str]:
    """The names of several parts that share one with `word`; of its parts the one that fewest names have."""
    several = [name for name in names if len(_split_name(name)) > 1]
    found = ([name for name in several if part in _split_name(name)] for part in _split_name(word))
    return min(filter(None, found), key=len, default=[])


def _find_most_alike(word: str, names: Sequence[str]) -> list[str]:
    """The names most like `word`, as a whole or in their last part; none where nothing is."""
    likeness = {name: _score_likeness(word, name) for name in names}
    best = max(likeness.values(), default=0.0)
    return [name for name in names if likeness[name] == best][-1:] if best > 0 else []


def _score_likeness(word: str, name: str) -> float:
    """How alike they are in [0, 1]; 0 below the cutoff, which is higher for a part than for the whole."""
    parts, last = _split_name(word), (_split_name(name) or [""])[-1]
    whole = _match_ratio(word.lower(), name.lower())
    part = max((_match_ratio(form, last) for form in ("".join(parts), *parts[-1:])), default=0.0)
    return max(whole if whole >= _WHOLE_CUTOFF else 0.0, part if part >= _PART_CUTOFF else 0.0)


def _match_ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b).ratio()


def _split_name(name: str) -> list[str]:
    return [part for part in re.split(r"[._\-\s]+", name.lower()) if part]
