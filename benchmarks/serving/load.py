"""How much a server answers, and how long that takes, at half of what it can do, near it, and beyond.

`python -m benchmarks.serving.load` serves the same ONNX file, the real encoder MiniLM with 8-bit weights and inputs, with `trimodal
serve` and with the peers whose environments are there (`python -m benchmarks.peers mlserver litserve bentoml`). A request is one text of
32 tokens as JSON, an answer its 384 numbers. Each server has both cores. Its capacity is what 16 clients get that ask as soon as they are
answered; load is then open (`open_loop.py`) at 50, 80 and 120 % of each server's own capacity, the servers in turn. `--quick` is a smoke
test.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.minilm import model_folder, write_data
from benchmarks.passlines import PassLine, finish, table
from benchmarks.peers import python_of
from benchmarks.serving.open_loop import Load, Target, measure_capacity, send_openly

CACHE = Path(__file__).parents[2] / ".cache" / "serving"
SCRIPTS = Path(__file__).parent / "peers"
SHARES = (0.5, 0.8, 1.2)
TOKENS, THREADS, SEEDS = 32, 2, (0, 1, 2)
OUTPUT = "pooler_output"


@dataclass(frozen=True)
class Server:
    """A server in the tables: how it is begun on a port, what is sent to it, and where it says that it is ready."""

    name: str
    command: Callable[[int, Path], list[str]]
    target: Callable[[int], Target]
    ready: str
    settings: Mapping[str, str]


def make_artifact() -> Path:
    """MiniLM with 8-bit weights and inputs, and its ONNX file; made once."""
    import trimodal
    from trimodal.exporting.export import export

    out = CACHE / "minilm"
    if not (out / "onnx").is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            data = write_data(Path(scratch), 0)
            trimodal.compress(str(model_folder()), "int8-full", str(data), out, force=True)
            export(out, "onnx", data=str(data))
    return out


def make_tensors() -> dict[str, list[list[int]]]:
    """One text of `TOKENS` ids, its mask, and which text each token is of."""
    return {
        "input_ids": [[101, *range(2000, 2000 + TOKENS - 2), 102]], "attention_mask": [[1] * TOKENS], "token_type_ids": [[0] * TOKENS],
    }  # fmt: skip


def make_v2_body(names: list[str]) -> bytes:
    """The request of the Open Inference Protocol."""
    inputs = [{"name": name, "shape": [1, TOKENS], "datatype": "INT64", "data": make_tensors()[name][0]} for name in names]
    return json.dumps({"inputs": inputs, "outputs": [{"name": OUTPUT}]}).encode()


def list_servers(artifact: Path, scratch: Path) -> list[Server]:
    """Ours and the peers that are installed."""
    said = json.loads((artifact / "onnx" / "export.json").read_text())["components"][0]
    names, file = list(said["inputs"]), artifact / "onnx" / said["files"][0]
    v2 = make_v2_body(names)
    settings = {"SERVING_MODEL": str(file), "SERVING_OUTPUT": OUTPUT, "SERVING_THREADS": str(THREADS), "SERVING_INPUTS": ",".join(names)}
    stacked = json.dumps({"given": [[make_tensors()[name][0] for name in names]]}).encode()
    found = [
        Server(
            "trimodal", lambda port, _: [sys.executable, "-m", "trimodal", "serve", f"minilm={artifact}", "--port", str(port)],
            lambda port: Target(port, "/v2/models/minilm/infer", v2), "/v2/health/ready", {},
        ),
        Server(
            "MLServer", lambda port, place: _begin_mlserver(port, place), lambda port: Target(port, "/v2/models/minilm/infer", v2),
            "/v2/health/ready", settings,
        ),
        Server(
            "LitServe", lambda port, _: [str(python_of("litserve")), str(SCRIPTS / "litserve_app.py"), str(port)],
            lambda port: Target(port, "/predict", v2), "/health", settings,
        ),
        Server(
            "BentoML",
            lambda port, _: [str(python_of("bentoml")), "-m", "bentoml", "serve", "bentoml_service:Onnx", "--working-dir", str(SCRIPTS),
                             "--host", "127.0.0.1", "--port", str(port)],
            lambda port: Target(port, "/infer", stacked), "/readyz", settings,
        ),
    ]  # fmt: skip
    return [server for server in found if server.name == "trimodal" or python_of(server.name.lower()) is not None]


def _begin_mlserver(port: int, place: Path) -> list[str]:
    """MLServer without its worker processes, which cannot begin with today's uvloop."""
    shutil.copy(SCRIPTS / "mlserver_model.py", place)
    model = {"name": "minilm", "implementation": "mlserver_model.OnnxModel", "max_batch_size": 16, "max_batch_time": 0.005}
    settings = {"http_port": port, "grpc_port": find_port(), "metrics_port": find_port(), "parallel_workers": 0, "host": "127.0.0.1"}
    (place / "model-settings.json").write_text(json.dumps(model))
    (place / "settings.json").write_text(json.dumps(settings))
    program = "import sys; from mlserver.cli import main; sys.argv[0] = 'mlserver'; main()"
    return [str(python_of("mlserver")), "-c", program, "start", str(place)]


def find_port() -> int:
    """A port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def run_server(server: Server) -> Iterator[Target]:
    """The server, ready; ended with all its processes afterwards."""
    port = find_port()
    with tempfile.TemporaryDirectory() as place, (Path(place) / "log").open("w") as log:
        ours = os.pathsep.join([place, *sys.path])
        environment = {**os.environ, **server.settings, "PYTHONPATH": place if server.settings else ours}
        process = subprocess.Popen(
            server.command(port, Path(place)), stdout=log, stderr=log, env=environment, cwd=place, process_group=0
        )
        try:
            wait_until_ready(process, f"http://127.0.0.1:{port}{server.ready}", Path(place) / "log")
            yield server.target(port)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2) as answered:
                if answered.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} did not become ready:\n{log.read_text()[-2000:]}")


@dataclass(frozen=True)
class Result:
    """One server in one round: its capacity, and the loads at `SHARES` of it."""

    name: str
    capacity: float
    loads: tuple[Load, ...]


def measure(server: Server, seed: int, seconds: float) -> Result:
    """One round of one server."""
    with run_server(server) as target:
        asyncio.run(measure_capacity(target, seconds=1.0, warm_up=0.0))
        capacity = asyncio.run(measure_capacity(target, seconds=seconds / 2))
        loads = tuple(asyncio.run(send_openly(target, share * capacity, seconds, seed)) for share in SHARES)
        return Result(server.name, capacity, loads)


def describe(results: list[Result]) -> str:
    """The table: medians over rounds."""
    rows = []
    for name in dict.fromkeys(result.name for result in results):
        own = [result for result in results if result.name == name]
        cells = [name, f"{_middle(own, lambda one: one.capacity):.0f}"]
        for place, share in enumerate(SHARES):
            p50, p99 = (_middle(own, lambda one, q=q, n=place: 1e3 * one.loads[n].quantile(q)) for q in (0.5, 0.99))
            cell = f"{p50:.0f} / {p99:.0f}"
            if share > 1:
                refused = _middle(own, lambda one, n=place: one.loads[n].refused_share)
                broken = _middle(own, lambda one, n=place: one.loads[n].statuses[0])
                answered = _middle(own, lambda one, n=place: one.loads[n].answered_per_second)
                cell += f"; answered {answered:.0f}/s, refused {refused:.0%}, lost {broken:.0f}"
            cells.append(cell)
        rows.append(tuple(cells))
    return table(("server", "answers / s", *(f"p50 / p99 at {share:.0%}, ms" for share in SHARES)), rows)


def _middle(results: list[Result], read: Callable[[Result], Any]) -> float:
    return float(statistics.median(float(read(result)) for result in results))


def judge(results: list[Result]) -> list[PassLine]:
    """The lines, fixed before."""
    own = [result for result in results if result.name == "trimodal"]
    others = {name: [r for r in results if r.name == name] for name in {r.name for r in results} - {"trimodal"}}
    p99 = {share: _middle(own, lambda one, n=n: one.loads[n].quantile(0.99)) for n, share in enumerate(SHARES)}
    found = [
        PassLine("p99 at 120 % over p99 at 80 %", p99[1.2] / p99[0.8], most=2.0),
        PassLine("requests without an answer at 120 %", _middle(own, lambda one: one.loads[2].statuses[0]), most=0),
    ]
    if others:
        best = max(_middle(their, lambda one: one.capacity) for their in others.values())
        lowest = min(_middle(their, lambda one: one.loads[2].quantile(0.99)) for their in others.values())
        found += [
            PassLine("answers per second over the best peer's", _middle(own, lambda one: one.capacity) / best, least=1.0),
            PassLine("p99 at 120 % over the lowest of the peers", p99[1.2] / lowest, most=1.0),
        ]
    return found


def main() -> None:
    """The table and the lines."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round, ours alone")
    parser.add_argument("--only", default="", help="servers with this in their name")
    asked = parser.parse_args()
    from trimodal.benching.conditions import read_conditions

    artifact = make_artifact()
    with tempfile.TemporaryDirectory() as scratch:
        servers = [server for server in list_servers(artifact, Path(scratch)) if asked.only.lower() in server.name.lower()]
        servers = servers[:1] if asked.quick else servers
        rounds, seconds = ((SEEDS[:1]), 3.0) if asked.quick else (SEEDS, 8.0)
        what = f"MiniLM W8A8, one text of {TOKENS} tokens a request; {len(rounds)} rounds of {seconds:g} s"
        print(f"{read_conditions(THREADS).describe()}; {what}")
        results = [measure(server, seed, seconds) for seed in rounds for server in servers]
    print(describe(results))
    finish(judge(results))


if __name__ == "__main__":
    main()
