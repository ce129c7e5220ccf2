"""What clients notice of faults: a worker killed or stopped, the service's end, bombs among the images, another version, a full disk.

`python -m benchmarks.serving.faults` serves a small CLIP with two workers and asks it, in open loop at a third of its capacity, for the
vector of an image, while the fault happens. Every answer is compared with the right one. `--only NAME` takes one fault.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import shutil
import signal
import struct
import tempfile
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.passlines import PassLine, finish, table
from benchmarks.serving.load import find_port
from benchmarks.serving.open_loop import BROKEN, NOT_OPENED, WRONG, Load, Target, measure_capacity, send_openly
from benchmarks.serving.running import Running, hold_service, make_command

SECONDS, FAULT_AT, SHARE = 10.0, 3.0, 0.33
NEAR = 1e-4


def write_models(folder: Path) -> tuple[Path, Path]:
    """Two versions of a small CLIP, exported."""
    from trimodal.exporting.export import export
    from trimodal.networks.tiny import write_miniature

    made = []
    for seed in (0, 1):
        place = write_miniature("clip", folder / f"version{seed}", seed)
        export(str(place), "onnx", place / "onnx")
        made.append(place)
    return made[0], made[1]


def make_image(seed: int = 0) -> bytes:
    """A PNG of 64 × 64."""
    sink = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(sink, "PNG")
    return sink.getvalue()


def make_bomb() -> bytes:
    """A PNG of a few hundred kB whose text unfolds to 300 MB."""
    image = make_image()
    content = b"a\0\0" + zlib.compress(b"0" * 300_000_000)
    chunk = struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))
    return image[:33] + chunk + image[33:]


def make_target(port: int, image: bytes, rights: list[list[float]]) -> Target:
    """The vector of `image`; right is any of `rights`, near enough for rounding, or whatever comes where there are none."""
    body = json.dumps({"model": "clip", "image": base64.b64encode(image).decode()}).encode()

    def is_right(answer: bytes) -> bool:
        found = json.loads(answer)["answers"][0].get("embedding", [])
        return not rights or any(len(found) == len(right) and max(abs(a - b) for a, b in zip(found, right)) < NEAR for right in rights)

    return Target(port, "/embed", body, is_right=is_right)


@contextmanager
def run_model(folder: Path, scratch: Path, full_disk: bool = False) -> Iterator[Running]:
    """`folder` served by two workers."""
    port, log = find_port(), scratch / f"log{time.monotonic_ns()}"
    command = make_command(f"clip={folder}", "--port", str(port), "--workers", "2", "--watch", "0.5")
    with hold_service(command, port, log, sink=Path("/dev/full") if full_disk else None) as running:
        yield running


async def ask_once(port: int) -> list[float]:
    """The right answer, from a server that nothing has happened to."""
    found: list[list[float]] = []

    def keep(answer: bytes) -> bool:
        found.append(json.loads(answer)["answers"][0]["embedding"])
        return True

    target = make_target(port, make_image(), [])
    await measure_capacity(Target(port, target.path, target.body, is_right=keep), clients=1, seconds=0.3, warm_up=0)
    return found[0]


@dataclass(frozen=True)
class Outcome:
    """What clients saw of a fault; `recovery` is the seconds until there were as many workers as before, where one was lost."""

    name: str
    load: Load
    recovery: float | None = None
    note: str = ""


async def load_with_fault(running: Running, rights: list[list[float]], rate: float, fault: Callable[[], Awaitable[Any]]) -> Load:
    """Load, and in its midst the fault."""

    async def happen() -> None:
        await asyncio.sleep(FAULT_AT)
        await fault()

    load, _ = await asyncio.gather(send_openly(make_target(running.port, make_image(), rights), rate, SECONDS, 0, warm_up=1.0), happen())
    return load


async def lose_worker(running: Running, number: signal.Signals) -> float:
    """One worker gets a signal: how long until another has taken its place."""
    before, begun = running.count("worker_ready"), time.monotonic()
    os.kill(running.list_workers()[0], number)
    while running.count("worker_ready") == before and time.monotonic() - begun < 30:
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


def try_signal(name: str, number: signal.Signals, folder: Path, scratch: Path) -> Outcome:
    """A worker is killed, or stands still."""
    with run_model(folder, scratch) as running:
        rate, right = measure_usual(running)
        times: list[float] = []

        async def fault() -> None:
            times.append(await lose_worker(running, number))

        return Outcome(name, asyncio.run(load_with_fault(running, [right], rate, fault)), times[0])


def try_end(folder: Path, scratch: Path) -> Outcome:
    """SIGTERM to the service, under load."""
    with run_model(folder, scratch) as running:
        rate, right = measure_usual(running)

        async def fault() -> None:
            running.process.send_signal(signal.SIGTERM)

        load = asyncio.run(load_with_fault(running, [right], rate, fault))
        return Outcome("SIGTERM", load, note=f"exit code {running.process.wait(40)}")


def try_bombs(folder: Path, scratch: Path) -> tuple[Outcome, Outcome]:
    """Good requests alone, and with a quarter as many bombs among them: 20 % of the traffic."""
    with run_model(folder, scratch) as running:
        rate, right = measure_usual(running)
        good = make_target(running.port, make_image(), [right])
        alone = asyncio.run(send_openly(good, rate, SECONDS, 0, warm_up=1.0))

        async def both() -> tuple[Load, Load]:
            bad = make_target(running.port, make_bomb(), [])
            return await asyncio.gather(
                send_openly(good, 0.8 * rate, SECONDS, 0, warm_up=1.0), send_openly(bad, 0.2 * rate, SECONDS, 1, warm_up=1.0)
            )  # fmt: skip

        mixed, bombs = asyncio.run(both())
        return Outcome("no bombs", alone), Outcome("20 % bombs", mixed, note=f"bombs: {dict(bombs.statuses)}")


def try_swap(first: Path, second: Path, scratch: Path) -> Outcome:
    """The folder is replaced by another version."""
    with run_model(second, scratch) as running:
        other = asyncio.run(ask_once(running.port))
    place = scratch / "served"
    shutil.copytree(first, place)
    with run_model(place, scratch) as running:
        rate, right = measure_usual(running)

        async def fault() -> None:
            shutil.copytree(second, scratch / "next")
            place.rename(scratch / "old")
            (scratch / "next").rename(place)

        load = asyncio.run(load_with_fault(running, [right, other], rate, fault))
        after = asyncio.run(ask_once(running.port))
        new = max(abs(a - b) for a, b in zip(after, other)) < NEAR
        return Outcome("artifact swapped", load, note="the new one answers" if new else "the OLD one answers")


def try_full_disk(folder: Path, scratch: Path) -> Outcome:
    """Nothing can be written: logs go to a device that is full."""
    with run_model(folder, scratch, full_disk=True) as running:
        rate, right = measure_usual(running)

        async def nothing() -> None:
            return None

        return Outcome("full disk", asyncio.run(load_with_fault(running, [right], rate, nothing)))


def measure_usual(running: Running) -> tuple[float, list[float]]:
    """The rate of the load, and the right answer."""
    right = asyncio.run(ask_once(running.port))
    capacity = asyncio.run(measure_capacity(make_target(running.port, make_image(), [right]), seconds=2.0, warm_up=1.0))
    return max(SHARE * capacity, 5.0), right


def describe(outcomes: list[Outcome]) -> str:
    """The table."""
    rows = [
        (
            one.name, f"{one.load.rate:.0f}", str(one.load.statuses[200]), str(one.load.statuses[BROKEN]), str(one.load.statuses[WRONG]),
            str(sum(one.load.statuses[s] for s in (429, 503, NOT_OPENED))), f"{1e3 * one.load.quantile(0.99):.0f}",
            "" if one.recovery is None else f"{one.recovery:.2f}", one.note,
        )
        for one in outcomes
    ]  # fmt: skip
    return table(("fault", "asked / s", "answered", "broken", "wrong", "turned away", "p99, ms", "recovered, s", ""), rows)


def judge(outcomes: list[Outcome]) -> list[PassLine]:
    """The lines, fixed before: serving.md §3.1."""
    by_name = {one.name: one for one in outcomes}
    found = [PassLine("wrong answers", sum(one.load.statuses[WRONG] for one in outcomes), most=0)]
    for name in ("kill -9 of a worker", "SIGSTOP of a worker"):
        if (one := by_name.get(name)) is not None:
            late = [when for _, when, status in one.load.others if status == BROKEN and when > FAULT_AT + (one.recovery or 0) + 2]
            found.append(PassLine(f"{name}: broken after it was replaced", len(late), most=0))
    if (one := by_name.get("kill -9 of a worker")) is not None and one.recovery is not None:
        found.append(PassLine("kill -9: seconds until it was replaced", one.recovery, most=2))
    if (one := by_name.get("SIGTERM")) is not None:  # what is sent later may find a door that is being closed
        lost = [at for at, _, status in one.load.others if status == BROKEN and at < FAULT_AT]
        found.append(PassLine("SIGTERM: sent before it and not answered", len(lost), most=0))
    for name in ("artifact swapped", "full disk", "20 % bombs"):
        if (one := by_name.get(name)) is not None:
            found.append(PassLine(f"{name}: accepted and not answered", one.load.statuses[BROKEN], most=0))
    if "20 % bombs" in by_name:
        ratio = by_name["20 % bombs"].load.quantile(0.99) / by_name["no bombs"].load.quantile(0.99)
        found.append(PassLine("p99 of good requests with bombs over without", ratio, most=2))
    if (one := by_name.get("artifact swapped")) is not None:
        failed = sum(count for status, count in one.load.statuses.items() if status != 200)
        found.append(PassLine("artifact swapped: requests that failed", failed, most=0))
        found.append(PassLine("artifact swapped: the new one answers", float("new" in one.note), least=1))
    return found


def main() -> None:
    """The table and the lines."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="faults with this in their name")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        first, second = write_models(scratch)
        tries: dict[str, Callable[[], list[Outcome]]] = {
            "kill": lambda: [try_signal("kill -9 of a worker", signal.SIGKILL, first, scratch)],
            "stop": lambda: [try_signal("SIGSTOP of a worker", signal.SIGSTOP, first, scratch)],
            "end": lambda: [try_end(first, scratch)],
            "bombs": lambda: list(try_bombs(first, scratch)),
            "swap": lambda: [try_swap(first, second, scratch)],
            "disk": lambda: [try_full_disk(first, scratch)],
        }  # fmt: skip
        outcomes = [one for name, attempt in tries.items() if asked.only in name for one in attempt()]
    print(describe(outcomes))
    finish(judge(outcomes))


if __name__ == "__main__":
    main()
