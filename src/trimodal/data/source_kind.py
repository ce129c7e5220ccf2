"""What a kind of file or folder must say of itself, to be opened by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from trimodal.core import Sample
from trimodal.data.columns import ColumnMap


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


@dataclass(frozen=True)
class SourceKind:
    """One kind of file or folder that samples come from.

    Attributes:
        name: what it is called in errors, such as `a CSV file (.csv, .tsv)`.
        fits: whether a path, which is there, is of this kind; by what it is, and for a file by its beginning or its name.
        open: the path and the columns -> its samples.
    """

    name: str
    fits: Callable[[Path], bool]
    open: Callable[[Path, ColumnMap], SampleSource]


def has_suffix(path: Path, *suffixes: str) -> bool:
    """Whether `path` is a file whose name ends so, in capitals too."""
    return path.is_file() and path.suffix.lower() in suffixes


def split_of(name: str) -> str | None:
    """The split that a folder, a file or a part of a dataset called `name` is: `train`, or `test`, which is held out and is what
    others call validation; None where the name says nothing of it."""
    return _SPLIT_NAMES.get(name.lower())


_SPLIT_NAMES = {
    "train": "train", "training": "train",
    "test": "test", "testing": "test", "validation": "test", "valid": "test", "val": "test", "dev": "test", "eval": "test",
}  # fmt: skip
