"""Rows in memory: a list of mappings, tensors or samples, a torch Dataset or DataLoader, a Hugging Face dataset.

A row has the fields of a JSONL line, or is a PIL image and its class. An image is a file's path, a PIL image or a uint8 array
(height, width, channels); a sound is a file's path, (waveform, rate) or {"array": waveform, "sampling_rate": rate}, as `datasets`
gives them; either may be {"bytes": content of a file}. A signal is a file's path, an array, a tensor or a list. A row may also be what
the model's forward is given (`tensor_rows.py`).
No package but torch is imported to know them: they are told by what they have.

Every image, sound and tensor is looked at once, for the sha256 of its content. Of rows that can be asked for by number nothing is
kept: they must be the same each time, which is checked by that sha256. What can only be gone through (a DataLoader, a
stream) is held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from trimodal.core import Media, Sample, TensorInputs
from trimodal.data.columns import NO_MAP, ColumnMap, ColumnWatch
from trimodal.data.fields import (
    FindMedia,
    build_inputs_sample,
    build_sample,
    line_error,
    shorten_value,
    to_plain_number,
)
from trimodal.data.file_finder import FileFinder
from trimodal.data.row_media import find_media_kind
from trimodal.data.tensor_rows import describe_shapes, digest_inputs, split_inputs
from trimodal.errors import DataError

_CHANGED = (
    "is not what the row gave first: the row gives other data each time; "
    "give list(dataset), which keeps what it gave, or turn random augmentation off"
)


class RowTable(Protocol):
    """Rows by number, as in a torch Dataset."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int, /) -> Any:
        """Row `index`, from 0: the same each time."""


def is_iterable(rows: object) -> bool:
    """Whether one can go through `rows`, as through a torch Dataset, which has no `__iter__`."""
    return hasattr(rows, "__iter__") or hasattr(rows, "__getitem__")


class RowSource:
    """The samples of `rows`, one per mapping or row of tensors; samples among them pass as they are. A DataLoader's batches are
    parted. Where a `folder` is given, paths are relative to it; else to where the process runs.

    Raises:
        DataError: while it is gone through, a row is no mapping, or one of its fields cannot be used.
    """

    def __init__(self, rows: Any, columns: ColumnMap = NO_MAP, *, name: str = "", folder: Path | None = None) -> None:
        self.name = name or f"the given {type(rows).__name__}"
        self.origin = f"{self.name}, row"
        self.place: Path | None = None
        self._rows, self._columns, self._folder = rows, columns, folder
        self._again = hasattr(rows, "__getitem__") and hasattr(rows, "__len__")

    def explain_empty(self) -> str:
        """What an error says where there are no rows."""
        if isinstance(self._rows, Iterator):
            return f"{self.name} gives no rows; it can be gone through once, and is used up or empty: give a new one, or a list of its rows"
        return f'{self.name} holds no rows; expected one mapping per row, such as {{"text": "a red bus", "label": 3}}'

    def __iter__(self) -> Iterator[Sample]:
        """Go through the rows from the first."""
        find_file = _find_file if self._folder is None else FileFinder(self._folder).find
        watch = ColumnWatch(self._columns, self.name)
        for index, row in enumerate(_iterate_rows(self._rows, self._again)):
            yield row if isinstance(row, Sample) else self._make_sample(index, watch.select(_name_picture(row)), find_file)
        watch.check_all_seen()

    def _make_sample(self, index: int, row: Any, find_file: FindMedia) -> Sample:
        where = f"{self.origin} {index + 1}"
        try:
            tensors = split_inputs(row)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if tensors is not None:
            return self._make_tensor_sample(index, *tensors)
        if not isinstance(row, Mapping):
            found = f"is a {type(row).__name__} ({shorten_value(row)})"
            raise line_error(where, found, 'expected a mapping such as {"text": "a red bus", "label": 3}, or tensors')
        fields = {key: to_plain_number(value) for key, value in self._columns.drop_unknown(row).items()}
        return build_sample(self.origin, index + 1, fields, partial(self._find_media, index, find_file))

    def _make_tensor_sample(self, index: int, inputs: Mapping[str, Tensor], beside: Mapping[str, Any]) -> Sample:
        """The sample of a row of tensors; `beside` has its label, group and split."""
        sha256 = digest_inputs(inputs)
        load = partial(self._load_inputs_again, index, sha256) if self._again else partial(_hold, inputs)
        known = {name: to_plain_number(value) for name, value in beside.items() if value is not None}
        return build_inputs_sample(self.origin, index + 1, known, TensorInputs(sha256, describe_shapes(inputs), load))

    def _find_media(self, index: int, find_file: FindMedia, where: str, key: str, value: Any) -> Path | Media:
        """Where the image, sound or signal of row `index` is: in a file, in the rows, which can be asked again, or in memory."""
        if self._folder is not None and isinstance(value, Mapping) and value.get("bytes") is None and "array" not in value:
            value = value.get("path")
        if isinstance(value, str | Path):
            return find_file(where, key, str(value))
        kind = find_media_kind(key)
        try:
            content = kind.convert(value)
        except DataError as error:
            raise DataError(f"{where}: {key} {error}") from error
        sha256 = kind.digest(content)
        return Media(sha256, partial(self._load_media_again, index, key, sha256) if self._again else partial(_hold, content))

    def _load_media_again(self, index: int, key: str, sha256: str) -> Any:
        row, kind = self._columns.select(_name_picture(_get_row(self._rows, index))), find_media_kind(key)
        value = row.get(key) if isinstance(row, Mapping) else None
        content = None if value is None else kind.convert(value)
        if content is None or kind.digest(content) != sha256:  # what was calibrated with would not be what the plan's digest says
            raise DataError(_CHANGED)
        return content

    def _load_inputs_again(self, index: int, sha256: str) -> Any:
        found = split_inputs(self._columns.select(_get_row(self._rows, index)))
        if found is None or digest_inputs(found[0]) != sha256:
            raise DataError(f"{self.origin} {index + 1}: {_CHANGED}")
        return found[0]


def _iterate_rows(rows: Any, again: bool) -> Iterator[Any]:
    if again:
        yield from (_get_row(rows, index) for index in range(len(rows)))
    elif getattr(rows, "collate_fn", None) is not None and getattr(rows, "batch_size", None) is not None:
        for batch in rows:
            yield from _part_batch(batch, getattr(rows.collate_fn, "__name__", "") == "default_collate")
    else:
        yield from rows


def _get_row(rows: Any, index: int) -> Any:
    try:
        return rows[index]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"the given {type(rows).__name__} has no row {index} ({shorten_value(error)}); expected rows by "
            "number, 0 first; of a table give a list of mappings, as DataFrame.to_dict('records') does"
        ) from error


def _part_batch(batch: Any, collated: bool) -> Iterator[Any]:
    """The rows of a DataLoader's batch: of a mapping of columns, of columns in order (a tuple, or what torch `collated`), or the
    rows themselves."""
    if isinstance(batch, Mapping):
        return _part_columns(batch)
    if isinstance(batch, tuple) or (collated and isinstance(batch, list)):
        return (tuple(row.values()) for row in _part_columns(dict(enumerate(batch))))
    return iter(batch)


def _part_columns(batch: Mapping[Any, Any]) -> Iterator[dict[Any, Any]]:
    """The rows of columns, each a list or tensor of as many, or a mapping of such."""
    columns = {key: list(_part_columns(value)) if isinstance(value, Mapping) else list(value) for key, value in batch.items()}
    counts = {len(values) for values in columns.values()}
    if len(counts) > 1:
        raise DataError(
            f"a batch of the DataLoader has columns of {' and '.join(map(str, sorted(counts)))} rows; expected as many of each: "
            "give it batch_size=None or collate_fn=list"
        )
    return (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def _name_picture(row: Any) -> Any:
    """A pair of a PIL image and a class, as torchvision's datasets give, under the names of fields; other rows as they are."""
    a_pair = isinstance(row, tuple) and len(row) == 2 and isinstance(row[0], Image.Image)
    return {"image": row[0], "label": row[1]} if a_pair else row


def _find_file(where: str, key: str, value: Any) -> Path:
    path = Path(value)
    if not path.is_file():
        found = f"{key} names {shorten_value(str(path))}, which is not a file"
        raise line_error(where, found, f"paths are relative to {Path.cwd()}")
    return path


def _hold(content: Any) -> Any:
    return content
