"""A character model trained here, compressed in every way there is: bits per character lost on text never seen.

`python -m benchmarks.charlm --part quantization` (or `structure`: pruned and factorised) trains the model first if the
cache has none (some 20 minutes on two cores; see `benchmarks/charmodel.py`), then compresses it once per row. Training,
calibration and held-out text are disjoint by file. The embedding and the head are rounded to 8 bits in every row, so that
a row differs only in what it does to the linear layers of the blocks; the float row has neither.

Bits are all-in: all bytes that those layers need (codes, scales, zero-points, tables, masks, factors) over the weights
that they had; for the entropy-coded row the bytes of the streams, their tables included.
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
MAGNITUDE, WANDA, SPARSEGPT, REFITTED = "magnitude", "Wanda", "SparseGPT", "Wanda + exact refit"
SVD, ASVD, EIGEN = "SVD", "ASVD", "eigen form"
HALF, TWO_OF_FOUR, JOINT, RANK = "half zero", "2 of 4", "half zero, rest 4 bits", "half the numbers"
WITHOUT_DATA = ("quantize.rtn", "quantize.hqq", "prune.magnitude")
EVERY_METHOD_AT = "W3 g64"
"""The setting at which all ways to quantize are compared; the others have rounding and GPTQ."""


@dataclass(frozen=True)
class Way:
    """One row of a table: a setting, the name of a method, and the step that does it. `repeated` rows have one run per
    calibration seed; the others use data of the first seed. The first way of a setting is what the others are held
    against."""

    setting: str
    name: str
    step: Mapping[str, Any]
    repeated: bool = False


def quantizing() -> list[Way]:
    """The rows of the part `quantization`."""
    found = []
    for setting, (bits, group) in SETTINGS.items():
        how: dict[str, Any] = {"bits": bits, "group": group}
        found += [
            Way(setting, RTN, {"quantize.rtn": {**how, "clip": "max"}}),
            Way(setting, RTN_MSE, {"quantize.rtn": {**how, "clip": "mse"}}),
            Way(setting, GPTQ, {"quantize.gptq": {**how, "clip": "mse"}}, repeated=True),
        ]
        if setting == EVERY_METHOD_AT:
            by_row = {"bits": bits, "group": "channel", "grid": "kmeans"}
            found += [
                Way(setting, "HQQ, no data", {"quantize.hqq": how}),
                Way(setting, "GPTQ, k-means table per row", {"quantize.gptq": by_row}),
                Way(setting, "AWQ", {"quantize.awq": {**how, "feedback": False}}),
                Way(setting, "AWQ + GPTQ", {"quantize.awq": how}),
                Way(setting, "rotated + GPTQ", {"quantize.rotated": how}),
                Way(setting, "learned rounding", {"quantize.learned": how}),
            ]
    return [*found, Way(f"{ENTROPY_BITS:g} bits", ENTROPY, {"quantize.entropy": {"bits": ENTROPY_BITS}}, repeated=True)]


def structuring() -> list[Way]:
    """The rows of the part `structure`."""
    runs = {"kept": 2, "of": 4}
    return [
        Way(HALF, MAGNITUDE, {"prune.magnitude": {"sparsity": 0.5}}),
        Way(HALF, WANDA, {"prune.wanda": {"sparsity": 0.5, "refit": False}}, repeated=True),
        Way(HALF, SPARSEGPT, {"prune.sparsegpt": {"sparsity": 0.5}}, repeated=True),
        Way(HALF, REFITTED, {"prune.wanda": {"sparsity": 0.5, "refit": True}}, repeated=True),
        Way(TWO_OF_FOUR, WANDA, {"prune.wanda": {**runs, "refit": False}}),
        Way(TWO_OF_FOUR, SPARSEGPT, {"prune.sparsegpt": runs}),
        Way(TWO_OF_FOUR, REFITTED, {"prune.wanda": {**runs, "refit": True}}),
        Way(JOINT, SPARSEGPT, {"prune.sparsegpt": {"sparsity": 0.5, "bits": 4, "group": 64}}, repeated=True),
        Way(RANK, SVD, {"factorize.svd": {"sparsity": 0.5}}),
        Way(RANK, ASVD, {"factorize.svd": {"sparsity": 0.5, "alpha": 0.5}}, repeated=True),
        Way(RANK, EIGEN, {"factorize.eigen": {"sparsity": 0.5}}, repeated=True),
    ]


@dataclass(frozen=True)
class Line:
    """One run: what was done, at which all-in bits, and what it costs per window (windows,) in bits per character."""

    way: Way
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


def calibration(seed: int) -> list[Sample]:
    """Windows of calibration text, others for each seed."""
    import random

    from trimodal.core import Sample

    pieces = charmodel.windows(charmodel.texts().calibration)
    chosen = sorted(random.Random(seed).sample(range(len(pieces)), SAMPLES))
    return [Sample(line, text=pieces[number]) for line, number in enumerate(chosen, start=1)]


def run(
    part: str, model_seed: int, cache: Path, threads: int, seeds: Sequence[int] = SEEDS, only: Sequence[str] = ()
) -> None:
    """One part: its table and its lines."""
    import torch

    from trimodal.loading.load import load_from_folder

    torch.set_num_threads(threads)
    folder = charmodel.folder(model_seed, cache)
    training = json.loads((folder / "training.json").read_text())
    original = load_from_folder(folder, "charlm")
    ids = charmodel.encoded(charmodel.windows(charmodel.texts().held_out))
    plain = charmodel.bits(original.module, ids)
    print(f"model seed {model_seed}: {training['parameters']:,} parameters, {training['characters_seen']:,} characters "
          f"seen, {float(plain.mean()):.4f} bits per character on {ids[:, 1:].numel():,} held-out ones", flush=True)  # fmt: skip
    ways = quantizing() if part == "quantization" else structuring()
    lines = [
        _line(original, ids, plain, way, seed)
        for way in ways if not only or way.setting in only or way.name in only
        for seed in (seeds if way.repeated else seeds[:1])
    ]  # fmt: skip
    print()
    print(_table(lines))
    print(f"float {float(plain.mean()):.4f} bits per character; ± is the standard error over {len(ids)} windows; "
          f"{threads} threads; calibration seeds {', '.join(map(str, seeds))} ({SAMPLES} windows of "
          f"{charmodel.WINDOW} characters each), one model seed ({model_seed})")  # fmt: skip
    if only:
        return
    if part == "structure":
        finish(_structure_lines(lines))
        return
    gptq = next(way for way in ways if way.name == GPTQ and way.setting == "W3 g64")
    through = _command_line(gptq, folder, ids, plain, seeds[0])
    here = next(line for line in lines if line.way == gptq and line.seed == seeds[0])
    print(f"GPTQ W3 g64 through the command line: {through:+.5f} bits per character; in memory {here.loss:+.5f}")
    finish(_quantization_lines(lines, through - here.loss))


def _line(original: Model, ids: Tensor, plain: Tensor, way: Way, seed: int) -> Line:
    start = time.perf_counter()
    coded = way.name == ENTROPY
    ((method, options),) = way.step.items()
    samples = [] if method in WITHOUT_DATA or options.get("alpha", 1) == 0 else calibration(seed)
    row = compressed(original, [ENDS, dict(way.step)], samples, seed=seed, coded=coded)
    change = charmodel.bits(row.model.module, ids) - plain
    bits = row.coded_bits if coded else bits_per_weight(row.model.layout, original.layout)
    line = Line(way, seed, bits, change, row.seconds)
    print(f"{way.setting}  {way.name}  seed {seed}  {line.bits:.3f} bits  {line.loss:+.5f} ± {line.error:.5f}  "
          f"{row.seconds:.1f} s, measured after {time.perf_counter() - start:.1f} s", flush=True)  # fmt: skip
    return line


def _mean(lines: Sequence[Line], setting: str, name: str) -> float:
    found = [line.loss for line in lines if line.way.setting == setting and line.way.name == name]
    return sum(found) / len(found) if found else float("nan")


def _table(lines: Sequence[Line]) -> str:
    rows: list[tuple[str, ...]] = []
    firsts: dict[str, str] = {}
    for way in dict.fromkeys((line.way.setting, line.way.name) for line in lines):
        setting, name = way
        same = [line for line in lines if (line.way.setting, line.way.name) == way]
        losses = [line.loss for line in same]
        spread = f"{min(losses):+.4f} … {max(losses):+.4f}" if len(losses) > 1 else ""
        share = _mean(lines, setting, name) / _mean(lines, setting, firsts.setdefault(setting, name))
        rows.append((setting, name, f"{same[0].bits:.3f}", f"{_mean(lines, setting, name):+.4f} ± {same[0].error:.4f}",
                     spread, f"{share:.2f}", f"{same[0].seconds:.0f}"))  # fmt: skip
    head = (
        "setting", "method", "bits all-in", "more bits per character", "calibration seeds", "of the first's", "seconds"
    )  # fmt: skip
    return table(head, rows)


def _ratio(lines: Sequence[Line], setting: str, name: str, against: str, other: str | None = None) -> float:
    return _mean(lines, setting, name) / _mean(lines, other or setting, against)


def _structure_lines(lines: Sequence[Line]) -> list[PassLine]:
    return [
        PassLine("half zero: increase with SparseGPT over magnitude's", _ratio(lines, HALF, SPARSEGPT, MAGNITUDE), most=0.5),
        PassLine("half zero: Wanda over magnitude", _ratio(lines, HALF, WANDA, MAGNITUDE), most=1.0),
        PassLine("half zero: SparseGPT over Wanda", _ratio(lines, HALF, SPARSEGPT, WANDA), most=1.0),
        PassLine("half zero: exact refit over SparseGPT", _ratio(lines, HALF, REFITTED, SPARSEGPT), most=1.0),
        PassLine("half the numbers: eigen form over SVD", _ratio(lines, RANK, EIGEN, SVD), most=0.5),
        PassLine("half the numbers: ASVD over SVD", _ratio(lines, RANK, ASVD, SVD), most=1.0),
        PassLine("half the numbers: eigen form over ASVD", _ratio(lines, RANK, EIGEN, ASVD), most=1.0),
    ]  # fmt: skip


def _quantization_lines(lines: Sequence[Line], disagreement: float) -> list[PassLine]:
    coded = [line for line in lines if line.way.name == ENTROPY]
    return [
        PassLine("4 bit: increase with GPTQ over rounding's", _ratio(lines, "W4 g64", GPTQ, RTN), most=0.6),
        PassLine("3 bit: increase with GPTQ over rounding's", _ratio(lines, "W3 g64", GPTQ, RTN), most=0.5),
        PassLine(
            "2 bit: increase with GPTQ over that of rounding + MSE clip", _ratio(lines, "W2 g32", GPTQ, RTN_MSE), most=0.7
        ),
        PassLine("command line and memory differ by, bits per character", abs(disagreement), most=1e-5),
        PassLine("entropy-coded, all-in bits, largest", max(line.bits for line in coded), most=3.05),
        PassLine(
            "entropy-coded over GPTQ W3 g64, increase",
            _ratio(lines, coded[0].way.setting, ENTROPY, GPTQ, "W3 g64"), most=0.6,
        ),
    ]  # fmt: skip


def _command_line(way: Way, folder: Path, ids: Tensor, plain: Tensor, seed: int) -> float:
    """The way's step by `trimodal compress`, read back from its folder: the increase in bits per character."""
    from trimodal.formats import load

    with tempfile.TemporaryDirectory() as scratch:
        data, recipe, out = (Path(scratch) / name for name in ("data.jsonl", "recipe.json", "out"))
        samples = calibration(seed)
        texts = [{"text": sample.text, "split": "train"} for sample in samples]
        held = charmodel.windows(charmodel.texts().held_out)[:8]
        texts += [{"text": text, "split": "test"} for text in held]
        data.write_text("".join(json.dumps(line) + "\n" for line in texts))
        steps = [ENDS, dict(way.step)]
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
    parser.add_argument("--part", choices=("quantization", "structure"), default="quantization")
    parser.add_argument("--seed", type=int, default=0, help="of the trained model")
    parser.add_argument("--cache", type=Path, default=charmodel.CACHE, help="folder of trained models")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of the calibration text")
    parser.add_argument("--only", nargs="*", default=(), help="settings or methods to run, for a look; no lines")
    given = parser.parse_args()
    run(given.part, given.seed, given.cache, given.threads, given.seeds, given.only)


if __name__ == "__main__":
    main()
