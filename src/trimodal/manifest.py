"""The manifest of an artifact, and whether the files around it are those that were written.

    trimodal.json    what the artifact is and what is stored at every site of it, with the sha256 of every file that decides the
                     result, and at its end a seal: the sha256 of its own text without the seal
    checks.sha256    the sha256 of every file, also of those that only tell (plan, record, verdict, report, licences), as
                     `sha256sum -c checks.sha256` reads it

What decides is checked whenever the artifact is loaded, and no file may lie beside it that a loader could take for a part of
the model. What tells is checked by `trimodal verify`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimodal import errors
from trimodal.core import Layout, json_text
from trimodal.core.stored_site import StoredSite
from trimodal.models.files import OURS, PACKED, SINGLE, TRAINING, find_licence_files, walk_files
from trimodal.writing.sums import SUMS, read_checksums, sha256, write_checksum_list

MANIFEST = "trimodal.json"
PLAN, RECORD, VERDICT, REPORT = "plan.json", "record.jsonl", "verdict.json", "report.html"
TELLERS = (PLAN, RECORD, VERDICT, REPORT, *TRAINING, SUMS)
FORMAT = 3  # 1: weights always in model.safetensors, no seal; 2: does not list what is stored, other names in the layout
_UNLISTED = 2
_WEIGHTS = (PACKED, OURS, SINGLE)
_SEAL = re.compile(rb',"sha256":"([0-9a-f]{64})"\}\Z')
RUNTIME = "runtime.json"
"""Which of the exports is fastest on which machine."""
_EXPORTS = ("onnx", "openvino", "litert", "coreml", "executorch")  # of other runtimes, which read nothing else here
_HARMLESS = (".md", ".html", ".log", ".png", ".jpg", ".svg", ".pdf", ".csv")


@dataclass(frozen=True)
class Manifest:
    """What `trimodal.json` says. `factory` names the function that made the bare module, where there is no config; `stored` is
    what is kept at every site of the layout, in its order (nothing in formats before 3)."""

    source: dict[str, Any]
    layout: Layout
    files: dict[str, str]
    factory: str | None
    trimodal: str
    format: int = FORMAT
    stored: tuple[StoredSite, ...] = ()

    def get_stored(self, path: str) -> StoredSite:
        """What is stored at the site at `path`.

        Raises:
            KeyError: the manifest lists no such site.
        """
        found = next((site for site in self.stored if site.path == path), None)
        if found is None:
            raise KeyError(f"the manifest lists nothing stored at {path!r:.80}")
        return found


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of `folder`, sealed. Without `stored` it is one of format 2, taken over from an older folder."""
    text = _format_content({**content, "format": FORMAT if "stored" in content else _UNLISTED}).encode()
    seal = hashlib.sha256(text).hexdigest().encode()
    (folder / MANIFEST).write_bytes(text[:-1] + b',"sha256":"' + seal + b'"}')


def _format_content(content: Mapping[str, Any]) -> str:
    """The manifest as JSON: a line for each key, and for each item of a list, so that a person can read it."""

    def plain(value: Any) -> str:
        return json_text(value, separators=(",", ":"))

    def lines(value: Any) -> str:
        items = ",\n".join(plain(item) for item in value) if isinstance(value, list | tuple) and value else None
        return plain(value) if items is None else f"[\n{items}\n]"

    return "{" + ",\n".join(f"{plain(key)}:{lines(value)}" for key, value in content.items()) + "}"


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of an artifact.

    Raises:
        IntegrityError: it is missing, unreadable, changed or of a later format.
    """
    folder = Path(folder)
    data = read_manifest_content(folder)
    try:
        files = {str(name): str(digest) for name, digest in data["files"].items()}
        stored = tuple(map(StoredSite.from_json, data["stored"])) if data["format"] >= FORMAT else ()
        return Manifest(data["source"], Layout.from_json(data), files, data["factory"], data["trimodal"], data["format"], stored)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable_error(folder, error) from error


def read_manifest_content(folder: Path) -> dict[str, Any]:
    """What the manifest says as plain data, without its seal.

    Raises:
        IntegrityError: it is missing, no JSON object, changed or of a later format.
    """
    try:
        raw = (folder / MANIFEST).read_bytes()
        data = json.loads(raw)
        later, sealed = data["format"] > FORMAT, "sha256" in data or data["format"] >= 2
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable_error(folder, error) from error
    if later:
        raise errors.IntegrityError(
            f"{folder / MANIFEST} has format {data['format']}, this version reads up to {FORMAT}; update trimodal"
        )
    seal = _SEAL.search(raw)
    if sealed and (seal is None or hashlib.sha256(raw[: seal.start()] + b"}").hexdigest() != seal[1].decode()):
        raise errors.IntegrityError(
            f"{folder / MANIFEST} has changed since it was written (its own sha256 differs); copy the folder again"
        )
    return {key: value for key, value in data.items() if key != "sha256"}


def _unreadable_error(folder: Path, error: Exception) -> errors.IntegrityError:
    return errors.IntegrityError(
        f"{folder / MANIFEST} cannot be read ({type(error).__name__}: {error}); the folder is no whole artifact"
    )


def check_listed_files(folder: Path, manifest: Manifest, partial: bool = False) -> None:
    """Compare every file that decides the result with its sha256 in the manifest, and refuse others beside them.

    `partial`: files may be missing, as in the cache of a hub that has fetched but some.

    Raises:
        IntegrityError: a file is missing, has changed, or was added, or the manifest does not list what is loaded.
    """
    listed = next((name for name in _WEIGHTS if name in manifest.files), SINGLE)
    for name in (weights_name_of(folder, listed), *(path.name for path in [folder / "config.json"] if path.exists())):
        if name not in manifest.files:
            raise errors.IntegrityError(f"{folder / MANIFEST} does not list {name}; the folder is no whole artifact")
    for name, expected in manifest.files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise errors.IntegrityError(
                f"{folder / MANIFEST} lists {name}, which lies outside of the folder; do not use it"
            )
        if not path.is_file() and partial:
            continue
        if not path.is_file():
            raise errors.IntegrityError(f"{folder} lacks {name}, which its manifest lists; copy the folder again")
        if sha256(path) != expected:
            raise errors.IntegrityError(
                f"{path} has changed since it was written (sha256 differs); copy the folder again"
            )
    added = next((path for path in walk_files(folder) if str(path) not in manifest.files and not _is_harmless(folder, path)), None)
    if added is not None:
        raise errors.IntegrityError(
            f"{folder / added} was not there when the artifact was written, and a loader may take it for a part of the model; "
            "take it out of the folder"
        )


def check_not_orphaned(folder: Path) -> None:
    """Refuse a folder whose list of checksums names a manifest that is not there: without it nothing else is checked.

    Raises:
        IntegrityError: the manifest is missing.
    """
    if (folder / SUMS).is_file() and not (folder / MANIFEST).is_file() and MANIFEST in read_checksums(folder):
        raise errors.IntegrityError(f"{folder} lacks {MANIFEST}, which its {SUMS} lists; copy the folder again")


def weights_name_of(folder: Path, missing: str = SINGLE) -> str:
    """The name of the file that has the weights of the artifact in `folder`; `missing` where there is none."""
    return next((name for name in _WEIGHTS if (folder / name).exists()), missing)


def _is_harmless(folder: Path, path: Path) -> bool:
    """Whether no loader of models reads a file of that kind: it tells something, or is another runtime's."""
    if len(path.parts) > 1 and path.parts[0] in _EXPORTS:
        return True
    if len(path.parts) == 1 and (path.name in (MANIFEST, RUNTIME, *TELLERS) or path in find_licence_files(folder)):
        return True
    return path.suffix.lower() in _HARMLESS and not (folder / path).is_dir()


def write_checksums(folder: Path) -> None:
    """Write `checks.sha256` for all files that are in `folder` now."""
    names = [path for path in walk_files(folder) if path != Path(SUMS) and (folder / path).is_file()]
    write_checksum_list(folder, {str(path): [sha256(folder / path)] for path in names})


def find_changed_side_files(folder: Path) -> list[str]:
    """What is no longer as it was written among the files that only tell, each in a few words; empty if nothing is.

    Artifacts of format 1 have no sums of them: nothing is found there.
    """
    if not (folder / SUMS).is_file():
        return [f"{SUMS} is missing"] if read_manifest_content(folder)["format"] >= 2 else []
    sums = read_checksums(folder)
    found = [f"{SUMS} names {name:.80}, outside of the folder" for name in sums if ".." in Path(name).parts or name[:1] == "/"]
    if found:
        return found
    decides = read_manifest_content(folder)["files"]
    for name, digests in sums.items():
        if not (folder / name).is_file():
            found.append(f"{name:.80} is missing")
        elif (decides[name] if name in decides else sha256(folder / name)) not in digests:
            found.append(f"{name:.80} has changed")
    there = (name for name in (MANIFEST, *TELLERS) if name != SUMS and (folder / name).is_file())
    return found + [f"{name} was added" for name in there if name not in sums]
