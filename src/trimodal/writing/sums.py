"""Files of a folder that are written again, and the list of checksums that speaks of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from trimodal.writing.file import write_text_atomically
from trimodal.writing.workplace import lock_folder

SUMS = "checks.sha256"


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_checksums(folder: Path) -> dict[str, list[str]]:
    """The checksums that the list in `folder` gives each file: one, or two where a run was killed while it wrote the file."""
    found: dict[str, list[str]] = {}
    for line in (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        found.setdefault(name, []).append(digest)
    return found


def write_checksum_list(folder: Path, sums: Mapping[str, list[str]]) -> None:
    """Write the list, as `sha256sum -c` reads it."""
    write_text_atomically(folder / SUMS, "".join(f"{digest}  {name}\n" for name, digests in sums.items() for digest in digests))


def replace_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write the files `texts` into `folder`, with their checksums if it has a list of them; those of other files stay.

    A kill leaves each file as it was or new, and a list that has both checksums.

    Raises:
        OutputError: they cannot be written.
    """
    with lock_folder(folder):
        listed = (folder / SUMS).is_file()
        old = read_checksums(folder) if listed else {}
        new = {name: [hashlib.sha256(text.encode()).hexdigest()] for name, text in texts.items()}
        if listed:
            write_checksum_list(folder, old | {name: [*old.get(name, []), *new[name]] for name in new})
        for name, text in texts.items():
            write_text_atomically(folder / name, text)
        if listed:
            write_checksum_list(folder, old | new)
