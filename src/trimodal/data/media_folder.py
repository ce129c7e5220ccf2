"""A folder of images, or of sounds: each file is a sample, and the folder that it lies in is its label.

    pictures/cat/1.png  pictures/dog/2.jpg                   label `cat`, label `dog`
    pictures/train/cat/1.png  pictures/test/cat/2.png        the same, with splits
    pictures/1.png  pictures/2.png                           no labels

Files are listed, and opened when they are used. Their order is that of their paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from trimodal.core import Sample
from trimodal.data.columns import NO_MAP, ColumnMap
from trimodal.data.fields import build_sample
from trimodal.data.source_kind import SourceKind, split_of
from trimodal.errors import DataError

IMAGES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2"))
SOUNDS = frozenset((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".w64", ".caf"))
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
_DEEPEST = 2  # FOLDER/train/LABEL/FILE


class MediaFolderSource:
    """The samples of a folder of images or sounds, one per file, in the order of their paths.

    Raises:
        DataError: while it is gone through: it holds images and sounds, or files in a folder below that of a label.
    """

    def __init__(self, folder: Path, columns: ColumnMap = NO_MAP) -> None:
        self.place = folder
        self.name = f"the folder {folder}"
        self.origin = f"{folder}, file"
        self._columns = columns

    def __iter__(self) -> Iterator[Sample]:
        """List the folder anew."""
        self._check_no_table()
        files = sorted(_list_media(self.place))
        kinds = {_kind_of(file): file for file in reversed(files)}
        if len(kinds) > 1:
            raise DataError(
                f"{self.name} holds images ({kinds['image']}) and sounds ({kinds['audio']}), and nothing says which belong together; "
                "give a folder of one of them, or a data.jsonl or CSV file that names both"
            )
        splits = _find_splits(files)
        rows = enumerate((self._make_row(file, splits) for file in files), start=1)
        for number, fields in self._columns.watch(self.name, rows):
            yield build_sample(self.origin, number, fields, lambda where, key, value: self.place / value)

    def explain_empty(self) -> str:
        """What an error says where there are no files."""
        return f"{self.name} holds no image and no sound any more; expected at least one"

    def _check_no_table(self) -> None:
        """Refuse a folder whose own table says what is what: its files alone would be samples that look right."""
        tables = sorted(file.name for file in self.place.iterdir() if file.suffix.lower() in _TABLES)
        if tables:
            raise DataError(
                f"{self.name} holds images or sounds, and {tables[0]} beside them; give {self.place / tables[0]} if that says "
                "which belongs to what (its column `file_name` with --map image=file_name), else put it elsewhere"
            )

    def _make_row(self, file: str, splits: set[str | None]) -> dict[str, str | int]:
        folders = Path(file).parts[:-1]
        split = split_of(folders[0]) if len(splits) > 1 else None
        labels = folders[1:] if splits else folders
        if len(labels) > 1:
            raise DataError(
                f"{self.place / file} lies {len(labels)} folders deep, and nothing says which of {', '.join(labels)} is its label; "
                "expected FOLDER/LABEL/FILE, or with splits FOLDER/train/LABEL/FILE"
            )
        label = {"label": int(labels[0]) if labels[0].isdecimal() else labels[0]} if labels else {}
        return {_kind_of(file): file, **label, **({"split": split} if split else {})}


def _find_splits(files: list[str]) -> set[str | None]:
    """The splits that the outermost folders are; none where one of them is not called like one. A single one parts nothing."""
    outermost = {Path(file).parts[0] if len(Path(file).parts) > 1 else "" for file in files}
    found = {split_of(name) for name in outermost}
    return set() if None in found else found


def _list_media(folder: Path, deepest: int | None = None) -> Iterator[str]:
    """The images and sounds in `folder` and below, at most `deepest` folders down, relative to it; what is hidden is left out."""
    for place, folders, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if deepest is None or depth < deepest else []
        for file in sorted(files):
            if _kind_of(file) and not file.startswith("."):
                yield (Path(place) / file).relative_to(folder).as_posix()


def _kind_of(file: str) -> str:
    """`image`, `audio`, or nothing."""
    suffix = Path(file).suffix.lower()
    return "image" if suffix in IMAGES else "audio" if suffix in SOUNDS else ""


def _holds_media(path: Path) -> bool:
    return path.is_dir() and next(_list_media(path, _DEEPEST), None) is not None


KIND = SourceKind("a folder of images or sounds, whose sub-folders are the labels", _holds_media, MediaFolderSource)
