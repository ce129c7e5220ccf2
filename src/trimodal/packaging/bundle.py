"""What is packaged: a folder that can be served, under a name that is safe in files of every kind."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from trimodal.errors import InputError, IntegrityError
from trimodal.formats import is_artifact
from trimodal.runtimes.exported_folder import is_exported
from trimodal.serving.limits import Limits

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_IMAGE = re.compile(r"[a-z0-9]+([._/:-][a-z0-9]+)*")
_MOST_REPLICAS = 100
_SUFFIXES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".npy", ".joblib", ".keras", ".h5"}
_ALLOWED = {"openvino_model.bin"}
PORT, GRPC_PORT = 8080, 8001


@dataclass(frozen=True)
class Bundle:
    """A folder and how it shall be served.

    Attributes:
        folder: an artifact, or a folder that `export` wrote.
        name: of the model and of everything that is named after it.
        image: of the container, with its tag.
        replicas: servers side by side.
        workers: processes in each of them; `threads` that each computes with.
        bytes: of all files.
    """

    folder: Path
    name: str
    image: str
    replicas: int = 2
    workers: int = 2
    threads: int = 1
    bytes: int = 0
    limits: Limits = Limits()

    @property
    def cores(self) -> int:
        """Processors that one server keeps busy."""
        return self.workers * self.threads


def read_bundle(
    folder: Path, *, name: str | None = None, image: str | None = None, replicas: int = 2, workers: int = 2, threads: int = 1
) -> Bundle:
    """The folder, checked.

    Raises:
        InputError: it cannot be served, or a name or number cannot be used.
        IntegrityError: it holds files that no artifact has.
    """
    if not (is_artifact(folder) or is_exported(folder)):
        raise InputError(f"{folder} is no artifact and no exported folder; give one that trimodal compress or trimodal export wrote")
    for option, number in (("--replicas", replicas), ("--workers", workers), ("--threads", threads)):
        if not 1 <= number <= _MOST_REPLICAS:
            raise InputError(f"{option} is {number}; give a whole number from 1 to {_MOST_REPLICAS}")
    chosen = check_name(name if name is not None else make_name(folder.resolve().name))
    tagged = check_image(image if image is not None else f"trimodal-{chosen}:1")
    return Bundle(folder, chosen, tagged, replicas, workers, threads, sum(file.stat().st_size for file in list_files(folder)))


def make_name(text: str) -> str:
    """A folder's name in small letters, `_` and `.` as `-`; other signs stay, and are refused by `check_name`."""
    return re.sub(r"[_.]+", "-", text.lower()).strip("-")


def check_name(name: str) -> str:
    """The name, if a label of Kubernetes, a host, a file and a word in a shell may be called so.

    Raises:
        InputError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r:.80} cannot name containers and hosts; give --name of at most 40 small letters, digits and -, such as see-hear-read"
        )
    return name


def check_image(image: str) -> str:
    """The image's name, if it is one.

    Raises:
        InputError: it is not.
    """
    if len(image) > 200 or not _IMAGE.fullmatch(image):
        raise InputError(f"{image!r:.80} cannot name an image; give --image such as registry.example.org/team/see-hear-read:1")
    return image


def list_files(folder: Path) -> list[Path]:
    """The files that are served, links read as what they lead to.

    Raises:
        IntegrityError: one can run code when it is opened, or is no plain file.
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for name in sorted(names):
            file = Path(place) / name
            if name.startswith("."):
                continue
            if not file.is_file():
                raise IntegrityError(f"{file} is no plain file; remove it, or write the folder again")
            if file.suffix.lower() in _SUFFIXES and name not in _ALLOWED and not file.with_suffix(".xml").is_file():
                raise IntegrityError(f"{file} is of a kind that can run code when it is opened; artifacts have none, so remove it")
            found.append(file)
    return found


def copy_files(folder: Path, out: Path) -> list[str]:
    """Copy what is served as plain files, so that no link leads out of what is handed over; paths below `out`."""
    written = []
    for file in list_files(folder):
        place = out / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
        place.chmod(0o644)
        written.append(str(place.relative_to(out)))
    return written
