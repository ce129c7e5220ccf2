"""How fast models run on this machine's CPU, in every runtime, beside what other tools make of them.

`python -m benchmarks.speed` builds seven models at real size, compresses and exports each (kept in `.cache/speed`), has torchao, ONNX
Runtime's own quantizers and NNCF make what they make of it, and times all rows of a model in one process, in turn
(`trimodal.benching.timing`).
`--model NAME` takes those with NAME in their name, `--batch 1 8` the sizes, `--quick` batch 1 and few rounds, `--without-peers` leaves out
what needs the environment `runtimes` of `benchmarks.peers`, which is made if it is missing; `--only TEXT` takes rows with TEXT in their
name, beside torch fp32, and prints no lines.

Weights are random with a fixed seed, but for MiniLM's: a cosine on them says that the arithmetic is right, and no more. With one thread
times are the processor's, with more they are wall times.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.passlines import PassLine, finish, table
from benchmarks.peers import python_of
from benchmarks.peers.__main__ import make
from benchmarks.speed.lines import lines_of, real_lines_of
from benchmarks.speed.models import CASES
from benchmarks.speed.peers import NNCF, TORCH

ROOT = Path(__file__).parents[2]
ENVIRONMENT = "runtimes"
COLUMNS = ("what", "ms", "quartiles", "times torch fp32", "times NNCF", "cosine")


def run_model(name: str, chosen: argparse.Namespace, python: Path) -> dict[str, Any]:
    """Measure one model in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        job, result = Path(scratch) / "job.json", Path(scratch) / "result.json"
        job.write_text(json.dumps({
            "model": name, "batch": chosen.batch, "threads": chosen.threads, "rounds": chosen.rounds, "only": chosen.only,
            "peers": not chosen.without_peers, "result": str(result),
        }))  # fmt: skip
        place = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": place, "OMP_NUM_THREADS": str(chosen.threads), "HF_HUB_OFFLINE": "1",
                       "OMP_WAIT_POLICY": "PASSIVE", "TRANSFORMERS_VERBOSITY": "error"}  # fmt: skip
        done = subprocess.run([python, "-m", "benchmarks.speed.one", job], env=environment, cwd=ROOT, check=False)
        if done.returncode or not result.exists():
            sys.exit(f"{name}: the process that measures ended with {done.returncode}")
        said: dict[str, Any] = json.loads(result.read_text())
        return said


def show_table(name: str, found: dict[str, Any], part: dict[str, Any], single: bool) -> str:
    """One table, with what failed and how near the best row is to the machine's ceiling."""
    rows = part["rows"]
    nncf = rows.get(NNCF, {}).get("ms")
    lines = [
        (
            label, f"{row['ms']:.2f}{' (noisy)' if row['noisy'] else ''}", f"{row['low']:.2f} to {row['high']:.2f}",
            f"{rows[TORCH]['ms'] / row['ms']:.2f}", f"{nncf / row['ms']:.2f}" if nncf else "",
            "" if row["cosine"] is None else f"{row['cosine']:.5f}",
        )
        for label, row in sorted(rows.items(), key=lambda item: item[1]["ms"])
    ]  # fmt: skip
    said = [f"\n{name}, {part['component']}, batch {part['batch']}, noise {part['noise']:.1%}\n", table(COLUMNS, lines)]
    said += [f"failed: {label}: {why}" for label, why in part["failed"].items()]
    if single:
        said.append(describe_distance(found, part))
    return "\n".join(said)


def describe_distance(found: dict[str, Any], part: dict[str, Any]) -> str:
    """How near the fastest row that computes all of the model comes to what an int8 product reaches on this machine."""
    dense = [row["ms"] for label, row in part["rows"].items() if "structure" not in label and "tokens" not in label]
    rate = found["macs"] * part["batch"] / min(dense) / 1e6
    return (
        f"fastest dense row: {rate:.0f} · 10⁹ multiply-adds a second, {rate / found['ceiling']:.0%} of the {found['ceiling']:.0f} that an "
        "int8 product reaches here"
    )


def choose_python(without_peers: bool) -> Path:
    """The interpreter that measures."""
    if without_peers:
        return Path(sys.executable)
    if python_of(ENVIRONMENT) is None:
        make(ENVIRONMENT)
    found = python_of(ENVIRONMENT)
    assert found is not None
    return found


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="models with this text in their name")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="batch 1 and three rounds")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--only", default="", help="rows with this text in their name; no lines then")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.batch, chosen.rounds = [1], 3
    return chosen


def main() -> None:
    chosen = read_arguments()
    from trimodal.benching.conditions import read_conditions

    conditions, python = read_conditions(chosen.threads), choose_python(chosen.without_peers)
    print(conditions.describe(), flush=True)
    lines: list[PassLine | str] = []
    for name, case in CASES.items():
        if chosen.model not in name:
            continue
        found = run_model(name, chosen, python)
        single = len({part["component"] for part in found["tables"]}) == 1 and not case.real
        for part in found["tables"]:
            print(show_table(name, found, part, single), flush=True)
            where = f"{name}, {part['component']}, batch {part['batch']}"
            lines += lines_of(where, part["rows"], conditions.has_integer_products)
            lines += real_lines_of(where, part["rows"]) if case.real else []
    print()
    if not chosen.only:
        for line in lines:
            if isinstance(line, str):
                print(line)
        finish([line for line in lines if isinstance(line, PassLine)])


if __name__ == "__main__":
    main()
