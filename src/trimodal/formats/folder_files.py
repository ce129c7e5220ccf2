"""Which files of a model folder run it, how large they are, and whether the folder is an artifact of ours."""

from __future__ import annotations

from pathlib import Path

from trimodal.core.record import PackName
from trimodal.data import Data, find_data_place
from trimodal.errors import OutputError
from trimodal.manifest import MANIFEST
from trimodal.models.files import (
    OURS,
    PACKED,
    find_companion_files,
    find_unread_files,
    index_files,
    module_weight_files,
    weight_files,
)
from trimodal.models.files import SINGLE as MODEL
from trimodal.writing import check_not_replaced


def is_artifact(folder: Path) -> bool:
    """Whether `folder` was written by trimodal."""
    return (folder / MANIFEST).is_file()


def check_not_inside_artifact(out: Path) -> None:
    """Refuse an output place inside of an artifact, which does not load with anything in it that it does not list.

    Raises:
        OutputError: a folder above `out` is an artifact.
    """
    above = next((folder for folder in out.resolve().parents if is_artifact(folder)), None)
    if above is not None:
        raise OutputError(f"{out} lies inside of the artifact {above}, which would no longer load; give a folder beside it")


def check_sources_stay(out: Path, source: Path | None, data: Data | None) -> None:
    """Refuse an output place whose replacement would take the model in `source`, or the data, with it.

    Raises:
        OutputError: one of them is `out`, or inside of it.
    """
    for path, what in ((source, "the model"), (find_data_place(data), "the data")):
        if path is not None and path.exists():
            check_not_replaced(out, path, what)


def list_running_files(folder: Path) -> list[Path]:
    """All files that are needed to run the model in `folder`, each once: weights, companions, and the manifest if there is
    one."""
    manifest = [Path(MANIFEST)] if is_artifact(folder) else []
    return list(dict.fromkeys([*list_weight_files(folder), *index_files(folder), *find_companion_files(folder), *manifest]))


def measure_folder_size(folder: Path) -> tuple[int, int]:
    """Bytes on disk of all files needed to run, and of those with weights alone: what a loader reads, not what is there."""
    weights = sum((folder / path).stat().st_size for path in list_weight_files(folder))
    return sum((folder / path).stat().st_size for path in list_running_files(folder)), weights


def find_uncarried_files(folder: Path) -> tuple[str, ...]:
    """What lies in a model folder and is neither counted nor carried over; see `models/files.py`. Of an artifact nothing."""
    return () if is_artifact(folder) else find_unread_files(folder)


def list_weight_files(folder: Path) -> list[Path]:
    """The files with weights, those of modules behind the model too."""
    packed_one = (folder / PACKED).is_file()
    own = [Path(PACKED)] if packed_one else [path for path in (Path(OURS), Path(MODEL)) if (folder / path).is_file()][:1]
    known = is_artifact(folder) or packed_one or (folder / OURS).is_file()
    return [*(own if known else weight_files(folder)), *module_weight_files(folder)]


def pack_name_of(folder: Path) -> PackName:
    """How the weights in `folder` are stored."""
    return "entropy" if (folder / PACKED).is_file() else "plain"
