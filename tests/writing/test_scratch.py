"""Scratch folders: gone afterwards, and after a kill with the next one."""

from __future__ import annotations

import errno
import os
import signal
import tempfile
from pathlib import Path

import pytest
from every_step import forked, names

from trimodal.errors import OutputError
from trimodal.writing import open_scratch_folder


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_gone_afterwards(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a bug"), open_scratch_folder("it") as folder:
        (folder / "file").touch()
        raise ValueError("a bug")
    assert names(tmp_path) == set()


def test_gone_with_the_next_after_a_kill(tmp_path: Path) -> None:
    def run() -> None:
        with open_scratch_folder("it") as folder:
            (folder / "file").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(run) == [-signal.SIGKILL] and names(tmp_path)
    with open_scratch_folder("it"):
        pass
    assert names(tmp_path) == set()


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match=r"it cannot be written to .*; set TMPDIR"), open_scratch_folder("it"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == set()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no"))
    with pytest.raises(OutputError, match=r"it cannot be written to a temporary folder .*No such file"), open_scratch_folder("it"):
        pass


def test_other_failures_are_not_laid_on_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_scratch_folder("it"):
        (tmp_path / "no").read_text()
