"""Which column is which field: data of others rarely call their columns `text` and `label`.

    --map text=sentence,label=y          the column `sentence` is the field `text`
    map={"text": "sentence", "label": None}, columns=["sentence", "split"]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimodal.core import MODALITIES, SIGNAL, is_signal
from trimodal.data.fields import FIELDS, shorten_value
from trimodal.errors import DataError, suggest_names

_NESTED = "labels."


@dataclass(frozen=True)
class ColumnMap:
    """Which column each field is taken from, by field; None or "" leaves a field out. `columns` are those that are looked at, all
    where it is None.

    A column that bears a field's name is that field, unless another one is, or it is another's. Where a map or `columns` is given,
    what is no field is left out; else it is an error, since a name with a slip in it would be lost in silence.
    """

    fields: Mapping[str, str | None] = field(default_factory=dict)
    columns: Sequence[str] | None = None

    @property
    def is_given(self) -> bool:
        """Whether anybody has said anything of columns."""
        return bool(self.fields) or self.columns is not None

    def select(self, row: Any) -> Any:
        """A row under the names of fields, without the columns that are not looked at; what is no mapping as it is."""
        if not self.is_given or not isinstance(row, Mapping):
            return _shape_fields(row) if isinstance(row, Mapping) else row
        taken = {name: column for name, column in self.fields.items() if column}
        found = {name: value for name, value in row.items() if self._keeps(name, taken)}
        found.update({name: row[column] for name, column in taken.items() if column in row})
        found.update({name: joined for name, column in taken.items() if (joined := _join_columns(name, column, row)) is not None})
        return _shape_fields(found)

    def _keeps(self, name: str, taken: Mapping[str, str]) -> bool:
        """Whether the column `name` is taken under its own name."""
        if self.columns is not None and name not in self.columns:
            return False
        return name not in self.fields and not any(name in split_columns(*pair) for pair in taken.items())

    def drop_unknown(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """`fields` without what is none, where a map says which columns are meant."""
        return {name: value for name, value in fields.items() if is_field(name)} if self.fields else fields

    def watch(self, name: str, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The fields of each numbered row of what is called `name`.

        Raises:
            DataError: after the last one: no row has a column that the map or `columns` names.
        """
        watched = ColumnWatch(self, name)
        for number, row in rows:
            yield number, self.drop_unknown(watched.select(row))
        watched.check_all_seen()


class ColumnWatch:
    """Remembers while rows are gone through which columns of a map have been seen."""

    def __init__(self, columns: ColumnMap, name: str) -> None:
        self._columns, self._name = columns, name
        named = [one for pair in columns.fields.items() for one in split_columns(*pair)]
        self._missing = [column for column in (*named, *(columns.columns or ())) if column]
        self._seen: tuple[str, ...] = ()

    def select(self, row: Any) -> Any:
        """The row under the names of fields."""
        if self._missing and isinstance(row, Mapping):
            self._missing = [column for column in self._missing if column not in row]
            self._seen = self._seen or tuple(row)
        found = self._columns.select(row)
        lost = any(self._columns.fields.get(name) in self._missing for name in MODALITIES)
        if lost and not any(name in MODALITIES or is_signal(name) for name in found):  # it will be refused for that, and this says why
            self.check_all_seen()
        return found

    def check_all_seen(self) -> None:
        """After the last row: a name with a slip in it would be lost in silence.

        Raises:
            DataError: no row had a column that the map names.
        """
        if self._seen and self._missing:
            lost = self._missing[0]
            raise DataError(
                f"{self._name} has no column {shorten_value(lost)}, which the map names; {suggest_names(lost, map(str, self._seen))}"
            )


NO_MAP = ColumnMap()


def make_column_map(
    fields: Mapping[str, str | None] | None = None, columns: Sequence[str] | None = None
) -> ColumnMap:
    """The map from columns to fields, checked.

    Raises:
        DataError: `fields` names what is no field, or what is given is of another kind.
    """
    if fields is not None and not isinstance(fields, Mapping):
        raise DataError(f"the map is a {type(fields).__name__}; expected a mapping from fields to columns, such as {{'text': 'sentence'}}")
    if isinstance(columns, str):
        raise DataError(f"columns is the string {shorten_value(columns)}; expected a list of names, such as ['text', 'label']")
    for name in fields or {}:
        if not is_field(name):
            raise DataError(
                f"the map names the field {shorten_value(name)}, which there is not; {suggest_names(str(name), FIELDS)}; "
                "a map says field=column, such as text=sentence"
            )
    return ColumnMap(dict(fields or {}), None if columns is None else tuple(columns))


def parse_map(text: str) -> dict[str, str]:
    """What `text=sentence,label=y` says, as the command line is given it; `label=` leaves a field out.

    Raises:
        DataError: a part is not of that form, or names a field twice.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, column = (piece.strip() for piece in part.partition("="))
        if not name or not equals:
            raise DataError(f"--map has the part {shorten_value(part)}; expected FIELD=COLUMN, such as text=sentence,label=y")
        if name in found:
            raise DataError(f"--map names the field {name} twice; expected each once")
        found[name] = column
    return found


def is_field(name: str) -> bool:
    """Whether `name` is a field of a sample: one of `FIELDS`, `labels.NAME`, or `signal.NAME`."""
    return name in FIELDS or (isinstance(name, str) and ((name.startswith(_NESTED) and len(name) > len(_NESTED)) or is_signal(name)))


def split_columns(name: str, column: str | None) -> list[str]:
    """The columns that the field `name` is taken from: of a signal several may be joined, as in `signal.table=age+weight`."""
    return [one.strip() for one in column.split("+")] if column and is_signal(name) else [column] if column else []


def _join_columns(name: str, column: str, row: Mapping[str, Any]) -> list[Any] | None:
    """One row of numbers of the columns that a signal is taken from, in their order; None where it is no signal of several, or one of
    them is empty."""
    columns = split_columns(name, column)
    if len(columns) < 2 or any(row.get(one) in (None, "") for one in columns):
        return None
    return [_to_number(row[one]) for one in columns]


def _to_number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def clean_cells(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a table that knows but text: empty cells are None, and `label` and `labels` whole numbers where they are such."""
    found = {name: value or None for name, value in fields.items()}
    for name in ("label", "labels"):
        if name in found:
            found[name] = _to_whole_numbers(found[name])
    return found


def _to_whole_numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _to_whole_numbers(one or None) for name, one in value.items()}
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def _shape_fields(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """`labels.image` becomes the entry `image` of `labels`, and the entry `vitals` of `signal` becomes `signal.vitals`."""
    several = fields.get(SIGNAL)
    if isinstance(several, Mapping):
        rest = {name: value for name, value in fields.items() if name != SIGNAL}
        fields = {**rest, **{f"{SIGNAL}.{name}": value for name, value in several.items()}}
    nested = {name: value for name, value in fields.items() if isinstance(name, str) and name.startswith(_NESTED)}
    if not nested:
        return fields
    given = fields.get("labels")
    inner = {name.removeprefix(_NESTED): value for name, value in nested.items()}
    plain = {name: value for name, value in fields.items() if name not in nested}
    return {**plain, "labels": {**(given if isinstance(given, Mapping) else {}), **inner}}
