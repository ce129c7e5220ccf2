"""Rows 79, 81, 84 and 85: faults of operation, each at a service of its own. `benchmarks.serving.faults` has them under load."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.serving.bad_inputs.cases import Case, Found, Place, Row, post_json
from benchmarks.serving.bad_inputs.computing import hold_line, make_spin
from benchmarks.serving.bad_inputs.good import ADD, SUM, TENSORS
from benchmarks.serving.bad_inputs.sockets import CLOSED, Reply, as_json, make_request, read_reply, talk
from benchmarks.serving.load import find_port, wait_until_ready
from benchmarks.serving.running import (
    Running,
    end,
    list_family,
    make_command,
    make_surroundings,
    run_service,
)

_PATIENCE, _COMPUTE = 30.0, 4
_FOREVER = 10**12
_REPLACED = 2.0
"""Seconds, serving.md §3.1, on a machine that does nothing else."""


def list_rows() -> list[Row]:
    """The rows."""
    return [
        Row(79, "the folder is swapped while it is loaded; a partial copy", "the old version serves",
            [Case("a link to half a copy", attempt=_swap)]),
        Row(81, "a worker is killed (also for memory), stopped, or hangs in native code",
            "replaced; not ready meanwhile; only its requests fail", [
            Case("kill -9", attempt=lambda place: _lose(place, signal.SIGKILL)),
            Case("SIGSTOP", attempt=lambda place: _lose(place, signal.SIGSTOP), extra=True),
            Case(f"a call that never returns, --compute-seconds {_COMPUTE}", attempt=_hang),
        ], "running out of memory is a SIGKILL too"),
        Row(84, "SIGTERM under load, twice, SIGINT to the group", "drained, no orphans", [
            Case("SIGTERM under load", attempt=_drain), Case("SIGTERM twice", attempt=_end_twice),
            Case("SIGINT to the group", attempt=_interrupt),
        ]),
        Row(85, "a full disk, a read-only root, a small /dev/shm, a clock that jumps, no /proc", "stays up, says why", [
            Case("full disk", attempt=_fill_disk), Case("a read-only root, /dev/shm of 64 MB",
            attempt=_isolate("mount -t tmpfs -o size=64m none /dev/shm; mount -o remount,bind,ro /")),
            Case("a read-only root, no /dev/shm", attempt=_isolate("mount -t tmpfs -o ro none /dev/shm; mount -o remount,bind,ro /"),
            extra=True),
            Case("/dev/shm of 4 MB", attempt=_isolate("mount -t tmpfs -o size=4m none /dev/shm"), extra=True),
            Case("no /proc", attempt=_isolate("umount -l /proc"), extra=True),
            Case("the clock a day on, then back", attempt=_jump),
        ], "a clock that jumps is that of Python's time.time"),
    ]  # fmt: skip


def ask(port: int) -> str:
    """What is wrong with the answer to a good request, else ""."""
    try:
        reply = talk(port, post_json(ADD, {"inputs": TENSORS}), patience=_PATIENCE)
    except OSError as failed:
        return f"{type(failed).__name__}"
    told = as_json(reply)
    return "" if reply.status == 200 and told["outputs"][0]["data"] == SUM else f"{reply.status} {reply.body[:80]!r}"


def _is_ready(port: int) -> bool:
    return talk(port, make_request("/v2/health/ready", method="GET"), patience=5).status == 200


def _serve(place: Place, *options: str, workers: int = 2, model: Path | None = None):  # type: ignore[no-untyped-def]
    return run_service({"tensors": model or place.models["tensors"]}, place.scratch, *options, workers=workers)


def _wait_for(condition: Callable[[], bool], seconds: float = _PATIENCE) -> float:
    begun = time.monotonic()
    while not condition() and time.monotonic() - begun < seconds:
        time.sleep(0.01)
    return time.monotonic() - begun


def _swap(place: Place) -> Found:
    source, link = place.models["tensors"], place.scratch / "current"
    shutil.copytree(source, place.scratch / "v1")
    link.symlink_to(place.scratch / "v1")
    with _serve(place, "--watch", "0.3", workers=1, model=link) as running:
        for number, spoil in enumerate(("add.onnx", "export.json", "")):
            version = place.scratch / f"v{number + 2}"
            shutil.copytree(source, version)
            if spoil:
                data = (version / spoil).read_bytes()
                (version / spoil).write_bytes(data[: len(data) // 2])
            new = place.scratch / "new"
            new.symlink_to(version)
            new.rename(link)
            event = "reload_refused" if spoil else "reloaded"
            _wait_for(lambda event=event, count=number + 1: running.count(event) >= (count if event == "reload_refused" else 1))
            if fault := ask(running.port):
                return Found("broke", f"after version {number + 2}: {fault}")
        refused, reloaded = running.count("reload_refused"), running.count("reloaded")
    return Found("2 refused, 1 taken", "" if (refused, reloaded) == (2, 1) else f"{refused} were refused, {reloaded} taken")


def _lose(place: Place, number: signal.Signals) -> Found:
    with _serve(place) as running:
        before, ready = running.count("worker_ready"), list[bool]()
        os.kill(running.list_workers()[0], number)
        seconds, faults = _watch_return(running, before, ready)
    return _judge_return(seconds, ready, faults, _REPLACED if number == signal.SIGKILL else 15.0)


def _watch_return(running: Running, before: int, ready: list[bool]) -> tuple[float, list[str]]:
    """Ask until there are as many workers as before: the seconds, whether it called itself ready, and what went wrong."""
    faults, begun = list[str](), time.monotonic()
    while running.count("worker_ready") == before and time.monotonic() - begun < _PATIENCE:
        try:
            ready.append(_is_ready(running.port))
        except OSError:
            ready.append(False)
        time.sleep(0.02)
    seconds = time.monotonic() - begun
    _wait_for(lambda: _is_ready(running.port), 10)
    faults += [fault for _ in range(20) if (fault := ask(running.port))]
    return seconds, faults


def _judge_return(seconds: float, ready: Sequence[bool], faults: Sequence[str], most: float) -> Found:
    fault = f"then {faults[0]}" if faults else f"replaced after {seconds:.1f} s" if seconds > most else ""
    return Found(f"replaced in {seconds:.1f} s", fault or ("" if False in ready else "it called itself ready all the time"))


def _hang(place: Place) -> Found:
    with _serve(place, "--compute-seconds", str(_COMPUTE)) as running:
        before, ready, begun = running.count("worker_ready"), list[bool](), time.monotonic()
        with hold_line(running.port, make_spin(_FOREVER)) as line:
            seconds, faults = _watch_return(running, before, ready)
            broken = read_reply(line, begun)
        if broken.status != CLOSED:
            faults.insert(0, f"the request that hung got {broken.status}")
    return _judge_return(seconds, ready, faults, _COMPUTE + 3.0)


def _load(port: int, stop: threading.Event, found: list[tuple[float, Reply | None]]) -> None:
    while not stop.is_set():
        begun = time.monotonic()
        try:
            reply: Reply | None = talk(port, post_json(ADD, {"inputs": TENSORS}), patience=_PATIENCE)
        except OSError:
            reply = None
        found.append((begun, reply))


def _drain(place: Place) -> Found:
    found, stop = list[tuple[float, Reply | None]](), threading.Event()
    with _serve(place) as running:
        family = list_family(running.process.pid)
        threads = [threading.Thread(target=_load, args=(running.port, stop, found)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        at = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        code = running.process.wait(_PATIENCE)
        stop.set()
        for thread in threads:
            thread.join()
    lost = [reply for begun, reply in found if begun < at and (reply is None or reply.status not in (200, 503))]
    return _judge_end(code, 0, family, f"{len(lost)} lost" if lost else "")


def _judge_end(code: int, expected: int, family: Sequence[int], fault: str = "") -> Found:
    _wait_for(lambda: not any(map(_runs, family)), 5)
    left = [pid for pid in family if _runs(pid)]
    fault = fault or (f"exit code {code}, not {expected}" if code != expected else f"{len(left)} processes are left" if left else "")
    return Found(f"exit {code}", fault)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _end_twice(place: Place) -> Found:
    with _serve(place) as running:
        family, begun = list_family(running.process.pid), time.monotonic()
        with hold_line(running.port, make_spin(_FOREVER)):
            time.sleep(0.5)
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            running.process.send_signal(signal.SIGTERM)
            code = running.process.wait(_PATIENCE)
        seconds = time.monotonic() - begun
    return _judge_end(code, 143, family, f"after {seconds:.1f} s" if seconds > 10 else "")


def _interrupt(place: Place) -> Found:
    with _serve(place) as running:
        family = list_family(running.process.pid)
        os.killpg(running.process.pid, signal.SIGINT)
        code = running.process.wait(_PATIENCE)
    return _judge_end(code, 0, family)


def _fill_disk(place: Place) -> Found:
    port = find_port()
    with Path("/dev/full").open("w") as sink:
        process = subprocess.Popen(_make_command(place, port), stdout=sink, stderr=sink, env=make_surroundings(), process_group=0)
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}/v2/health/ready", Path("/dev/null"))
            return Found("200", next(filter(None, (ask(port) for _ in range(20))), ""))
        finally:
            end(process)


def _make_command(place: Place, port: int) -> list[str]:
    return [*make_command(f"tensors={place.models['tensors']}"), "--port", str(port), "--workers", "2", "--threads", "1"]


def _isolate(prepare: str) -> Callable[[Place], Found]:
    """Serve in a mount namespace of its own that a shell has prepared; skipped where that is not allowed."""

    def attempt(place: Place) -> Found:
        wrap = ["unshare", "-m", "--propagation", "private", "sh", "-c"]
        if shutil.which("unshare") is None or subprocess.run([*wrap, prepare], capture_output=True, check=False).returncode:
            return Found("not tried", "")
        port, log = find_port(), place.scratch / f"isolated{time.monotonic_ns()}"
        command = " ".join(f"'{word}'" for word in _make_command(place, port))
        with log.open("w") as sink:
            process = subprocess.Popen([*wrap, f"{prepare}; exec {command}"], stdout=sink, stderr=sink, env=make_surroundings(),
                process_group=0)
            try:
                wait_until_ready(process, f"http://127.0.0.1:{port}/v2/health/ready", log)
                return Found("200", next(filter(None, (ask(port) for _ in range(20))), ""))
            except RuntimeError:
                return _judge_refusal(process, log)
            finally:
                end(process)

    return attempt


def _judge_refusal(process: subprocess.Popen[bytes], log: Path) -> Found:
    """It did not come up: fine where it has ended with a line that says why."""
    said = log.read_text()
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    clear = process.poll() in (1, 2) and "Traceback" not in said and re.search(r"[a-z]{3,} [a-z]", last)
    return Found(f"exit {process.poll()}", "" if clear else f"exit {process.poll()}: {last[:200]}")


def _jump(place: Place) -> Found:
    """`time.time` of every process goes a day forward, and back again."""
    folder = place.scratch / "clock"
    folder.mkdir()
    flag = folder / "tomorrow"
    (folder / "sitecustomize.py").write_text(
        f"import os, time\nreal = time.time\ntime.time = lambda: real() + (86400 if os.path.exists({str(flag)!r}) else 0)\n"
    )
    port, log = find_port(), folder / "log"
    environment = make_surroundings()
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), environment["PYTHONPATH"]])
    with log.open("w") as sink:
        process = subprocess.Popen(_make_command(place, port), stdout=sink, stderr=sink, env=environment, process_group=0)
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}/v2/health/ready", log)
            faults = [ask(port)]
            for change in (flag.touch, flag.unlink):
                change()
                time.sleep(2.0)
                faults += [ask(port) for _ in range(10)]
            lost = log.read_text().count("worker_lost")
            return Found("200", next(filter(None, faults), f"{lost} workers were lost" if lost else ""))
        finally:
            end(process)
