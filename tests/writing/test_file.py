"""Text files: whole or as they were, whatever the place is."""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from every_step import at_step, forked, names

from trimodal.errors import OutputError
from trimodal.writing import file as module
from trimodal.writing import write_text_atomically


def test_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "plan.json"
    write_text_atomically(file, "é\n")
    assert file.read_bytes() == "é\n".encode() and names(tmp_path) == {"plan.json"}

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "sync_path", full)
    with pytest.raises(OutputError, match=r"the disk is full: .*plan.json"):
        write_text_atomically(file, "other")
    assert file.read_bytes() == "é\n".encode() and names(tmp_path) == {"plan.json"}
    monkeypatch.undo()
    with pytest.raises(OutputError, match="No such file or directory"):
        write_text_atomically(tmp_path / "no" / "plan.json", "text")


def test_kill_before_the_rename_is_cleared_by_the_next(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    write_text_atomically(file, "old")

    def run() -> None:
        with at_step("os.rename", lambda: os.kill(os.getpid(), signal.SIGKILL)):
            write_text_atomically(file, "new")

    assert forked(run) == [-signal.SIGKILL]
    assert file.read_text() == "old" and len(names(tmp_path)) == 2
    write_text_atomically(tmp_path / "other", "text")
    assert names(tmp_path) == {"plan.json", "other"}


def test_many_at_once(tmp_path: Path) -> None:
    """Each is whole, the last one stands, and none takes another's for the leftover of a dead one."""
    texts = [str(n) * 100_000 for n in range(6)]
    codes = forked(*[lambda text=text: write_text_atomically(tmp_path / "file", text) for text in texts])
    assert codes == [0] * 6 and (tmp_path / "file").read_text() in texts and names(tmp_path) == {"file"}


def test_links_are_followed_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    write_text_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """Renaming onto /dev/null as root would take it away from everybody."""
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text_atomically(tmp_path / "pipe", "text")
    reader.join()
    assert read == ["text"] and (tmp_path / "pipe").is_fifo()
    (tmp_path / "null").symlink_to("/dev/null")
    write_text_atomically(tmp_path / "null", "text")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OutputError, match="is a folder; expected a file"):
        write_text_atomically(tmp_path, "text")
    with pytest.raises(OutputError, match="more than 255 bytes"):
        write_text_atomically(tmp_path / ("x" * 256), "text")


def test_gone_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OutputError, match="counts from the current folder, which is gone"):
        write_text_atomically(Path("plan.json"), "text")


def test_signal_waits_for_the_whole_file(tmp_path: Path) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    kept = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(KeyboardInterrupt), at_step("os.rename", lambda: signal.raise_signal(signal.SIGTERM)):
            write_text_atomically(tmp_path / "file", "text")
    finally:
        signal.signal(signal.SIGTERM, kept)
    assert names(tmp_path) == {"file"} and (tmp_path / "file").read_text() == "text"
