"""Whose run is dead is cleared away, whose run lives is not; neither names, nor process numbers, nor clocks decide."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from every_step import forked, names

import trimodal
from trimodal.writing import workplace
from trimodal.writing.workplace import claim_file, clear_leftovers, is_partial_name, new_partial_path, open_workplace


def dead(parent: Path) -> Path:
    """What a killed run leaves."""

    def run() -> None:
        (open_workplace(parent, "out").new / "file").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    assert forked(run) == [-signal.SIGKILL]
    (left,) = [path for path in parent.iterdir() if is_partial_name(path.name)]
    return left


def test_dead_ones_go_and_living_ones_stay(tmp_path: Path) -> None:
    left = dead(tmp_path)
    living = open_workplace(tmp_path, "out")
    held = claim_file(file := new_partial_path(tmp_path))
    (tmp_path / ".trimodal.mine.part").mkdir()
    clear_leftovers(tmp_path)
    assert not left.exists() and living.new.is_dir() and file.exists() and (tmp_path / ".trimodal.mine.part").is_dir()
    living.remove()
    os.close(held)
    clear_leftovers(tmp_path)
    assert names(tmp_path) == {".trimodal.mine.part"}


def test_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    living = open_workplace(tmp_path, "out")
    os.utime(living.path, (0, 0))
    left = dead(tmp_path / living.new)
    os.utime(left, (2**31, 2**31))
    monkeypatch.setattr(time, "time", lambda: -1.0)
    clear_leftovers(tmp_path)
    clear_leftovers(living.new)
    assert living.new.is_dir() and not left.exists()
    living.remove()


def test_no_name_and_no_order_comes_from_a_clock_or_a_process_number() -> None:
    wrong = re.compile(r"\btime\.time\(|\bdatetime\.|\bos\.getpid\(|\.st_[mc]time\b")
    source = Path(trimodal.__file__).parent
    written = [file for file in source.rglob("*.py") if "serving" not in file.parts]  # which tells the time, and of its processes
    assert [str(file) for file in written if wrong.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("left", ["nothing", "lock", "file without a lock"])
def test_what_a_kill_leaves_while_it_is_made_or_cleared(tmp_path: Path, left: str) -> None:
    path = new_partial_path(tmp_path)
    path.mkdir()
    if left != "nothing":
        (path / ("lock" if left == "lock" else "new")).touch()
    if left == "file without a lock":
        (path / "new").unlink()
        (path / "new").mkdir()
        (path / "new" / "file").touch()
    clear_leftovers(tmp_path)
    assert names(tmp_path) == set()


def test_one_taken_for_a_leftover_while_it_is_made_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, calls = workplace._try_lock, []

    def meanwhile(held: int) -> bool | None:
        if not calls:
            calls.append(held)
            monkeypatch.setattr(workplace, "_try_lock", lock)
            clear_leftovers(tmp_path)
        return lock(held)

    monkeypatch.setattr(workplace, "_try_lock", meanwhile)
    made = open_workplace(tmp_path, "out")
    assert calls and made.new.is_dir() and [path.name for path in tmp_path.iterdir()] == [made.path.name]
    made.remove()


def test_old_folder_that_was_moved_out_of_its_place_comes_back(tmp_path: Path) -> None:
    left = dead(tmp_path)
    (left / "old").mkdir()
    (left / "old" / "mine").touch()
    clear_leftovers(tmp_path)
    assert names(tmp_path) == {"out", "out/mine"}


def test_old_folder_whose_place_is_taken_is_not_removed(tmp_path: Path) -> None:
    left = dead(tmp_path)
    (left / "old").mkdir()
    (left / "old" / "mine").touch()
    (tmp_path / "out").mkdir()
    clear_leftovers(tmp_path)
    assert (left / "old" / "mine").is_file() and (tmp_path / "out").is_dir()


def test_other_users_leftovers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = dead(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: left.stat().st_uid + 1)
    clear_leftovers(tmp_path)
    assert left.is_dir()


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "lock").touch()
    new_partial_path(tmp_path).symlink_to(tmp_path / "home")
    clear_leftovers(tmp_path)
    assert (tmp_path / "home" / "lock").is_file()


def test_without_locks_nothing_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = dead(tmp_path)
    monkeypatch.setattr(workplace, "fcntl", None)
    clear_leftovers(tmp_path)
    assert left.is_dir()
    made = open_workplace(tmp_path, "other")
    made.remove()
    assert not made.path.exists()
