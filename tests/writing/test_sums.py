"""Files that are written again, and their checksums."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from every_step import at_step, forked, names

from trimodal.writing.sums import SUMS, read_checksums, replace_files, sha256, write_checksum_list


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, one of which is not what the list says."""
    (tmp_path / "verdict").write_text("old")
    (tmp_path / "plan").write_text("as it was")
    write_checksum_list(tmp_path, {name: [sha256(tmp_path / name)] for name in ("plan", "verdict")})
    (tmp_path / "plan").write_text("changed")
    return tmp_path


def test_only_what_is_written_gets_a_new_checksum(folder: Path) -> None:
    before = read_checksums(folder)
    replace_files(folder, {"verdict": "new", "report": "page"})
    after = read_checksums(folder)
    assert after["plan"] == before["plan"] != [sha256(folder / "plan")]
    assert all(after[name] == [sha256(folder / name)] for name in ("verdict", "report"))


def test_no_list_is_made_where_there_is_none(tmp_path: Path) -> None:
    replace_files(tmp_path, {"verdict": "new"})
    assert names(tmp_path) == {"verdict"}


@pytest.mark.parametrize("rename", range(1, 5))
def test_kill_leaves_checksums_that_fit(folder: Path, rename: int) -> None:
    def run() -> None:
        left = rename

        def kill() -> None:
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

        with at_step("os.rename", kill):
            replace_files(folder, {"verdict": "new", "report": "page"})

    replace_files(folder, {"report": "old page"})
    assert forked(run) == [-signal.SIGKILL]
    assert all(sha256(folder / name) in read_checksums(folder)[name] for name in ("verdict", "report"))
    replace_files(folder, {"verdict": "newer", "report": "page"})
    assert names(folder) == {"plan", "verdict", "report", SUMS}
    assert [sha256(folder / "verdict")] == read_checksums(folder)["verdict"]


def test_two_at_once(folder: Path) -> None:
    codes = forked(*[lambda n=n: replace_files(folder, {"verdict": str(n), "report": str(n)}) for n in range(6)])
    assert codes == [0] * 6
    assert all([sha256(folder / name)] == read_checksums(folder)[name] for name in ("verdict", "report"))
