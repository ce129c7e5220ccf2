"""A folder is written, and disturbed at its first step of the file system, then at its second, and so on to the last.

    python tests/writing/every_step.py kill|failure|signal one|two old|absent FOLDER

Each time is a process of its own, forked from this one, which is small: it must not hold torch.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trimodal.errors import OutputError
from trimodal.writing import check_output_place, open_atomic_folder, renaming

_STEPS = ("open", "os.", "shutil.", "fcntl.")
_UNDISTURBED = 3
_on_step: list[Callable[[str], None]] = []


def _hook(event: str, arguments: Any) -> None:
    if _on_step and event.startswith(_STEPS):
        _on_step[-1](event)


sys.addaudithook(_hook)  # which cannot be taken away again


@contextmanager
def at_step(name: str, disturb: Callable[[], None]) -> Iterator[None]:
    """Call `disturb` before every step called `name`."""
    _on_step.append(lambda event: disturb() if event == name else None)
    try:
        yield
    finally:
        _on_step.pop()


def forked(*tasks: Callable[[], int | None]) -> list[int]:
    """Exit codes of tasks, each in a process of its own, all at once. A negative one is the signal that killed it."""
    running = [_start(task) for task in tasks]
    return [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in running]


def _start(task: Callable[[], int | None]) -> int:
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        code = task() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def names(folder: Path) -> set[str]:
    """All that is in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def write(place: Path, force: bool = True) -> None:
    """What a run does."""
    with open_atomic_folder(place, force) as part:
        (part / "sub").mkdir()
        (part / "sub" / "new").write_text("new")
        (part / "other").write_text("new")


def state(place: Path) -> str:
    """What stands in the place: old, new, absent, or a part."""
    if not place.exists():
        return "absent"
    found = {name: (place / name).read_text() for name in names(place) if (place / name).is_file()}
    known = {(("old", "old"),): "old", (("other", "new"), ("sub/new", "new")): "new"}
    return known.get(tuple(sorted(found.items())), "part")


def restore(place: Path, what: str) -> None:
    """Put the old folder in the place, or nothing."""
    with open_atomic_folder(place, force=True) as part:
        (part / "old").write_text("old")
    if what == "absent":
        (place / "old").unlink()
        place.rmdir()


def disturbed_write(place: Path, how: str, step: int) -> int:
    """Write and be disturbed at one step. A clear error is followed by the old folder, none by the new one."""
    left, expected = step, "new"

    def on_step(event: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            _DISTURB[how]()

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    before = state(place)
    _on_step.append(on_step)
    try:
        write(place)
    except OutputError:
        expected = before
    except KeyboardInterrupt:
        expected = state(place)
    else:
        assert left > 0 or how == "failure", "the signal was lost"
    finally:
        _on_step.clear()
    assert state(place) == expected and expected in (before, "new"), expected
    return _UNDISTURBED if left > 0 else 0


def _fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


_DISTURB: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "failure": _fail,
    "signal": lambda: signal.raise_signal(signal.SIGTERM),
}


def check(place: Path, root: Path, before: str, how: str, way: str) -> None:
    """Nothing was lost, nothing is half there, and nothing is left, if need be after what the next run begins with."""
    came = state(place)
    gone = way == "two" and how == "kill"  # two steps have a moment between them
    assert came in {before, "new", *(["absent"] if gone else [])}, came
    left = [name for name in names(root) if ".part" in name]
    assert how != "signal" or not left, left
    check_output_place(place, force=True)
    assert state(place) == came or (came, state(place)) == ("absent", "old"), (came, state(place))
    left = [name for name in names(root) if ".part" in name]
    assert not left, left


def main() -> None:
    """Disturb at each step, and say how many there were."""
    how, way, before, folder = sys.argv[1:]
    root, place = Path(folder), Path(folder, "deep", "out")
    os.fsync = lambda opened: None  # nobody cuts the power off here
    if way == "two":
        renaming._find_exchange_call = lambda: None  # type: ignore[assignment]
    restore(place, before)
    for step in range(1, 1000):
        (code,) = forked(lambda step=step: disturbed_write(place, how, step))  # type: ignore[misc]
        assert code in (0, _UNDISTURBED, -signal.SIGKILL), f"step {step}: exit code {code}"
        check(place, root, before, how, way)
        restore(place, before)
        if code == _UNDISTURBED:
            print(step)
            return
    raise AssertionError("there is no end")


if __name__ == "__main__":
    main()
