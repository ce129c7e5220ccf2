"""Where samples come from: the one door. Whatever it is, `read_samples` makes the same list of samples of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from trimodal.core import Sample
from trimodal.data.fields import line_error, shorten_value
from trimodal.data.jsonl import DATA_NAME, JsonlSource
from trimodal.data.rows import RowSource, RowTable, is_iterable
from trimodal.errors import DataError


@runtime_checkable
class SampleSource(Protocol):
    """Anything that has samples, as often as it is asked for them. To add a source, write these three.

    Attributes:
        name: what errors call the whole, such as `data.jsonl`.
        origin: what errors say before a sample's number, such as `data.jsonl, line`.
    """

    @property
    def name(self) -> str:
        """What errors call the whole."""

    @property
    def origin(self) -> str:
        """What errors say before a sample's number."""

    def __iter__(self) -> Iterator[Sample]:
        """Its samples in their order, numbered by `line`; no image or sound need be decoded for that."""


Data = str | Path | SampleSource | RowTable | Iterable[Mapping[str, Any] | Sample]
"""What `data` may be: a JSONL file or its folder, rows in memory (a list of dicts, a torch Dataset or DataLoader, a Hugging
Face dataset), or a source of one's own."""


def open_source(data: Data) -> SampleSource:
    """The source that `data` is or names.

    Raises:
        DataError: there is no such file, or it is nothing that samples can come from.
    """
    if isinstance(data, str | Path):
        return JsonlSource(data)
    if isinstance(data, SampleSource):
        return data
    if isinstance(data, Mapping):
        keys = shorten_value(list(data))
        raise DataError(f"the data is one {type(data).__name__} with the keys {keys}; give one of its parts, or a list of rows")
    if isinstance(data, bytes) or not is_iterable(data):
        raise DataError(
            f"the data is a {type(data).__name__}; expected a JSONL file, a folder that holds {DATA_NAME}, or rows "
            'such as [{"image": picture, "text": "a red bus"}], a Dataset or a DataLoader'
        )
    return RowSource(data)


def is_no_data(data: Data | None) -> bool:
    """Whether `data` says that there is none: None, or the word `none`."""
    return data is None or (isinstance(data, str | Path) and str(data) == "none")


def read_samples(data: Data, *, needs: frozenset[str] | None = None) -> list[Sample]:
    """All samples of `data`, fields checked, images and sounds not yet read (`check_media` does that).

    Args:
        data: a JSONL file or a folder that holds `data.jsonl`, rows in memory, or a source.
        needs: fields that every line must have, such as `frozenset({"label"})`.

    Returns:
        One sample per line that is not blank, or per row, in their order.

    Raises:
        DataError: the source or one of its lines cannot be used, or a file that a line names is not there.
    """
    source = open_source(data)
    samples = [s if s.origin != "line" else replace(s, origin=source.origin) for s in source]
    if not samples:
        raise DataError(_explain_empty(source))
    _check_needs(samples, needs or frozenset())
    _check_splits(samples)
    return samples


def _explain_empty(source: SampleSource) -> str:
    if isinstance(source, RowSource):
        return source.explain_empty()
    if isinstance(source, JsonlSource):
        return f"{source.name} holds no lines; expected one JSON object per line"
    return f"{source.name} gives no samples; expected at least one"


def _check_needs(samples: Sequence[Sample], needs: frozenset[str]) -> None:
    for sample in samples:
        for field in sorted(needs):
            if getattr(sample, field) in (None, "", {}):
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
