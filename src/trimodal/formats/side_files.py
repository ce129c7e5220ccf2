"""The files of an artifact that only tell: read back, and whether they are as they were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trimodal.core import Check, Packing, Plan, Verdict
from trimodal.errors import InputError, IntegrityError
from trimodal.formats.folder_files import is_artifact, pack_name_of
from trimodal.formats.packed import measure_packing
from trimodal.manifest import PLAN, VERDICT, Manifest, check_listed_files, find_changed_side_files
from trimodal.models.files import PACKED

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def require_artifact(folder: Path) -> None:
    """Refuse a folder that is no artifact.

    Raises:
        InputError: it has no manifest.
    """
    if not is_artifact(folder):
        raise InputError(f"{folder} is no artifact (it has no trimodal.json); expected a folder that compress wrote")


def read_plan(folder: Path) -> Plan:
    """The plan of an artifact.

    Raises:
        IntegrityError: it is missing or does not hold a plan.
    """
    try:
        return Plan.from_json(_read_json(folder / PLAN), str(folder / PLAN))
    except _UNREADABLE as error:
        raise IntegrityError(
            f"{folder / PLAN} cannot be read ({type(error).__name__}: {error}); the folder is no whole artifact"
        ) from error


def read_verdict(folder: Path) -> Verdict:
    """The verdict of an artifact.

    Raises:
        IntegrityError: it is missing or does not hold a verdict.
    """
    try:
        return Verdict.from_json(_read_json(folder / VERDICT), str(folder / VERDICT))
    except _UNREADABLE as error:
        raise IntegrityError(f"{VERDICT} cannot be read ({type(error).__name__}: {error}); verify the artifact anew") from error


def read_packing(folder: Path) -> Packing | None:
    """Both sizes and the time that decoding takes, where the weights in `folder` are entropy-coded."""
    return measure_packing(folder / PACKED) if pack_name_of(folder) == "entropy" else None


def run_file_checks(folder: Path, manifest: Manifest) -> list[Check]:
    """Whether the files that decide the result hold what the manifest says, counted and summed anew, and whether those that
    only tell are as they were written.

    Raises:
        IntegrityError: a file that decides is missing or has changed.
    """
    check_listed_files(folder, manifest)
    wrong = find_changed_side_files(folder)
    said = "; ".join(wrong[:3]) if wrong else "sha256 of every file as it was written down"
    return [
        Check.from_outcome("files as they were written", True, f"sha256 of {len(manifest.files)} files as in the manifest"),
        Check.from_outcome("plan, record and report as they were written", not wrong, said),
    ]


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))
