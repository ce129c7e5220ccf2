"""Kill and stop `trimodal compress` at random moments, and damage what it wrote in random ways: is anything lost, half there, or believed?

    python -m benchmarks.kills [--kills 100] [--stops 24] [--damages 200] [--seed 0] [--at-once 2]

Every try is the whole command in a process of its own, forked from one that has imported what it needs. A half of the kills comes
at any time of the run; a quarter at any step of the file system from the first one of writing on; a quarter at one of the last
steps, where the new folder is put in its place. Half of all run with --force over an old artifact. After each the place must
hold what it held before, bit for bit, or a whole new artifact; then one other run that writes beside it must leave nothing of the
killed one, in the folder or in TMPDIR. Stops by SIGTERM, Ctrl-C and a closed terminal must leave nothing themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.passlines import PassLine, finish, table

LAST_STEPS = 45
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@dataclass(frozen=True)
class Moment:
    """When a run is ended: after `seconds`, or before the step `step` of the file system; and by what."""

    force: bool
    kind: str
    seconds: float = 0.0
    step: int = 0
    signal: int = signal.SIGKILL


@dataclass(frozen=True)
class Came:
    """What a run left: `old`, `new`, `absent` or `half` in its place, the names of litter, its exit code."""

    kind: str
    force: bool
    place: str
    litter: list[str]
    code: int


@dataclass(frozen=True)
class Ground:
    """The model, an old artifact, and what a whole run of each kind takes: seconds and steps, by whether it replaces."""

    root: Path
    seconds: dict[bool, float]
    steps: dict[bool, int]
    files: frozenset[str]

    @property
    def model(self) -> Path:
        return self.root / "clip"

    @property
    def old(self) -> Path:
        return self.root / "old"


def prepare(root: Path) -> Ground:
    """Write model and old artifact in this process, which imports all; then measure a whole run of each kind."""
    from trimodal import pipeline
    from trimodal.networks.tiny import write_miniature

    write_miniature("clip", root / "clip")
    pipeline.compress(str(root / "clip"), "int8", None, root / "old", seed=7)
    bare = Ground(root, {}, {}, frozenset())
    for force in (False, True):
        here = root / f"whole-{force}"
        start = time.perf_counter()
        child = begin(bare, here, Moment(force, "whole"), here / "steps")
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != 0:
            raise SystemExit(f"a run that nobody disturbs ended with {code}: {(here / 'said').read_text()}")
        bare.seconds[force], bare.steps[force] = time.perf_counter() - start, int((here / "steps").read_text())
    return Ground(root, bare.seconds, bare.steps, frozenset(digests(root / "whole-False" / "home" / "out")))


def begin(ground: Ground, here: Path, moment: Moment, count: Path | None = None) -> int:
    """Begin one run in the empty folder `here`; its process id."""
    (here / "home").mkdir(parents=True)
    (here / "tmp").mkdir()
    if moment.force:
        shutil.copytree(ground.old, here / "home" / "out")
    arguments = ["compress", ground.model, "-r", "int8", "-d", "none", "-o", here / "home" / "out"]
    return fork(here, [*arguments, *(["--force"] if moment.force else [])], moment, count)


def fork(here: Path, arguments: Sequence[str | Path], moment: Moment, count: Path | None = None) -> int:
    """The command line in a process of its own, with a TMPDIR of its own."""
    child = os.fork()
    if child:
        return child
    try:
        os.setpgid(0, 0)
        with (here / "said").open("a") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        tempfile.tempdir, os.environ["TMPDIR"] = None, str(here / "tmp")
        for number in STOPS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        counted = count_steps(moment)
        from trimodal import cli

        sys.argv = ["trimodal", *map(str, arguments)]
        try:
            cli.main()
        except SystemExit as done:
            if count is not None:
                count.write_text(str(counted[0]))
            os._exit(done.code if isinstance(done.code, int) else 99)
    finally:
        os._exit(99)


def count_steps(moment: Moment) -> list[int]:
    """Count the steps of the file system, from the first that has to do with writing on; end the process at one of them."""
    counted = [0]

    def step(event: str, arguments: Any) -> None:
        if event.startswith(("open", "os.", "shutil.", "fcntl.")) and (counted[0] or ".part" in str(arguments[:1])):
            counted[0] += 1
            if counted[0] == moment.step:
                os.kill(os.getpid(), moment.signal)

    sys.addaudithook(step)
    return counted


def attempt(ground: Ground, here: Path, moment: Moment) -> Came:
    """Run, end it, look, and let another run clear up. A run that was over before its kill is run again and killed earlier."""
    came = attempt_once(ground, here, moment)
    if moment.signal == signal.SIGKILL and came.code == 0:
        return attempt(ground, here, replace(moment, seconds=moment.seconds * 0.8, step=max(0, moment.step - LAST_STEPS)))
    return came


def attempt_once(ground: Ground, here: Path, moment: Moment) -> Came:
    """Run, end it, look, and let another run clear up."""
    child = begin(ground, here, moment)
    if not moment.step:
        time.sleep(moment.seconds)
        os.kill(child, moment.signal)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    place = standing(ground, here / "home" / "out", moment.force)
    if moment.signal == signal.SIGKILL:
        arguments = ["pack", ground.old, "--pack", "entropy", "-o", here / "home" / "next"]
        after = os.waitstatus_to_exitcode(os.waitpid(fork(here, arguments, Moment(False, "next")), 0)[1])
        if after != 0:
            raise SystemExit(f"the next run ended with {after}: {(here / 'said').read_text()}")
    litter = [path.name for path in (*(here / "home").iterdir(), *(here / "tmp").iterdir()) if path.name not in ("out", "next")]
    if place != standing(ground, here / "home" / "out", moment.force):
        place = "half"
    end_group(child)
    shutil.rmtree(here)
    return Came(moment.kind, moment.force, place, litter, code)


def end_group(child: int) -> None:
    """End the processes that a killed run had begun."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return


def standing(ground: Ground, place: Path, force: bool) -> str:
    """What stands in the place."""
    from trimodal.errors import TrimodalError
    from trimodal.formats.artifact import check_listed_files, read_manifest

    if not place.exists():
        return "lost" if force else "absent"
    found = digests(place)
    if force and found == digests(ground.old):
        return "old"
    try:
        check_listed_files(place, read_manifest(place))
    except TrimodalError:
        return "half"
    return "new" if found.keys() == ground.files else "half"


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file."""
    from trimodal.writing.sums import sha256

    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def moments(ground: Ground, kills: int, stops: int, chance: random.Random) -> list[Moment]:
    """When each run is ended."""
    found = []
    for number in range(kills):
        force = number % 2 == 1
        last = ground.steps[force]
        if number % 4 < 2:
            found.append(Moment(force, "any time", seconds=chance.uniform(0, ground.seconds[force])))
        elif number % 8 < 4:
            found.append(Moment(force, "any step of writing", step=chance.randint(1, last)))
        else:
            found.append(Moment(force, "the last steps", step=chance.randint(last - LAST_STEPS, last)))
    for number in range(stops):
        force, by = number % 2 == 1, STOPS[number % len(STOPS)]
        if number % 4 < 2:
            found.append(Moment(force, by.name, seconds=chance.uniform(0, ground.seconds[force]), signal=by))
        else:
            found.append(Moment(force, by.name, step=chance.randint(1, ground.steps[force]), signal=by))
    return found


def in_turns(tasks: Sequence[Callable[[], Came]], at_once: int, root: Path) -> list[Came]:
    """Carry tasks out in so many processes."""
    workers = []
    for number in range(at_once):
        worker = os.fork()
        if not worker:
            try:
                with (root / f"came-{number}").open("w", buffering=1) as came:
                    for task in tasks[number::at_once]:
                        came.write(json.dumps(asdict(task())) + "\n")
                os._exit(0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            finally:
                os._exit(1)
        workers.append(worker)
    if any(os.waitpid(worker, 0)[1] for worker in workers):
        raise SystemExit(1)
    return [Came(**json.loads(line)) for n in range(at_once) for line in (root / f"came-{n}").read_text().splitlines()]


def shown(came: Sequence[Came]) -> str:
    """How often each end came, by kind."""
    rows = []
    for kind in dict.fromkeys(one.kind for one in came):
        for force in (False, True):
            alike = [one for one in came if (one.kind, one.force) == (kind, force)]
            counts = Counter(one.place for one in alike)
            before = "old" if force else "absent"
            rows.append((
                kind, "--force over an old one" if force else "nothing there", str(len(alike)), str(counts[before]),
                str(counts["new"]), str(counts["lost"]), str(counts["half"]), str(sum(bool(one.litter) for one in alike)),
                " ".join(map(str, sorted({one.code for one in alike}))),
            ))  # fmt: skip
    columns = ("ended at or by", "before", "runs", "as before", "whole new", "lost", "half", "litter", "exit codes")
    return table(columns, [row for row in rows if row[2] != "0"])


def lines_of(came: Sequence[Came]) -> list[PassLine]:
    """What must hold."""
    killed = [one for one in came if not one.kind.startswith("SIG")]
    stopped = [one for one in came if one.kind.startswith("SIG")]
    wrong = [one for one in stopped if one.code not in (0, 128 + signal.Signals[one.kind]) or (one.code == 0 and one.place != "new")]
    return [
        PassLine("runs that were killed", sum(one.code == -signal.SIGKILL for one in killed), least=len(killed)),
        PassLine("kills: lost", sum(one.place == "lost" for one in killed), most=0),
        PassLine("kills: half-written", sum(one.place == "half" for one in killed), most=0),
        PassLine("kills: litter after the next run", sum(bool(one.litter) for one in killed), most=0),
        PassLine("stops: lost, half-written or litter", sum(one.place in ("lost", "half") or bool(one.litter) for one in stopped), most=0),
        PassLine("stops: exit code other than 128 and the signal's number", len(wrong), most=0),
    ]


def main() -> None:
    """Kills and stops, then damages."""
    from benchmarks.damages import damage_many

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--stops", type=int, default=24)
    parser.add_argument("--damages", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=2)
    asked = parser.parse_args()
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.set_num_threads(1)
    for name, value in {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}.items():
        os.environ[name] = value
    lines: list[PassLine] = []
    with tempfile.TemporaryDirectory() as folder:
        root, chance = Path(folder), random.Random(asked.seed)
        if asked.kills or asked.stops:
            ground = prepare(root)
            print(f"a whole run: {ground.seconds[False]:.1f} s, {ground.steps[False]} steps of the file system\n", flush=True)
            planned = moments(ground, asked.kills, asked.stops, chance)
            tasks = [lambda n=n, one=one: attempt(ground, root / f"try-{n}", one) for n, one in enumerate(planned)]
            came = in_turns(tasks, asked.at_once, root)
            print(shown(came), flush=True)
            lines += lines_of(came)
        if asked.damages:
            more, shown_damages = damage_many(root, asked.damages, chance)
            print(f"\n{shown_damages}\n", flush=True)
            lines += more
    finish(lines)


if __name__ == "__main__":
    main()
