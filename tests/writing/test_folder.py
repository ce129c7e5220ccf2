"""Whole or as it was: whatever goes wrong while a folder is written, what stood there before stands there after."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from every_step import at_step, forked, names, restore, state, write
from safetensors import SafetensorError

from trimodal.errors import OutputError
from trimodal.writing import check_output_place, check_writable, folder, open_atomic_folder, renaming, syncing


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """A folder with something in it."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    return tmp_path / "out"


@pytest.fixture(params=["in one step", "in two steps"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to replace a folder: where two names can be exchanged, and where they cannot."""
    if request.param == "in two steps":
        monkeypatch.setattr(renaming, "_find_exchange_call", lambda: None)
    return str(request.param)


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody cuts the power off here."""
    monkeypatch.setattr(os, "fsync", lambda opened: None)


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), OutputError, "the disk is full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), OutputError, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), OutputError, "could not be written"),
        (OSError(errno.EIO, "Input/output error"), OutputError, r"out could not be written \(Input/output error\)"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
        (ValueError("a bug"), ValueError, "a bug"),
    ],
)
def test_failure_leaves_what_was_there(
    taken: Path, error: BaseException, expected: type[BaseException], words: str
) -> None:
    with pytest.raises(expected, match=words), open_atomic_folder(taken, force=True) as part:
        (part / "new").write_text("half")
        raise error
    assert names(taken.parent) == {"out", "out/old"}


# At every step


@pytest.mark.parametrize("before", ["old", "absent"])
@pytest.mark.parametrize("way", ["one", "two"])
@pytest.mark.parametrize("how", ["kill", "failure", "signal"])
def test_every_step(tmp_path: Path, how: str, way: str, before: str) -> None:
    """A kill, a failed step, or a signal at every step of the file system, where two names are exchanged in one step or in two."""
    program = Path(__file__).with_name("every_step.py")
    done = subprocess.run([sys.executable, program, how, way, before, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 25


def test_signal_while_swapping_waits(taken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        came.clear()
        handler = signal.signal(number, lambda number, frame: came.append(number))
        try:
            with at_step("os.rename", lambda number=number: signal.raise_signal(number)):
                write(taken)
            assert came == [number] and names(taken.parent) == {"out", "out/other", "out/sub", "out/sub/new"}
        finally:
            signal.signal(number, handler)


# Two at once


def test_place_that_is_filled_meanwhile_stays(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="was filled while this run was under way"), open_atomic_folder(tmp_path / "out") as part:
        (part / "mine").touch()
        write(tmp_path / "out")
    assert state(tmp_path / "out") == "new" and names(tmp_path) == {"out", "out/sub", "out/sub/new", "out/other"}


def test_many_at_once_one_wins(tmp_path: Path) -> None:
    """Without force one run wins, the others are told so, and none takes another's workplace for a dead one."""

    def run() -> int:
        try:
            write(tmp_path / "out", force=False)
        except OutputError as error:
            assert "is not empty" in str(error) or "was filled" in str(error)
            return 2
        return 0

    for _ in range(5):
        codes = sorted(forked(*[run] * 6))
        assert codes == [0, 2, 2, 2, 2, 2] and state(tmp_path / "out") == "new"
        restore(tmp_path / "out", "absent")
        assert names(tmp_path) == set()


def test_many_at_once_with_force(tmp_path: Path, way: str) -> None:
    for _ in range(5):
        codes = forked(*[lambda: write(tmp_path / "out")] * 6)
        assert state(tmp_path / "out") == "new" and not [name for name in names(tmp_path) if ".part" in name]
        assert codes == [0] * 6 or way == "in two steps"


def test_place_that_becomes_a_file_meanwhile(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="Not a directory"),
        open_atomic_folder(tmp_path / "out", force=True) as part,
    ):
        (part / "mine").touch()
        (tmp_path / "out").write_text("theirs")
    assert names(tmp_path) == {"out"} and (tmp_path / "out").read_text() == "theirs"


# On the disk


def test_bytes_reach_the_disk_before_the_name(taken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(folder, "sync_tree", lambda path: done.append(f"files while {state(taken)}"))
    monkeypatch.setattr(folder, "sync_path", lambda path: done.append(f"{path.name[:10]} while {state(taken)}"))
    write(taken)
    assert done == ["files while old", f"{taken.parent.name[:10]} while new", ".trimodal. while new"]


def test_every_file_and_folder_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(syncing, "sync_path", lambda path: synced.append(path.name))
    write(tmp_path / "out")
    assert synced == ["new", "sub", "other", "new"] or synced == ["other", "new", "sub", "new"] or len(synced) == 4


@pytest.mark.parametrize("words", ["files", "parent"])
def test_disk_that_fails_when_it_is_to_keep(taken: Path, way: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        if words == "files" or path == taken.parent:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(folder, "sync_tree" if words == "files" else "sync_path", fail)
    with pytest.raises(OutputError, match=r"Input/output error\); nothing was left behind"):
        write(taken)
    assert names(taken.parent) == {"out", "out/old"}


# Places


def test_success_from_another_thread(taken: Path) -> None:
    thread = threading.Thread(target=write, args=(taken,))
    thread.start()
    thread.join()
    assert state(taken) == "new"


def test_parents_are_made_and_links_are_followed(tmp_path: Path) -> None:
    with open_atomic_folder(tmp_path / "a" / "b") as part:
        (part / "new").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with open_atomic_folder(tmp_path / "link" / ".." / "link", force=True) as part:
        (part / "newer").touch()
    assert names(tmp_path) == {"a", "a/newer", "link"} and (tmp_path / "link").is_symlink()
    (tmp_path / "dangling").symlink_to(tmp_path / "c" / "d")
    write(tmp_path / "dangling")
    assert state(tmp_path / "c" / "d") == "new" and (tmp_path / "dangling").is_symlink()


def test_parents_that_were_made_go_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a bug"), open_atomic_folder(tmp_path / "a" / "b" / "c"):
        raise ValueError("a bug")
    assert names(tmp_path) == set()


def test_permissions_stay(taken: Path) -> None:
    taken.chmod(0o750)
    write(taken)
    assert taken.stat().st_mode & 0o777 == 0o750
    mask = os.umask(0o027)
    try:
        write(taken.parent / "fresh")
    finally:
        os.umask(mask)
    assert (taken.parent / "fresh").stat().st_mode & 0o777 == 0o750


def test_long_name(tmp_path: Path) -> None:
    write(tmp_path / ("é" * 127))
    assert state(tmp_path / ("é" * 127)) == "new"


def test_gone_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OutputError, match="out counts from the current folder, which is gone"):
        write(Path("out"))
    write(tmp_path / "out")
    write(tmp_path / "out")
    assert state(tmp_path / "out") == "new"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system of 64 KiB."""
    place = tmp_path / "disk"

    def mount(*options: str) -> Path:
        place.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(("size=64k", *options)), "tmpfs", str(place)])
        if done.returncode != 0:
            pytest.skip("a small file system can only be mounted as root")
        return place

    yield mount
    if place.is_dir():
        subprocess.run(["umount", str(place)], stderr=subprocess.DEVNULL)


def test_file_system_of_its_own_is_refused_at_once(small_disk: Callable[..., Path]) -> None:
    disk = small_disk()
    with pytest.raises(OutputError, match="is a file system of its own, which cannot be replaced"):
        check_output_place(disk, force=False)
    (disk / "out").mkdir()
    (disk / "out" / "old").write_text("old")
    with pytest.raises(OutputError, match="the disk is full"), open_atomic_folder(disk / "out", force=True) as part:
        (part / "new").write_bytes(bytes(100_000))
    assert names(disk) == {"out", "out/old"}
    write(disk / "out")
    assert state(disk / "out") == "new"


def test_folder_that_holds_a_file_system_is_not_replaced(tmp_path: Path, small_disk: Callable[..., Path]) -> None:
    disk = small_disk()
    with pytest.raises(OutputError, match=r"cannot be replaced: .*disk cannot be removed"):
        check_output_place(disk.parent, force=True)


def test_read_only_file_system_is_refused_at_once(small_disk: Callable[..., Path]) -> None:
    disk = small_disk("ro")
    with pytest.raises(OutputError, match="Read-only file system"):
        check_output_place(disk / "out", force=False)
    with pytest.raises(OutputError, match="Read-only file system"):
        check_writable(disk)


def test_read_only_folder_is_refused_at_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)

    def run() -> int:
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            check_output_place(tmp_path / "deep" / "out", force=False)
        except OutputError as error:
            return 2 if "Permission denied" in str(error) else 1
        return 0

    try:
        assert forked(run) == [2]
    finally:
        tmp_path.chmod(0o755)
