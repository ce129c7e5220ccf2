"""archive: an artifact as one entropy-coded file with checksums, which is read once from front to back, also from a pipe.

    trimodal export OUT --to archive -o model.tri        and back: trimodal unpack model.tri -o OUT
    curl -s https://…/model.tri | trimodal unpack - -o OUT

The form is that of `formats/archive.py`. What comes back is the same folder, byte for byte: weights plain or packed as they were. What
other programs' files lie in the artifact (onnx, …) and pictures or notes beside it stay where they are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from trimodal.errors import InputError
from trimodal.exporting.exporter import ExportedComponent, Exporter, ExportResult, ExportSource
from trimodal.formats import check_not_replaced, check_output_place, is_archive, is_artifact, open_atomic_folder
from trimodal.formats.archive import SUFFIX, list_archived_files, read_archive, write_archive
from trimodal.manifest import check_listed_files, read_manifest
from trimodal.models.process import leaves_process_unchanged
from trimodal.writing.file import open_atomic_file

NAME = "archive"
STDIN = "-"


def write_archive_file(source: str | Path | Callable[[], Any], file: Path | None, force: bool) -> tuple[Path, ExportResult]:
    """Write the artifact `source` into `file`, by default beside it, and read it back: the place, and what is in it.

    Raises:
        InputError: `source` is no artifact, or `file` is there already.
        IntegrityError: the artifact is not as it was written, or what was written does not read back.
    """
    if callable(source) or not is_artifact(Path(source)):
        raise InputError(f"{source} is no artifact (it has no trimodal.json); an archive holds a folder that compress wrote")
    folder = Path(source)
    place = folder.resolve().with_name(folder.resolve().name + SUFFIX) if file is None else file
    if place.is_dir():
        raise InputError(f"{place} is a folder; an archive is one file, give a name such as {place / 'model'}{SUFFIX}")
    if place.exists() and not force:
        raise InputError(f"{place} is there already; give --force to replace it, or another name")
    if place.exists() and not is_archive(place):
        raise InputError(f"{place} is there already and is no archive, so it is not replaced; give another name")
    manifest = read_manifest(folder)
    check_listed_files(folder, manifest)
    with open_atomic_file(place) as opened:
        write_archive(folder, opened)
        opened.seek(0)
        read_archive(opened, str(place), None)
    sizes = [(folder / path).stat().st_size for path in list_archived_files(folder)]
    coded = frozenset(site.path for site in manifest.stored if site.weight is not None)
    component = ExportedComponent(NAME, (place.name,), {}, {})
    return place, ExportResult((component,), coded, notes=(f"{len(sizes)} files, {sum(sizes):,} bytes when it is unpacked",))


@leaves_process_unchanged
def unpack(source: str | Path | IO[bytes], out: str | Path, *, force: bool = False) -> Path:
    """Write the folder that an archive holds.

    Args:
        source: an archive's file, `-` for standard input, or anything with a `read` that gives bytes.
        out: folder to write; it is complete afterwards, or as it was before.
        force: replace `out` if it is not empty.

    Raises:
        InputError: there is no such archive, or the output place cannot be used.
        IntegrityError: it is not as it was written; what was found where, and nothing is kept.
    """
    out = Path(out)
    check_output_place(out, force)
    if isinstance(source, str | Path) and str(source) != STDIN:
        check_not_replaced(out, Path(source), "the archive")
    with open_atomic_folder(out, force) as part:
        if not isinstance(source, str | Path):
            read_archive(source, "the stream", part)
        elif str(source) == STDIN:
            read_archive(sys.stdin.buffer, "standard input", part)
        else:
            _unpack_file(Path(source), part)
        check_listed_files(part, read_manifest(part))
    return out


def _unpack_file(file: Path, folder: Path) -> None:
    if not is_archive(file):
        raise InputError(f"{file} is no archive; expected a file that trimodal export --to archive wrote")
    with file.open("rb") as opened:
        read_archive(opened, str(file), folder)


def _write_folder(source: ExportSource, folder: Path) -> ExportResult:
    raise InputError(f"an archive is made of an artifact's files, not of the model {source.model.name}")


EXPORTER = Exporter(
    NAME, "one entropy-coded file with checksums, the smallest, to send and to keep", ("constriction",), "pack", _write_folder,
    write_file=write_archive_file,
)  # fmt: skip
