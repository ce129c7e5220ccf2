"""What is not served: folders with files in them that nobody accounts for.

An artifact's own files are held to its manifest when it is opened, those of an export to the sums in `export.json`. What neither lists is
looked at here: a runtime that is led to it by a file's external data would read what was never checked.
"""

from __future__ import annotations

from pathlib import Path

from trimodal.errors import IntegrityError
from trimodal.runtimes.exported_folder import EXPORT_FILE, is_exported, read_exported

_HARMLESS = (".md", ".txt", ".html", ".log", ".png", ".jpg", ".svg", ".pdf", ".csv")
_TEXTS = (".json", ".txt", ".jinja", ".model")
_HEAD = 8
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x93NUMPY", b"\x89HDF")


def check_accounted(folder: Path) -> None:
    """Hold an exported folder to its own list: every file is listed, lies in it, and is no pickle; data beside a graph is no hard link, as
    ONNX's own checker has it, but not ONNX Runtime.

    Raises:
        IntegrityError: one is not.
    """
    if not is_exported(folder):
        return
    exported = read_exported(folder)
    listed, opened = {EXPORT_FILE, *exported.sums}, {part.files[0] for part in exported.components.values()}
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(folder).as_posix()
        if not path.resolve().is_relative_to(root):
            raise IntegrityError(f"{folder}: {name:.80} leads out of the folder; a model that is served has all its files in it")
        if name in listed:
            _check_no_pickle(path, name)
            if name not in opened and path.suffix not in _TEXTS and path.stat().st_nlink > 1:
                raise IntegrityError(f"{folder}: {name:.80} is a hard link, another file by another name; copy the folder without links")
        elif path.suffix not in _HARMLESS:
            raise IntegrityError(f"{folder}: {name:.80} is not listed in {EXPORT_FILE}; remove it, or export the model again")


def _check_no_pickle(path: Path, name: str) -> None:
    with path.open("rb") as file:
        if file.read(_HEAD).startswith(_PICKLES):
            raise IntegrityError(f"{path.parent}: {name:.80} is a pickle or an archive, which is never opened")
