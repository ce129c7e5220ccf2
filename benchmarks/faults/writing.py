"""Two runs on one place, kills, full disks and odd places: what was written is whole, or as it was."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.faults.trying import expect
from trimodal import pipeline
from trimodal.errors import OutputError
from trimodal.networks.tiny import write_miniature

_CLOCK = re.compile(r"\btime\.time\(|\bdatetime\.(now|utcnow)\(|\bos\.getpid\(|\.st_[mc]time\b")


def two_runs_on_one_place(folder: Path) -> str:
    """Two runs without --force at once, a third that is killed, and the odd places of one family."""
    model, out = write_miniature("bert", folder / "model"), folder / "out"
    one, other = (begin(model, out) for _ in range(2))
    ends = sorted((run.wait(), run.stderr.read().strip() if run.stderr else "") for run in (one, other))
    expect([code for code, _ in ends] == [0, 2], f"two runs on one place ended with {ends}")
    expect("was filled" in ends[1][1] or "is not empty" in ends[1][1], f"the second said: {ends[1][1]}")
    said = " ".join(ends[1][1].partition("error: ")[2].split())
    before = content(out)
    kill_while_writing(model, out, folder)
    expect(content(out) == before, "a killed run changed the folder that it was to replace")
    with contextlib.chdir(model):
        for place, words in odd_places(folder).items():
            said = refusal(model, place)
            expect(words in said, f"-o {place:.40} was answered with: {said}")
    expect(content(out) == before, "a refused run changed a folder")
    left = [path.name for path in folder.iterdir() if path.name not in ("model", "out", "file", "link")]
    expect(not left, f"left behind: {left}")
    source = Path(__file__).resolve().parents[2] / "src"
    clocks = [str(file) for file in source.rglob("*.py") if _CLOCK.search(file.read_text(encoding="utf-8"))]
    expect(not clocks, f"names or order depend on a clock or a process number in {clocks}")
    return f"one wrote, the other was told so ({said[:60]} …); a kill left the old folder and no litter"


def refusal(model: Path, place: str) -> str:
    """What is said to an output place."""
    try:
        pipeline.compress(str(model), "int8", None, place)
    except OutputError as error:
        return str(error)
    return "nothing"


def odd_places(folder: Path) -> dict[str, str]:
    """Places that cannot be written to, and what the refusal says."""
    (folder / "file").touch()
    (folder / "link").symlink_to("file")
    return {
        "..": "is not empty", ".": "is not empty", str(folder / "file"): "is a file", str(folder / "link"): "is a file",
        "/": "is a file system of its own", str(folder / "file" / "out"): "Not a directory", "x" * 300: "more than 255 bytes",
        "/proc/out": "could not be written",
    }  # fmt: skip


def begin(model: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    """Begin to compress."""
    command = [sys.executable, "-m", "trimodal", "compress", str(model), "-r", "int8", "-d", "none", "-o", str(out), *more]
    path = os.pathsep.join(p or str(Path.cwd()) for p in sys.path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def kill_while_writing(model: Path, out: Path, folder: Path) -> None:
    """Kill a run that is to replace `out` while it writes."""
    run = begin(model, out, "--force")
    while run.poll() is None and not list(folder.glob(".*part/new/record.jsonl")) and not list(folder.glob(".*part/record.jsonl")):
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    expect(run.wait() == -signal.SIGKILL, "the run was over before it could be killed")


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


ENTRIES = {"1.13": two_runs_on_one_place}
