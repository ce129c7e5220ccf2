"""A dataset of Hugging Face's `datasets`: a folder that `save_to_disk` wrote, or a hub id such as `user/name` or `user/name:config`.

Its rows are memory-mapped and read when they are used. Images and sounds are decoded here, not by `datasets`. Splits called `train`,
`test` and `validation` are those of the samples; of a dataset with a single one nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from trimodal.data.columns import ColumnMap
from trimodal.data.rows import RowSource
from trimodal.data.source_kind import SourceKind, split_of
from trimodal.errors import DataError

_HUB_ID = re.compile(r"([\w][\w.-]*(?:/[\w][\w.-]*)?)(?::([\w.-]+))?")
_MARKS = ("dataset_dict.json", "state.json")
_FILES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".text", ".parquet", ".pq", ".zip", ".gz", ".tar")
_LONGEST = 160


class _SplitRows:
    """The rows of several splits by number, one split after the other, each with its split."""

    def __init__(self, splits: Mapping[str, Any]) -> None:
        self._parts = [(split_of(name) if len(splits) > 1 else None, _keep_encoded(part)) for name, part in splits.items()]
        self._unlabelled = [_find_class_columns(part) for _, part in self._parts]

    def __len__(self) -> int:
        return sum(len(part) for _, part in self._parts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        at = index
        for (split, part), classes in zip(self._parts, self._unlabelled, strict=True):
            if at < len(part):
                row = {name: None if name in classes and value == -1 else value for name, value in part[at].items()}
                return row if split is None else {"split": split, **row}
            at -= len(part)
        raise IndexError(index)


def open_saved_dataset(folder: Path, columns: ColumnMap) -> RowSource:
    """The samples of a folder that `save_to_disk` wrote.

    Raises:
        DataError: it is damaged, its splits are not known, or `datasets` is not installed.
    """
    datasets = _import_datasets(f"reading {folder}")
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # a damaged folder makes it raise what the damage happens to be
        raise DataError(f"{folder} cannot be read as a saved dataset ({_describe(error)}); write it again with save_to_disk") from error
    source = _make_source(found, columns, str(folder), folder)
    source.place = folder
    return source


def open_hub_dataset(text: str, columns: ColumnMap) -> RowSource:
    """The samples of the dataset with the hub id `text`, `user/name` or `user/name:config`, which is downloaded.

    Raises:
        DataError: there is none that could be had, its splits are not known, or `datasets` is not installed.
    """
    datasets, match = _import_datasets(f"there is no file or folder {text}, and reading it from the hub"), _HUB_ID.fullmatch(text)
    name, config = match.groups() if match else (text, None)
    return load_dataset(datasets, name, config, columns)


def load_dataset(datasets: ModuleType, name: str, config: str | None, columns: ColumnMap) -> RowSource:
    """What `datasets.load_dataset(name, config)` finds: a hub id, or a folder of files that it knows.

    Raises:
        DataError: it finds nothing, or its splits are not known.
    """
    try:
        found = datasets.load_dataset(name, config)
    except Exception as error:  # of the hub, of the net, of files: it raises all kinds
        raise DataError(
            f"there is no file or folder {name}, and no hub dataset of that name could be had ({_describe(error)}); "
            "expected a file, a folder, or a hub id such as user/name or user/name:config"
        ) from error
    return _make_source(found, columns, f"the dataset {name}{f':{config}' if config else ''}", Path())


def is_hub_id(text: str) -> bool:
    """Whether `text`, which names nothing on disk, may be a hub id. A path in a folder that is there, or one that ends like a file of
    data, is a slip in its name."""
    a_file = Path(text.partition(":")[0]).suffix.lower() in _FILES
    return bool(_HUB_ID.fullmatch(text)) and "/" in text and not a_file and not Path(text).parent.is_dir()


def _make_source(found: Any, columns: ColumnMap, name: str, folder: Path) -> RowSource:
    splits = dict(found) if isinstance(found, Mapping) else {"train": found}
    known = splits if len(splits) == 1 else {split: part for split, part in splits.items() if split_of(split)}
    if not known:
        names = ", ".join(map(str, splits))
        raise DataError(f"{name} has the splits {names}; expected train, test or validation: give one of its parts instead, in Python")
    return RowSource(_SplitRows(known), columns, name=name, folder=folder)


def _keep_encoded(dataset: Any) -> Any:
    """`dataset` with its images and sounds as the bytes of their files."""
    for name, feature in dataset.features.items():
        if type(feature).__name__ in ("Image", "Audio"):
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    return dataset.with_format(None)


def _find_class_columns(dataset: Any) -> set[str]:
    """The columns with numbers of classes, in which −1 says that there is none."""
    return {name for name, feature in dataset.features.items() if type(feature).__name__ == "ClassLabel"}


def _describe(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:_LONGEST]}"


def _is_saved(path: Path) -> bool:
    return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)


def _import_datasets(what: str) -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{what} needs the datasets package; install it with: pip install 'trimodal[data]'") from error
    return datasets  # type: ignore[no-any-return, unused-ignore]


KIND = SourceKind("a dataset that save_to_disk of `datasets` wrote", _is_saved, open_saved_dataset)
