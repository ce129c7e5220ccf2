"""A character model trained here, quantized in every way there is: bits per character lost on text never seen.

`python -m benchmarks.charlm --part quantization` trains the model first if the cache has none (some 20 minutes on two
cores; see `benchmarks/charmodel.py`), then compresses it once per row. Training, calibration and held-out text are
disjoint by file. The embedding and the head are rounded to 8 bits in every row, so that a row differs only in what it
does to the linear layers of the blocks; the float row has neither.

Bits are all-in: all bytes that those layers need (codes, scales, zero-points, tables) over their weights; for the
entropy-coded row the bytes of the streams, their tables included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import charmodel
from benchmarks.memory import bits_per_weight, compressed
from benchmarks.passlines import PassLine, finish, table

if TYPE_CHECKING:
    from torch import Tensor

    from trimodal.core import Sample
    from trimodal.models.model import Model

SEEDS = (0, 1, 2)
SAMPLES = 64
ENDS = {"quantize.rtn": {"where": ["*embedding", "*head"], "bits": 8, "group": "channel", "clip": "max"}}
SETTINGS = {"W4 g64": (4, 64), "W3 g64": (3, 64), "W2 g32": (2, 32)}
ENTROPY_BITS = 3.0
RTN, RTN_MSE, GPTQ, ENTROPY = "rounding", "rounding + MSE clip", "GPTQ", "entropy-coded"
REPEATED = (GPTQ, ENTROPY)
"""Rows with one run per calibration seed; the others use data of the first seed."""
WITHOUT_DATA = ("quantize.rtn", "quantize.hqq")
EVERY_METHOD_AT = "W3 g64"
"""The setting at which all methods are compared; the others have rounding and GPTQ."""


@dataclass(frozen=True)
class Line:
    """One run: what was done, at which all-in bits, and what it costs per window (windows,) in bits per character."""

    setting: str
    method: str
    seed: int
    bits: float
    change: Tensor
    seconds: float

    @property
    def loss(self) -> float:
        return float(self.change.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean over windows; both models read the same ones."""
        return float(self.change.std() / len(self.change) ** 0.5)


def methods(setting: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """The rows of one setting: method and options."""
    bits, group = SETTINGS[setting]
    how: dict[str, Any] = {"bits": bits, "group": group}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        RTN: ("quantize.rtn", {**how, "clip": "max"}),
        RTN_MSE: ("quantize.rtn", {**how, "clip": "mse"}),
        GPTQ: ("quantize.gptq", {**how, "clip": "mse"}),
    }
    if setting != EVERY_METHOD_AT:
        return found
    return found | {
        "HQQ, no data": ("quantize.hqq", how),
        "GPTQ, k-means table per row": ("quantize.gptq", {"bits": bits, "group": "channel", "grid": "kmeans"}),
        "AWQ": ("quantize.awq", {**how, "feedback": False}),
        "AWQ + GPTQ": ("quantize.awq", how),
        "rotated + GPTQ": ("quantize.rotated", how),
        "learned rounding": ("quantize.learned", how),
    }


def calibration(seed: int) -> list[Sample]:
    """Windows of calibration text, others for each seed."""
    import random

    from trimodal.core import Sample

    pieces = charmodel.windows(charmodel.texts().calibration)
    chosen = sorted(random.Random(seed).sample(range(len(pieces)), SAMPLES))
    return [Sample(line, text=pieces[number]) for line, number in enumerate(chosen, start=1)]


def quantization(
    model_seed: int, cache: Path, threads: int, seeds: Sequence[int] = SEEDS, only: Sequence[str] = ()
) -> None:
    """The part `quantization`."""
    import torch

    from trimodal.models.load import from_folder

    torch.set_num_threads(threads)
    folder = charmodel.folder(model_seed, cache)
    training = json.loads((folder / "training.json").read_text())
    original = from_folder(folder, "charlm")
    ids = charmodel.encoded(charmodel.windows(charmodel.texts().held_out))
    plain = charmodel.bits(original.module, ids)
    print(f"model seed {model_seed}: {training['parameters']:,} parameters, {training['characters_seen']:,} characters "
          f"seen, {float(plain.mean()):.4f} bits per character on {ids[:, 1:].numel():,} held-out ones", flush=True)  # fmt: skip
    lines: list[Line] = []
    for setting in SETTINGS:
        if only and setting not in only:
            continue
        for name, (method, options) in methods(setting).items():
            for seed in seeds if name in REPEATED else seeds[:1]:
                lines.append(_line(original, ids, plain, setting, name, {method: options}, seed))
    if not only or ENTROPY in only:
        for seed in seeds:
            step = {"quantize.entropy": {"bits": ENTROPY_BITS}}
            lines.append(_line(original, ids, plain, f"{ENTROPY_BITS:g} bits", ENTROPY, step, seed))
    print()
    print(_table(lines, training, float(plain.mean())))
    print(f"float {float(plain.mean()):.4f} bits per character; ± is the standard error over {len(ids)} windows; "
          f"{threads} threads; calibration seeds {', '.join(map(str, seeds))} ({SAMPLES} windows of "
          f"{charmodel.WINDOW} characters each), one model seed ({model_seed})")  # fmt: skip
    if only:
        return
    through = _command_line(folder, ids, plain, seeds[0])
    here = next(line for line in lines if line.method == GPTQ and line.setting == "W3 g64" and line.seed == seeds[0])
    print(f"GPTQ W3 g64 through the command line: {through:+.5f} bits per character; in memory {here.loss:+.5f}")
    finish(_lines(lines, through - here.loss))


def _line(
    original: Model, ids: Tensor, plain: Tensor, setting: str, name: str, step: Mapping[str, Any], seed: int
) -> Line:
    start = time.perf_counter()
    coded = name == ENTROPY
    samples = [] if set(step) <= set(WITHOUT_DATA) else calibration(seed)
    row = compressed(original, [ENDS, dict(step)], samples, seed=seed, coded=coded)
    change = charmodel.bits(row.model.module, ids) - plain
    line = Line(
        setting, name, seed, row.coded_bits if coded else bits_per_weight(row.model.layout), change, row.seconds
    )
    print(f"{setting}  {name}  seed {seed}  {line.bits:.3f} bits  {line.loss:+.5f} ± {line.error:.5f}  "
          f"{row.seconds:.1f} s, measured after {time.perf_counter() - start:.1f} s", flush=True)  # fmt: skip
    return line


def _mean(lines: Sequence[Line], setting: str, method: str) -> float:
    found = [line.loss for line in lines if line.setting == setting and line.method == method]
    return sum(found) / len(found) if found else float("nan")


def _table(lines: Sequence[Line], training: Mapping[str, Any], plain: float) -> str:
    rows: list[tuple[str, ...]] = []
    for setting, name in dict.fromkeys((line.setting, line.method) for line in lines):
        same = [line for line in lines if (line.setting, line.method) == (setting, name)]
        losses = [line.loss for line in same]
        spread = f"{min(losses):+.4f} … {max(losses):+.4f}" if len(losses) > 1 else ""
        against = _mean(lines, setting, RTN)
        rows.append((setting, name, f"{same[0].bits:.3f}", f"{_mean(lines, setting, name):+.4f} ± {same[0].error:.4f}",
                     spread, f"{_mean(lines, setting, name) / against:.2f}" if against == against else "",
                     f"{same[0].seconds:.0f}"))  # fmt: skip
    return table(
        (
            "setting",
            "method",
            "bits all-in",
            "more bits per character",
            "calibration seeds",
            "of rounding's",
            "seconds",
        ),
        rows,
    )


def _lines(lines: Sequence[Line], disagreement: float) -> list[PassLine]:
    def ratio(setting: str, method: str, against: str, other: str | None = None) -> float:
        return _mean(lines, setting, method) / _mean(lines, other or setting, against)

    found = [
        PassLine("4 bit: increase with GPTQ over rounding's", ratio("W4 g64", GPTQ, RTN), most=0.6),
        PassLine("3 bit: increase with GPTQ over rounding's", ratio("W3 g64", GPTQ, RTN), most=0.5),
        PassLine(
            "2 bit: increase with GPTQ over that of rounding + MSE clip", ratio("W2 g32", GPTQ, RTN_MSE), most=0.7
        ),
        PassLine("command line and memory differ by, bits per character", abs(disagreement), most=1e-5),
    ]
    coded = [line for line in lines if line.method == ENTROPY]
    if coded:
        against = _mean(lines, "W3 g64", GPTQ)
        found += [
            PassLine("entropy-coded, all-in bits, largest", max(line.bits for line in coded), most=3.05),
            PassLine("entropy-coded over GPTQ W3 g64, increase", _mean(lines, coded[0].setting, ENTROPY) / against, most=0.6),
        ]  # fmt: skip
    return found


def _command_line(folder: Path, ids: Tensor, plain: Tensor, seed: int) -> float:
    """GPTQ W3 g64 by `trimodal compress`, read back from its folder: the increase in bits per character."""
    from trimodal.formats import load

    method, options = methods("W3 g64")[GPTQ]
    with tempfile.TemporaryDirectory() as scratch:
        data, recipe, out = (Path(scratch) / name for name in ("data.jsonl", "recipe.json", "out"))
        samples = calibration(seed)
        texts = [{"text": sample.text, "split": "train"} for sample in samples]
        held = charmodel.windows(charmodel.texts().held_out)[:8]
        texts += [{"text": text, "split": "test"} for text in held]
        data.write_text("".join(json.dumps(line) + "\n" for line in texts))
        steps = [ENDS, {method: options}]
        recipe.write_text(json.dumps({"steps": steps, "calibration": {"samples": len(samples)}}))
        command = [sys.executable, "-m", "trimodal.cli", "compress", str(folder), "-r", str(recipe), "-d", str(data),
                   "-o", str(out), "--seed", str(seed)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        found = load(out, dequantize=True)
        return float((charmodel.bits(found, ids) - plain).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("quantization",), default="quantization")
    parser.add_argument("--seed", type=int, default=0, help="of the trained model")
    parser.add_argument("--cache", type=Path, default=charmodel.CACHE, help="folder of trained models")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of the calibration text")
    parser.add_argument("--only", nargs="*", default=(), help="settings to run, for a look; no pass lines then")
    given = parser.parse_args()
    quantization(given.seed, given.cache, given.threads, given.seeds, given.only)


if __name__ == "__main__":
    main()
