"""Where samples come from: the one door. Whatever it is, `read_samples` makes the same list of samples of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from trimodal.core import Sample
from trimodal.data import csv_table, hub_dataset, jsonl, media_folder, parquet, text_lines
from trimodal.data.columns import NO_MAP, ColumnMap, make_column_map
from trimodal.data.fields import line_error, shorten_value
from trimodal.data.jsonl import DATA_NAME
from trimodal.data.labels import number_labels
from trimodal.data.rows import RowSource, RowTable, is_iterable
from trimodal.data.source_kind import SampleSource, SourceKind
from trimodal.errors import DataError, TrimodalError
from trimodal.installed import SOURCES

SOURCE_KINDS = (
    jsonl.KIND,
    csv_table.KIND,
    text_lines.KIND,
    parquet.KIND,
    hub_dataset.KIND,
    media_folder.KIND,
)
"""What a path may be, the first that fits. A new kind is one file here and one line."""

"""Packages of others add sources in this group: an entry point called NAME is a function from the text behind `NAME:` to a
`SampleSource`."""

Data = str | Path | SampleSource | RowTable | Iterable[Any]
"""What `data` may be: a file or a folder (`SOURCE_KINDS`), a hub id, rows in memory (a list of dicts or tensors, a torch Dataset or
DataLoader, a Hugging Face dataset), or a source of one's own."""


def open_data(
    data: Data, *, map: Mapping[str, str | None] | None = None, columns: Sequence[str] | None = None
) -> SampleSource:
    """The source that `data` is or names, for any verb's `data`.

    Args:
        data: a file, a folder, a hub id, `NAME:…` of an entry point, rows in memory, or a source.
        map: which column is which field: `{"text": "sentence", "label": "y"}`; None leaves a field out.
        columns: the columns that are looked at; all where it is None.

    Raises:
        DataError: it is nothing that samples can come from, or the map cannot be used.
    """
    return open_source(data, make_column_map(map, columns))


def open_source(data: Data, columns: ColumnMap = NO_MAP) -> SampleSource:
    """The source that `data` is or names, with its columns named by `columns`.

    Raises:
        DataError: there is no such file, or it is nothing that samples can come from.
    """
    if isinstance(data, str | Path):
        return _open_named(data, columns)
    if isinstance(data, SampleSource):
        if columns.is_given:
            raise DataError(f"{data.name} makes its own samples, which have no columns to map; leave the map out")
        return data
    if isinstance(data, Mapping):
        keys = shorten_value(list(data))
        raise DataError(f"the data is one {type(data).__name__} with the keys {keys}; give one of its parts, or a list of rows")
    if isinstance(data, bytes) or not is_iterable(data):
        raise DataError(
            f"the data is a {type(data).__name__}; expected a JSONL file, a folder that holds {DATA_NAME}, or rows "
            'such as [{"image": picture, "text": "a red bus"}], a Dataset or a DataLoader'
        )
    return RowSource(data, columns)


def find_data_place(data: Data | None) -> Path | None:
    """The file or folder that `data` is read from; None where it is in memory, or there is none."""
    if isinstance(data, str | Path):
        return None if is_no_data(data) else Path(data)
    place = getattr(data, "place", None)
    return place if isinstance(place, Path) else None


def _open_named(data: str | Path, columns: ColumnMap) -> SampleSource:
    """The source of a file, a folder, an entry point or a hub id."""
    path, text = Path(data), str(data)
    if _is_there(path):
        for kind in SOURCE_KINDS:
            if _fits(kind, path):
                return kind.open(path, columns)
        raise DataError(_describe_unknown(path))
    plugin = _find_plugin(text)
    if plugin is not None:
        return _open_plugin(plugin, text.partition(":")[2], columns)
    if hub_dataset.is_hub_id(text):
        return hub_dataset.open_hub_dataset(text, columns)
    raise DataError(f"there is no file {text}; expected a JSONL file or a folder that holds {DATA_NAME}, or one of: {_list_kinds()}")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds a null character
        return False


def _fits(kind: SourceKind, path: Path) -> bool:
    try:
        return kind.fits(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _find_plugin(text: str) -> EntryPoint | None:
    """The entry point that `NAME:…` names."""
    name, colon, _ = text.partition(":")
    return next(iter(entry_points(group=SOURCES, name=name)), None) if colon else None


def _open_plugin(plugin: EntryPoint, address: str, columns: ColumnMap) -> SampleSource:
    """What another package's function makes of `address`; it may raise anything."""
    try:
        found = plugin.load()(address)
    except TrimodalError:
        raise
    except Exception as error:
        raise DataError(
            f"the source {plugin.name!r} ({plugin.value}) failed on {shorten_value(address)} ({type(error).__name__}: {error}); "
            "ask those who wrote it"
        ) from error
    if isinstance(found, str | Path):
        raise DataError(f"the source {plugin.name!r} ({plugin.value}) returned a {type(found).__name__}; expected samples or rows")
    return open_source(found, columns)


def _describe_unknown(path: Path) -> str:
    """What was found at a path of no kind, what was expected, and what to do."""
    if path.is_dir():
        suffixes = Counter(file.suffix.lower() or "no suffix" for file in path.iterdir() if file.is_file())
        held = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(3)) or "no file"
        return f"the folder {path} holds no {DATA_NAME} ({held}); expected one of: {_list_kinds()}"
    if path.suffix.lower() in media_folder.IMAGES | media_folder.SOUNDS:
        return f"{path} is one image or sound; give its folder {path.parent}, or a file that names several"
    size = path.stat().st_size
    found = "is empty (0 bytes)" if not size else f"is of no known kind (its name ends in {path.suffix or 'nothing'})"
    return f"{path} {found}; expected one of: {_list_kinds()}; other formats: rename it, or give rows from Python"


def _list_kinds() -> str:
    return "; ".join(kind.name for kind in SOURCE_KINDS)


def is_no_data(data: Data | None) -> bool:
    """Whether `data` says that there is none: None, or the word `none`."""
    return data is None or (isinstance(data, str | Path) and str(data) == "none")


def read_samples(data: Data, *, needs: frozenset[str] | None = None) -> list[Sample]:
    """All samples of `data`, fields checked, images and sounds not yet read (`check_media` does that).

    Args:
        data: whatever `open_data` takes.
        needs: fields that every line must have, such as `frozenset({"label"})`.

    Returns:
        One sample per line that is not blank, or per row, in their order. Classes that have names are numbered in the order of
        these (`name_labels` does better where the model is known).

    Raises:
        DataError: the source or one of its lines cannot be used, or a file that a line names is not there.
    """
    source = open_source(data)
    samples = [s if s.origin != "line" else replace(s, origin=source.origin) for s in source]
    if not samples:
        raise DataError(_explain_empty(source))
    _check_needs(samples, needs or frozenset())
    _check_splits(samples)
    return number_labels(samples)


def _explain_empty(source: SampleSource) -> str:
    explain = getattr(source, "explain_empty", None)
    return str(explain()) if callable(explain) else f"{source.name} gives no samples; expected at least one"


def _check_needs(samples: Sequence[Sample], needs: frozenset[str]) -> None:
    for sample in samples:
        for field in sorted(needs):
            if getattr(sample, field) in (None, "", {}) and not (field == "label" and sample.label_name):
                raise line_error(sample.where, f"no {field}", f"every line needs {', '.join(sorted(needs))} here")


def _check_splits(samples: Sequence[Sample]) -> None:
    first = samples[0]
    seen: dict[str, Sample] = {}
    for sample in samples:
        if bool(sample.split) != bool(first.split):
            without, having = (sample, first) if first.split else (first, sample)
            raise line_error(without.where, f"no split, while line {having.line} has one", "give all lines a split or none")
        if sample.group is None:
            continue
        earlier = seen.setdefault(sample.group, sample)
        if earlier.split != sample.split:
            found = f"in split {sample.split}, on line {earlier.line} in {earlier.split}"
            raise line_error(sample.where, f"group {shorten_value(sample.group)} is {found}", "a group must stay in one split")
