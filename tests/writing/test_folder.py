"""Complete or absent: whatever goes wrong while a folder or file is written, what stood there before stands there after."""

from __future__ import annotations

import errno
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from trimodal.errors import OutputError
from trimodal.formats.folder import check_free, check_keeps, whole_folder, write_whole


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """A folder with something in it."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    return tmp_path / "out"


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), OutputError, "the disk is full"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), OutputError, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), OutputError, "could not be written"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
        (ValueError("a bug"), ValueError, "a bug"),
    ],
)
def test_failure_leaves_what_was_there(
    taken: Path, error: BaseException, expected: type[BaseException], words: str
) -> None:
    with pytest.raises(expected, match=words), whole_folder(taken, force=True) as part:
        (part / "new").write_text("half")
        raise error
    assert names(taken.parent) == {"out", "out/old"}


def test_failure_while_swapping_puts_the_old_one_back(taken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def failing(self: Path, target: Path) -> Any:
        if self.name.endswith(".part"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError, match="could not be written"), whole_folder(taken, force=True) as part:
        (part / "new").write_text("new")
    assert names(taken.parent) == {"out", "out/old"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_swapping_waits(taken: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    rename = Path.rename

    def disturbed(self: Path, target: Path) -> Any:
        signal.raise_signal(number)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", disturbed)
    handler = signal.getsignal(number)
    with whole_folder(taken, force=True) as part:
        (part / "new").write_text("new")
    assert names(taken.parent) == {"out", "out/new"} and signal.getsignal(number) is handler


def test_success_from_another_thread(taken: Path) -> None:
    def write() -> None:
        with whole_folder(taken, force=True) as part:
            (part / "new").write_text("new")

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert names(taken.parent) == {"out", "out/new"}


def test_parents_are_made_and_links_are_followed(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a" / "b") as part:
        (part / "new").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with whole_folder(tmp_path / "link" / ".." / "link", force=True) as part:
        (part / "newer").touch()
    assert names(tmp_path) == {"a", "a/newer", "link"} and (tmp_path / "link").is_symlink()


def test_refusals(taken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="out is not empty"):
        check_free(taken, force=False)
    with pytest.raises(OutputError, match="old is a file"):
        check_free(taken / "old", force=True)
    with (
        pytest.raises(OutputError, match="needs 1,000,000,000,000,000,000 bytes"),
        whole_folder(taken.parent / "new", needs_bytes=10**18),
    ):
        pass
    with pytest.raises(OutputError, match="is or holds the model"):
        check_keeps(taken.parent, taken / "old", "the model")
    check_keeps(taken / "new", taken, "the model")
    check_free(taken, force=True)
    monkeypatch.chdir(taken)
    with pytest.raises(OutputError, match="is or holds the current folder"):
        check_free(taken.parent, force=True)
    assert names(taken.parent) == {"out", "out/old"}


def test_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "plan.json"
    write_whole(file, "é\n")
    assert file.read_bytes() == "é\n".encode() and names(tmp_path) == {"plan.json"}
    write_text = Path.write_text

    def half(self: Path, text: str, **rest: Any) -> int:
        write_text(self, text[:2], **rest)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OutputError, match=r"the disk is full: .*plan.json"):
        write_whole(file, "other")
    assert file.read_bytes() == "é\n".encode() and names(tmp_path) == {"plan.json"}
    with pytest.raises(OutputError, match="No such file or directory"):
        monkeypatch.undo()
        write_whole(tmp_path / "no" / "plan.json", "text")
