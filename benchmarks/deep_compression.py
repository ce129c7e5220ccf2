"""Deep Compression (Han, Mao, Dally 2016, arXiv 1510.00149): how much smaller a whole file gets, part by part.

`python -m benchmarks.deep_compression` trains LeNet-300-100 on drawn digits (`benchmarks/drawndigits.py`) and takes the
built-in recipe `deep`, with the sparsity and the steps of the settings below, through `trimodal.compress`: files as a user
gets them, loaded again with `trimodal.load` and asked for the digits of 6,000 test pictures. The paper's own figure is 40
times for this network on MNIST, and 35 and 49 times for AlexNet and VGG-16.

The settings were chosen with seed 0 on pictures that are in neither split (`validation` in `drawndigits.samples`).

The factor is the float32 file over the file of weights, all in: mask, codes, tables, biases, header, and how to rebuild the
model. Controls are dense networks of as many bytes, trained from scratch on the digits' labels: one kept in float32, one
quantized to 8 bits and entropy-coded by this library. A second table prunes to one sparsity in one go and gradually, with
as many recovery steps in all.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

import trimodal
from benchmarks import drawndigits
from benchmarks.drawndigits import Classifier
from benchmarks.passlines import PassLine, finish, table
from trimodal.formats import measure_folder_size

SEEDS = (0, 1, 2)
SPARSITY, LAST_SPARSITY = 0.95, 0.7
"""Of all layers, and of the last one, whose 1,000 weights are a 266th of the whole."""
TIMES, RECOVERY, FINISHING = 6, 250, 300
SCHEDULES_AT = (0.95, 0.985)
LEARNING_RATE, BATCH = 5e-3, 128
BYTES_PER_UNIT, SLACK = 700, 0.03
"""Of a dense network at 8 bits, entropy-coded, roughly: where the search for its width begins, and where it may end."""
LEAST_FACTOR, GOAL_FACTOR, MOST_LOSS = 35.0, 49.0, 0.5
FLOAT, PRUNED, SHARED, CODED = "float32", "pruned, gradually", "+ 16 shared numbers per layer", "+ entropy coding"
FOR_ALL = "the same with 16 numbers for all layers"
SMALL, SMALL_CODED = "dense of equal bytes, float32", "dense of equal bytes, 8 bits, entropy-coded"


@dataclass(frozen=True)
class Row:
    """One model of one seed: bytes of its file of weights, and how many test pictures it recognises, in percent."""

    what: str
    seed: int
    bytes: int
    accuracy: float
    kept: float = 1.0


def recipe(seed: int, sparsity: float = SPARSITY, times: int = TIMES) -> dict[str, Any]:
    """The built-in recipe with this benchmark's settings; `times` 1 prunes in one go, with as many steps in all."""
    from importlib import resources

    found: dict[str, Any] = yaml.safe_load((resources.files("trimodal.planning") / "recipes" / "deep.yaml").read_text())
    prune, share, finish_ = found["steps"]
    last = min(LAST_SPARSITY, sparsity)
    recover = {"steps": RECOVERY * TIMES // times, "batch": BATCH, "learning_rate": LEARNING_RATE}
    options = {**prune["prune.magnitude"], "sparsity": sparsity, "but": {"image.4.*": {"sparsity": last}}}
    if times == 1:
        del options["gradual"]
    else:
        options["gradual"] = {**options["gradual"], "times": times, "recover": recover}
    first = [{"prune.magnitude": options}, *([{"distill": recover}] if times == 1 else [])]
    finish_["distill"] |= {"steps": FINISHING, "batch": BATCH}
    return {**found, "seed": seed, "steps": [*first, share, finish_]}


def without_sharing(whole: dict[str, Any]) -> dict[str, Any]:
    """The recipe up to its pruning and recovery."""
    return {**whole, "steps": whole["steps"][:-2]}


def shared_by_all(whole: dict[str, Any]) -> dict[str, Any]:
    """The recipe with one table for all layers."""
    *before, share, last = whole["steps"]
    return {**whole, "steps": [*before, {"quantize.rtn": {**share["quantize.rtn"], "group": "tower"}}, last]}


def compressed(source: str, steps: Mapping[str, Any], out: Path, pack: str = "plain") -> Path:
    """The folder that `trimodal.compress` writes."""
    trimodal.compress(source, steps, drawndigits.data(), out, pack=pack, force=True)  # type: ignore[arg-type]
    return out


def row(what: str, seed: int, folder: Path, factory: Callable[[], torch.nn.Module]) -> Row:
    """What a folder weighs and knows, both from the disk."""
    model = trimodal.load(folder, factory=factory)
    weights = [layer.weight for layer in model.modules() if getattr(layer, "in_features", 0)]
    kept = sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    return Row(what, seed, measure_folder_size(folder)[1], drawndigits.accuracy(model, *drawndigits.samples("test")), kept)


def pipeline(seed: int, scratch: Path) -> list[Row]:
    """The network, and what is left of it after each part of the recipe."""
    factory = getattr(drawndigits, f"lenet300_{seed}")
    source, whole = f"benchmarks.drawndigits:lenet300_{seed}", recipe(seed)
    test = drawndigits.samples("test")
    found = [Row(FLOAT, seed, drawndigits.weights(seed).stat().st_size, drawndigits.accuracy(factory(), *test))]
    found.append(row(PRUNED, seed, compressed(source, without_sharing(whole), scratch / "pruned"), factory))
    shared = compressed(source, whole, scratch / "shared")
    found.append(row(SHARED, seed, shared, factory))
    trimodal.pack(shared, scratch / "coded", "entropy", force=True)
    one = compressed(source, shared_by_all(whole), scratch / "one", "entropy")
    return [*found, row(CODED, seed, scratch / "coded", factory), row(FOR_ALL, seed, one, factory)]


def controls(seed: int, size: int, scratch: Path) -> list[Row]:
    """Dense networks with one hidden layer as wide as `size` bytes allow, trained from scratch."""
    width = max(width for width in range(1, 300) if _plain_file(_untrained(width, seed), scratch) <= size)
    model = drawndigits.taught(_untrained(width, seed), seed)
    accuracy = drawndigits.accuracy(model, *drawndigits.samples("test"))
    found = [Row(SMALL, seed, _plain_file(model, scratch), accuracy)]
    width = round(size / BYTES_PER_UNIT)
    while (coded := _coded(width, seed, scratch)).bytes > size * (1 + SLACK):
        width -= 1
    return [*found, coded]


def _untrained(width: int, seed: int) -> Classifier:
    torch.manual_seed(seed)
    return Classifier((width,))


def _plain_file(model: Classifier, scratch: Path) -> int:
    save_file(model.state_dict(), scratch / "small.safetensors")
    return (scratch / "small.safetensors").stat().st_size


def _coded(width: int, seed: int, scratch: Path) -> Row:
    """A dense network trained from scratch, then rounded to 8 bits and entropy-coded."""
    model = drawndigits.taught(_untrained(width, seed), seed)
    steps = {"steps": [{"quantize.rtn": {"bits": 8}}]}
    trimodal.compress(lambda: copy.deepcopy(model), steps, None, scratch / "small", pack="entropy", force=True)
    return row(SMALL_CODED, seed, scratch / "small", lambda: Classifier((width,)))


def schedules(seed: int, scratch: Path) -> list[Row]:
    """One sparsity in one go and gradually, with as many steps of recovery."""
    factory = getattr(drawndigits, f"lenet300_{seed}")
    found = []
    for sparsity in SCHEDULES_AT:
        for what, times in (("in one go", 1), ("gradually", TIMES)):
            steps = without_sharing(recipe(seed, sparsity, times))
            folder = compressed(f"benchmarks.drawndigits:lenet300_{seed}", steps, scratch / "schedule")
            found.append(row(f"{sparsity:g} {what}", seed, folder, factory))
    return found


def _shown(values: list[float], form: str = ".2f") -> str:
    spread = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{spread}"


def _table(rows: list[Row], base: Mapping[int, Row]) -> str:
    cells = []
    for what in dict.fromkeys(found.what for found in rows):
        same = [found for found in rows if found.what == what]
        cells.append((
            what, _shown([found.bytes for found in same], ".0f"),
            _shown([base[found.seed].bytes / found.bytes for found in same], ".1f"),
            f"{statistics.mean(found.kept for found in same):.1%}", _shown([found.accuracy for found in same]),
            _shown([base[found.seed].accuracy - found.accuracy for found in same]),
        ))  # fmt: skip
    return table(("model", "bytes", "times smaller", "weights left", "accuracy %", "points lost"), cells)


def main() -> None:
    """Print both tables and the pass lines."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deep_compression", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, choices=(1, 2, 3), default=len(SEEDS), help="how many seeds (default 3)")
    parser.add_argument("--part", choices=("all", "pipeline", "schedules"), default="all")
    asked = parser.parse_args()
    started, seeds = time.perf_counter(), SEEDS[: asked.seeds]
    rows: list[Row] = []
    gradual: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            base = drawndigits.accuracy(getattr(drawndigits, f"lenet300_{seed}")(), *drawndigits.samples("test"))
            rows.append(Row(FLOAT, seed, drawndigits.weights(seed).stat().st_size, base))
            if asked.part != "schedules":
                rows[-1:] = pipeline(seed, Path(folder))
                coded = next(found for found in rows if (found.what, found.seed) == (CODED, seed))
                rows += controls(seed, coded.bytes, Path(folder))
            if asked.part != "pipeline":
                gradual += schedules(seed, Path(folder))
            print(f"seed {seed} done after {time.perf_counter() - started:.0f} s", file=sys.stderr)
    floats = {found.seed: found for found in rows if found.what == FLOAT}
    print(f"LeNet-300-100 on drawn digits, {drawndigits.TEST:,} test pictures, seeds {', '.join(map(str, seeds))}; mean ± "
          "standard deviation over seeds\n")  # fmt: skip
    lines: list[PassLine] = []
    if asked.part != "schedules":
        print(_table(rows, floats), "\n")
        whole = [found for found in rows if found.what == CODED]
        factors = [floats[found.seed].bytes / found.bytes for found in whole]
        lost = [floats[found.seed].accuracy - found.accuracy for found in whole]
        print(f"goal {GOAL_FACTOR:g} times: {'reached' if min(factors) >= GOAL_FACTOR else 'not reached'}, "
              f"{min(factors):.1f} to {max(factors):.1f} times\n")  # fmt: skip
        lines += [
            PassLine("times smaller, least of all seeds", min(factors), least=LEAST_FACTOR),
            PassLine("points lost, mean over seeds", statistics.mean(lost), most=MOST_LOSS),
        ]
    if gradual:
        print(f"Sparsity of the first two layers, {RECOVERY * TIMES} recovery steps in all, gradually in {TIMES} times\n")
        print(_table(gradual, floats), "\n")
    print(f"{time.perf_counter() - started:.0f} s")
    finish(lines)


if __name__ == "__main__":
    main()
