"""More than one instance: nginx before two of `trimodal serve`, and two replicas on Ray Serve, each beside one; and a new version.

`python -m benchmarks.serving.scale` serves a small CLIP, one worker of one thread per instance. Throughput is that of 16 clients that ask
again when they are answered, in rounds that alternate behind nginx; a cluster of Ray is begun for one replica and another one for two. A
rolling update happens under an open loop at a third of the capacity of one, and every answer has to be 200. `--only nginx` or `--only ray`
takes one of the two; `--quick` is one short round. The second table says how many processors each part kept busy meanwhile, by the
kernel's count: servers (on Ray with all of its processes but the proxy), what stands before them (nginx, Ray's proxy), and clients.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.passlines import PassLine, finish, table
from benchmarks.serving.faults import SHARE, make_image, make_target, write_models
from benchmarks.serving.load import find_port, wait_until_ready
from benchmarks.serving.open_loop import Load, measure_capacity, send_openly

ROUNDS, SECONDS = 3, 6.0
CLIENTS = 16
WORTH = {"nginx": 1.3, "ray": 1.2}
"""What two must do at the least beside one: on two processors, which the clients and the balancer need as well, twice is out of reach."""
DRAIN_SECONDS = 40
START_SECONDS, RAY_SECONDS = 180.0, 240.0
_TICK = os.sysconf("SC_CLK_TCK")
_BEFORE = (b"nginx", b"ProxyActor")


@dataclass
class Instance:
    """One process of `trimodal serve`, and where it listens."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def end(self) -> None:
        """SIGTERM, and wait for the end; killed where it does not come."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(DRAIN_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_instance(folder: Path, scratch: Path, port: int, *options: str, seconds: float = START_SECONDS) -> Instance:
    """Serve `folder`, and wait until it is ready."""
    log = scratch / f"log{time.monotonic_ns()}"
    command = [sys.executable, "-m", "trimodal", "serve", f"clip={folder}", "--port", str(port), "--threads", "1", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment, process_group=0)
    found = Instance(process, port, folder)
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}/v2/health/ready", log, seconds)
    except RuntimeError:
        found.end()
        raise
    return found


@contextmanager
def run_nginx(ports: Sequence[int], folder: Path, scratch: Path) -> Iterator[Instance]:
    """Nginx before these ports, with the configuration that `trimodal package --for compose` writes."""
    from trimodal.packaging.bundle import read_bundle
    from trimodal.packaging.compose import write_nginx

    port, place = find_port(), scratch / f"nginx{time.monotonic_ns()}"
    place.mkdir()
    file = place / "nginx.conf"
    listen = f"127.0.0.1:{port}"
    servers = [f"127.0.0.1:{one}" for one in ports]
    errors = str(place / "errors.log")
    user = "root" if os.geteuid() == 0 else ""  # another one could not write into this folder
    bundle = read_bundle(folder / "onnx", name="clip")
    file.write_text(write_nginx(bundle, servers, listen=listen, user=user, folder=str(place), errors=errors))
    process = subprocess.Popen(["nginx", "-g", "daemon off;", "-e", errors, "-c", str(file)], process_group=0)
    try:
        wait_until_ready(process, f"http://{listen}/v2/health/ready", Path(errors))
        yield Instance(process, port, place)
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(DRAIN_SECONDS)


@dataclass(frozen=True)
class Throughput:
    """Answers in a second, and how many processors servers, balancer and clients kept busy for them."""

    answers: float
    servers: float
    balancer: float
    clients: float


@dataclass(frozen=True)
class Scaled:
    """What one and two answered, round by round, and what came of the load during a rolling update."""

    name: str
    one: Sequence[Throughput]
    two: Sequence[Throughput]
    update: Load
    update_seconds: float

    @property
    def ratios(self) -> list[float]:
        """Two over one, in each round."""
        return [two.answers / one.answers for one, two in zip(self.one, self.two)]

    @property
    def failed(self) -> int:
        """Requests during the update that were not answered with 200."""
        return sum(count for status, count in self.update.statuses.items() if status != 200)


def measure_throughput(port: int, seconds: float, instances: Sequence[Instance]) -> Throughput:
    """Answers in a second and their cost, after a second that is not counted."""
    target = make_target(port, make_image(), [])
    asyncio.run(measure_capacity(target, CLIENTS, 1.0, warm_up=0.0))
    before, own, begun = read_cpu_seconds(instances), time.process_time(), time.monotonic()
    answers = asyncio.run(measure_capacity(target, CLIENTS, seconds, warm_up=0.0))
    took = time.monotonic() - begun
    servers, balancer = ((now - earlier) / took for now, earlier in zip(read_cpu_seconds(instances), before))
    return Throughput(answers, servers, balancer, (time.process_time() - own) / took)


def read_cpu_seconds(instances: Sequence[Instance]) -> tuple[float, float]:
    """Of all processes that come from these and live now: those that serve, and those that stand before them."""
    found = [0.0, 0.0]
    waiting = [one.process.pid for one in instances]
    while waiting:
        place = Path(f"/proc/{waiting.pop()}")
        try:
            title = (place / "cmdline").read_bytes()
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            waiting += [int(child) for task in (place / "task").iterdir() for child in (task / "children").read_text().split()]
        except OSError:
            continue
        found[any(name in title for name in _BEFORE)] += (int(fields[11]) + int(fields[12])) / _TICK
    return found[0], found[1]


def update_under_load(port: int, rate: float, update: Callable[[], None]) -> tuple[Load, float]:
    """The load, which lasts a little longer than the update; and how long that took."""
    took: list[float] = []

    async def run() -> Load:
        loop, begun = asyncio.get_running_loop(), time.monotonic()
        updating = loop.run_in_executor(None, update)
        loads = [await send_openly(make_target(port, make_image(), []), rate, 3.0, 0, warm_up=0.0)]
        while not updating.done():
            loads.append(await send_openly(make_target(port, make_image(), []), rate, 2.0, len(loads), warm_up=0.0))
        await updating
        took.append(time.monotonic() - begun)
        loads.append(await send_openly(make_target(port, make_image(), []), rate, 2.0, len(loads), warm_up=0.0))
        return add_loads(loads)

    return asyncio.run(run()), took[0]


def find_rate(one: Sequence[Throughput]) -> float:
    """Of the load during an update: a third of what one instance answers."""
    return max(SHARE * statistics.median(each.answers for each in one), 5.0)


def add_loads(loads: Sequence[Load]) -> Load:
    """One after the other."""
    latencies = [latency for load in loads for latency in load.latencies]
    statuses = sum((load.statuses for load in loads[1:]), loads[0].statuses)
    return Load(loads[0].rate, sum(load.seconds for load in loads), latencies, statuses)


def try_nginx(first: Path, second: Path, scratch: Path, rounds: int, seconds: float) -> Scaled:
    """Two instances behind nginx beside one behind nginx; then each is ended and started with the second version, one after the other."""
    with ExitStack() as stack:
        instances = [start_instance(first, scratch, find_port(), "--workers", "1") for _ in range(2)]
        stack.callback(lambda: [one.end() for one in instances])
        ports = [one.port for one in instances]
        alone = stack.enter_context(run_nginx(ports[:1], first, scratch))
        both = stack.enter_context(run_nginx(ports, first, scratch))
        pairs = [
            (measure_throughput(alone.port, seconds, [*instances, alone]), measure_throughput(both.port, seconds, [*instances, both]))
            for _ in range(rounds)
        ]

        def update() -> None:
            for number, old in enumerate(list(instances)):
                old.end()
                instances[number] = start_instance(second, scratch, old.port, "--workers", "1")

        one, two = zip(*pairs)
        load, took = update_under_load(both.port, find_rate(one), update)
        return Scaled("nginx before trimodal serve", one, two, load, took)


def try_ray(first: Path, second: Path, scratch: Path, rounds: int, seconds: float) -> Scaled:
    """Two replicas beside one, each cluster started once; then SIGHUP after the link that is served leads to the second version."""
    link = scratch / "served"
    link.symlink_to(first)
    with ExitStack() as stack:
        one = start_instance(link, scratch, find_port(), "--engine", "ray", "--workers", "1", seconds=RAY_SECONDS)
        answered = [measure_throughput(one.port, seconds, [one]) for _ in range(rounds)]
        one.end()
        two = start_instance(link, scratch, find_port(), "--engine", "ray", "--workers", "2", seconds=RAY_SECONDS)
        stack.callback(two.end)
        doubled = [measure_throughput(two.port, seconds, [two]) for _ in range(rounds)]

        def update() -> None:
            link.unlink()
            link.symlink_to(second)
            log = max(scratch.glob("log*"), key=lambda file: file.name)
            two.process.send_signal(signal.SIGHUP)
            until = time.monotonic() + RAY_SECONDS
            while "reloaded" not in log.read_text() and time.monotonic() < until:
                time.sleep(0.2)

        load, took = update_under_load(two.port, find_rate(answered), update)
        return Scaled("Ray Serve", answered, doubled, load, took)


def describe(found: Sequence[Scaled]) -> str:
    """The tables: medians, and the range of the rounds."""
    rows = [
        (
            one.name, *(_write_range([each.answers for each in rounds], "{:.0f}") for rounds in (one.one, one.two)),
            _write_range(one.ratios, "{:.2f}"), f"{one.update.rate:.0f}", f"{one.update_seconds:.0f}", str(one.update.statuses[200]),
            tell_failed(one), f"{1e3 * one.update.quantile(0.99):.0f}",
        )
        for one in found
    ]  # fmt: skip
    columns = (
        "", "one, answers / s", "two, answers / s", "two / one", "asked / s while updated", "update, s", "answered", "failed", "p99, ms",
    )  # fmt: skip
    busy = [
        (f"{one.name}, {count}", *(f"{statistics.median(read(each) for each in rounds):.2f}" for read in _PARTS))
        for one in found
        for count, rounds in (("one", one.one), ("two", one.two))
    ]
    return f"{table(columns, rows)}\n{table(('processors busy', 'servers', 'before them', 'clients'), busy)}"


_PARTS: tuple[Callable[[Throughput], float], ...] = (lambda one: one.servers, lambda one: one.balancer, lambda one: one.clients)


def tell_failed(one: Scaled) -> str:
    """How many failed, and with what: a status, or as `open_loop` counts."""
    others = ", ".join(f"{count} of {status}" for status, count in sorted(one.update.statuses.items()) if status != 200 and count)
    return f"{one.failed} ({others})" if others else "0"


def _write_range(numbers: Sequence[float], form: str) -> str:
    low, middle, high = (form.format(one) for one in (min(numbers), statistics.median(numbers), max(numbers)))
    return f"{middle} ({low} to {high})"


def judge(kind: str, found: Scaled) -> list[PassLine]:
    """The lines, fixed before."""
    return [
        PassLine(f"{found.name}: two over one", statistics.median(found.ratios), least=WORTH[kind]),
        PassLine(f"{found.name}: requests that failed while a new version came", found.failed, most=0),
    ]


def main() -> None:
    """The table and the lines."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("nginx", "ray"))
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    rounds, seconds = (1, 2.0) if asked.quick else (ROUNDS, SECONDS)
    tries = {"nginx": try_nginx, "ray": try_ray}
    from trimodal.benching.conditions import read_conditions

    what = f"a small CLIP, one worker of one thread each; {rounds} rounds of {seconds:g} s, {CLIENTS} clients"
    print(f"{read_conditions(1).describe()}; {what}")
    if shutil.which("nginx") is None and asked.only != "ray":
        sys.exit("nginx is not installed; apt-get install nginx-light, or give --only ray")
    found: dict[str, Scaled] = {}
    with tempfile.TemporaryDirectory() as name:
        first, second = write_models(Path(name))
        for kind in [asked.only] if asked.only else tries:
            found[kind] = tries[kind](first, second, Path(name), rounds, seconds)
    print(describe(list(found.values())))
    finish([line for kind, one in found.items() for line in judge(kind, one)])


if __name__ == "__main__":
    main()
