"""Signals: time series, sensors, vital signs, rows of a table. Numbers in a file, or in the data themselves.

    {"signal.vitals": "case7.npy"}             steps × channels, or one row of numbers; also .csv and .tsv, with or without names above
    {"signal.vitals": [[81.0, 36.6], …]}       the same inline
    {"signal": {"vitals": …, "radar": …}}      several; a signal that is called `signal` is given as it is

A model takes it by its name: `signal.vitals` is the stream `vitals` of a `MultimodalModel`, or the argument `vitals` of a forward.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trimodal.core import Media, is_signal
from trimodal.data.fields import FindMedia, line_error, shorten_value
from trimodal.errors import DataError

Signal = NDArray[np.float32]
"""float32 (steps, channels), or one row of numbers (features,)."""
_SUFFIXES = (".npy", ".csv", ".tsv", ".txt")
_EXPECTED = "expected numbers, as one row or as steps × channels"


def convert_signal(value: Any) -> Signal:
    """`value`, an array, a tensor or a list of numbers or of such lists, as float32 (steps, channels) or (features,).

    Raises:
        DataError: it is no such thing, holds nothing, or holds a number that is not finite.
    """
    try:
        found = np.atleast_1d(value.detach().cpu().float().numpy() if isinstance(value, torch.Tensor) else np.asarray(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"is {shorten_value(value)}, rows of unlike lengths or no numbers; {_EXPECTED}") from error
    if found.dtype.kind not in "iuf" or found.ndim not in (1, 2):
        raise DataError(f"is {shorten_value(value)} (shape {found.shape}); {_EXPECTED}")
    return _check_numbers(found)


def _check_numbers(found: NDArray[Any]) -> Signal:
    if found.size == 0:
        raise DataError(f"holds no number (shape {found.shape}); {_EXPECTED}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
        numbers = np.ascontiguousarray(found, dtype=np.float32)
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        place = f"step {bad[0][0]}, channel {bad[0][1]}" if found.ndim == 2 else f"place {bad[0][0]}"
        raise DataError(
            f"holds {len(bad)} values that are no finite number, the first ({found[tuple(bad[0])]}) at {place}; fill them, or leave the "
            "signal out of that line, as a model of streams may lack it"
        )
    return numbers


def decode_signal(file: Path) -> Signal:
    """The numbers in `file`.

    Raises:
        DataError: it is of no kind that holds numbers, damaged, or what it holds is no signal.
    """
    suffix = file.suffix.lower()
    if suffix not in _SUFFIXES:
        raise DataError(f"{file} ends in {suffix or 'nothing'}; expected one of {', '.join(_SUFFIXES)}")
    try:
        found = np.load(file, allow_pickle=False) if suffix == ".npy" else _read_table(file)
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{file} cannot be read ({reason[:120]}); {_EXPECTED}") from error
    try:
        return convert_signal(found)
    except DataError as error:
        raise DataError(f"{file} {error}") from error


def _read_table(file: Path) -> NDArray[np.float64]:
    """Steps × channels of lines of numbers, parted by commas, semicolons, tabs or blanks; names may stand above them. An empty cell is
    no number."""
    lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines:
        return np.zeros((0, 0))
    mark = next((mark for mark in ("\t", ";", ",") if mark in lines[0]), None)
    rows = [[cell.strip() for cell in line.split(mark)] for line in lines]
    if not any(_is_number(cell) for cell in rows[0]):
        rows = rows[1:]
    return np.asarray([[float(cell) if cell else np.nan for cell in row] for row in rows])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def digest_signal(signal: Signal) -> str:
    """sha256 of the shape and the numbers of `signal` (…)."""
    return hashlib.sha256(f"signal {signal.shape} ".encode() + signal.tobytes()).hexdigest()


def find_or_hold(find_file: Callable[[str, str, Any], Path]) -> FindMedia:
    """Finds the files that lines name, and holds the numbers of signals that stand in the lines themselves."""
    return partial(_find_or_hold, find_file)


def _find_or_hold(find_file: FindMedia, where: str, key: str, value: Any) -> Path | Media:
    if not is_signal(key) or isinstance(value := read_cell(value), str):
        return find_file(where, key, value)
    try:
        signal = convert_signal(value)
    except DataError as error:
        raise line_error(where, f"{key} {error}", "see the section on signals in docs/guide.md") from error
    return Media(digest_signal(signal), partial(_hand_out, signal))


def read_cell(value: Any) -> Any:
    """A cell of a table that knows but text: a list or a number where it says one, such as `[1, 2, 3]`; else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.lstrip().startswith("[") else float(value)
    except ValueError:
        return value


def _hand_out(signal: Signal) -> Signal:
    return signal
