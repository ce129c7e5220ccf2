"""Do bf16 and fp16 train to what fp32 trains to, and what do they cost here?

    python -m benchmarks.precision [--quick] [--seeds 3] [--steps 200]

The same training (a small Vision Transformer on drawn shapes, `trimodal train`) in the three precisions, by seeds that settle weights,
order and split alike, each run in a process of its own. Then a few steps of a larger one, for time and memory. Before a run starts
`trimodal train` says whether the precision is slower on this processor; what it says is shown, and held against what is measured.

Lines: the precision's mean difference from fp32, seed by seed, in held-out loss and accuracy, is no more than 1.5 times what fp32 itself
spreads from seed to seed (its standard deviation), and at most 2 points of accuracy where that spread is smaller.
"""

from __future__ import annotations

import argparse
import json
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.passlines import PassLine, finish, table

PRECISIONS = ("fp32", "bf16", "fp16")
SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 32, "patch_size": 4}
LARGE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 1024, "image_size": 32, "patch_size": 2}
NOISE, POINTS = 1.5, 2.0
WARM_UP = 2


def train_once(data: Path, precision: str, seed: int, steps: int, size: str) -> dict[str, Any]:
    """One training in this process: what it said beforehand, what it came to, milliseconds per step, and the peak of memory."""
    import trimodal

    config = {
        "model": {"class": "ViTForImageClassification", "config": SMALL if size == "small" else LARGE,
                  "processors": {"image": {"class": "ViTImageProcessor", "size": {"height": 32, "width": 32}}}},
        "data": str(data / "shapes.jsonl"), "task": "classify", "steps": steps, "batch": 32, "learning_rate": 3e-3, "held_out": 0.25,
        "evaluate_every": 0, "checkpoint_every": 0, "track": "none", "seed": seed, "precision": precision,
    }  # fmt: skip
    moments: list[float] = []
    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        found = trimodal.train(
            config, out=Path(folder) / "out", tell=said.append, progress=lambda what, done, total: moments.append(time.perf_counter())
        )
        record = json.loads((found.folder / "training.json").read_text())
    passed = [later - earlier for earlier, later in pairwise(moments)][WARM_UP:-1]
    return {
        "loss": found.metrics["loss"], "accuracy": found.metrics["image_accuracy"], "milliseconds": 1000 * statistics.median(passed),
        "megabytes": record["peak_bytes"] / 1e6, "said": next((line for line in said if "slower" in line), ""),
    }  # fmt: skip


def run_apart(data: Path, precision: str, seed: int, steps: int, size: str) -> dict[str, Any]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.precision", "--one", str(data), precision, str(seed), str(steps), size]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{precision}, seed {seed}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def describe_spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation."""
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def make_lines(found: dict[str, list[dict[str, Any]]]) -> list[PassLine]:
    """How far each precision is from fp32, as a mean over seeds, beside what fp32 spreads."""
    lines = []
    for precision in PRECISIONS[1:]:
        for key, least in (("loss", 0.0), ("accuracy", POINTS)):
            noise = statistics.stdev(run[key] for run in found["fp32"])
            apart = statistics.mean(a[key] - b[key] for a, b in zip(found[precision], found["fp32"]))
            lines.append(PassLine(f"{precision}: held-out {key} apart from fp32", abs(apart), most=max(least, NOISE * noise)))
    return lines


def show_trainings(found: dict[str, list[dict[str, Any]]]) -> str:
    rows = [
        (precision, describe_spread([run["loss"] for run in runs], 4), describe_spread([run["accuracy"] for run in runs], 1),
         f"{statistics.median(run['milliseconds'] for run in runs):.1f}", f"{max(run['megabytes'] for run in runs):.0f}")
        for precision, runs in found.items()
    ]  # fmt: skip
    return table(("precision", "held-out loss", "accuracy, %", "ms per step", "peak MB"), rows)


def show_larger(found: dict[str, dict[str, Any]]) -> str:
    base = found["fp32"]["milliseconds"]
    rows = [
        (precision, f"{run['milliseconds']:.0f}", f"{base / run['milliseconds']:.2f} x", f"{run['megabytes']:.0f}", run["said"] or "–")
        for precision, run in found.items()
    ]
    return table(("precision", "ms per step", "speed beside fp32", "peak MB", "said before the start"), rows)


def main() -> None:
    """Trainings by seed, then time and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test: 20 steps, 2 seeds, no lines")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        data, precision, seed, steps, size = asked.one
        print(json.dumps(train_once(Path(data), precision, int(seed), int(steps), size)))
        return
    from trimodal.machine import detect_processor

    steps, seeds = (20, 2) if asked.quick else (asked.steps, asked.seeds)
    processor, instructions = detect_processor()
    print(f"{processor}; instructions: {', '.join(instructions)}\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        draw = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "training" / "draw_shapes.py"))
        data = draw["write_shapes"](Path(folder) / "shapes", 200 if asked.quick else 1600)
        found = {p: [run_apart(data, p, seed, steps, "small") for seed in range(seeds)] for p in PRECISIONS}
        print(f"{show_trainings(found)}\n", flush=True)
        larger = {p: run_apart(data, p, 0, 5 if asked.quick else 12, "large") for p in PRECISIONS}
        print(f"{show_larger(larger)}\n", flush=True)
    finish([] if asked.quick else make_lines(found))


if __name__ == "__main__":
    main()
