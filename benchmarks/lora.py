"""Recovery with few numbers: low-rank pairs, norms, biases and scales beside training the whole model.

    python -m benchmarks.lora            the table: three seeds, some five minutes on one core
    python -m benchmarks.lora --quick    one seed and a few steps: that everything runs is all it says

The model is the built-in one that sees, hears and reads (`trimodal.demo`, trained here, 2.7 million numbers); right answers are counted
on its test split, of which no writer, voice or wording was met. Recovery sees 256 questions of the training split without their
answers. A seed decides these, their order, and how pairs begin.

Two damages, chosen for what they cost on the validation split (40 and 10 points), before anything was recovered: `pruned` takes three
quarters of the neurons and of the heads; `2 bits` rounds every weight to the nearest of four numbers per tensor, embeddings,
convolutions and heads too. Every recovery has the same steps and batch. Learning rates were chosen on the validation split, with other
questions, for `pruned`: 5e-4 for the whole model (1.5e-3 was worse), 1e-2 for pairs (of 5e-3, 1e-2, 2e-2), 5e-3 for norms, biases
and scales. A first run with 2e-3 for pairs won back 29 % of what training all does: 40 steps are few for them.

Lines, fixed before the first run:

    pruned: gain of the pairs over that of training all, mean        >= 0.70
    pruned: numbers that are trained for it, of those of all          <= 0.05
    2 bits: pairs that begin with the error minus pairs that begin at zero, points, mean        >= 0
    2 bits: pairs that begin with the error minus norms, biases and scales together, points, mean      >= 0
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.passlines import PassLine, finish, table
from trimodal.compression import compress_
from trimodal.core import Calibration, Plan, Sample, Source
from trimodal.data import open_data, read_samples
from trimodal.demo.seehearread import write_dataset
from trimodal.demo.training import score_demo_model, unpack_demo_model
from trimodal.formats import open_model
from trimodal.methods.distill.trained_parts import free_parameters
from trimodal.models.model import Model
from trimodal.models.tensors import tensor_bytes, unique_tensors
from trimodal.networks.fusion import FusionProcessor
from trimodal.planning import plan_edits, read_recipe

RANK = 2
DAMAGES: Mapping[str, list[Any]] = {
    "pruned": [
        {"prune.neurons": {"where": "*", "optional": True, "sparsity": 0.75}},
        {"prune.heads": {"where": "*", "optional": True, "sparsity": 0.75}},
    ],
    "2 bits": [{"quantize.rtn": {"where": "*", "optional": True, "bits": 2, "group": "tensor"}}],
}
SMALL, PAIRS = 5e-3, 1e-2


def _train(part: str) -> dict[str, Any]:
    return {"distill": {"train": part, "learning_rate": SMALL}}


def _pairs(**options: Any) -> dict[str, Any]:
    return {"distill.lora": {"where": "*", "optional": True, "rank": RANK, "learning_rate": PAIRS, **options}}


WAYS: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "pruned": {"all": {"distill": {"learning_rate": 5e-4}}, "LoRA": _pairs(), "norms, biases": _train("small")},
    "2 bits": {
        "norms": _train("norms"), "biases": _train("biases"), "scales": _train("scales"), "norms, biases, scales": _train("small"),
        "LoRA": _pairs(), "LoRA from the error": _pairs(init="error"),
    },
}  # fmt: skip


FIRST_SEED_ONLY = {("pruned", "norms, biases"), ("2 bits", "norms"), ("2 bits", "biases"), ("2 bits", "scales")}
"""Rows that no line speaks of."""


@dataclass(frozen=True)
class Mode:
    """How long it takes."""

    seeds: tuple[int, ...]
    steps: int
    samples: int
    questions: int


FULL, QUICK = Mode((0, 1, 2), 40, 256, 400), Mode((0,), 3, 64, 100)
BATCH = 16


@dataclass(frozen=True)
class Result:
    """One recovery: the shares of right answers of the damaged and of the recovered model, the numbers that were trained, and the bytes
    of the result."""

    damage: str
    way: str
    seed: int
    before: float
    after: float
    trained: int
    bytes: int

    @property
    def gain(self) -> float:
        """Points won back."""
        return 100 * (self.after - self.before)


def carry_out(model: Model, steps: Sequence[Any], samples: Sequence[Sample], original: Model, seed: int) -> tuple[Model, Plan]:
    """A copy of `model` after `steps`."""
    found = replace(model, module=copy.deepcopy(model.module), steps=list(model.steps))
    edits, _ = plan_edits(found.layout, read_recipe({"steps": list(steps)}), True)
    calibration = Calibration(len(samples), None, ("image", "audio", "text"), "modality")
    plan = Plan(seed, Source(model.name, model.family.name, "", 0, 0), calibration, edits, 0)
    compress_(found, plan, samples, samples, original)
    return found, plan


def count_trained(model: Model, step: Mapping[str, Any], plan: Plan) -> int:
    """The numbers that a recovery trains."""
    if "distill" in step:
        with free_parameters(model.module, model.layout, step["distill"].get("train", "all"), "distill") as count:
            return count
    sites = [model.layout.get_site(path) for place in plan.edits[0].places for path in place.paths]
    return sum(RANK * (site.rows + site.columns) for site in sites)


def run_seed(original: Model, processor: FusionProcessor, samples: Sequence[Sample], mode: Mode, seed: int) -> list[Result]:
    """All recoveries from all damages."""

    def score(model: Model) -> float:
        return score_demo_model(model.module, processor, count=mode.questions).answer

    found = []
    for damage, ways in WAYS.items():
        damaged, _ = carry_out(original, DAMAGES[damage], samples, original, seed)
        before = score(damaged)
        for way, step in ways.items():
            if seed and (damage, way) in FIRST_SEED_ONLY:
                continue
            ((name, options),) = step.items()
            recovered, plan = carry_out(damaged, [{name: {"steps": mode.steps, "batch": BATCH, **options}}], samples, original, seed)
            size = tensor_bytes(unique_tensors(recovered.module).values())
            one = Result(damage, way, seed, before, score(recovered), count_trained(damaged, step, plan), size)
            found.append(one)
            print(f"{json.dumps(asdict(one))}", flush=True)
    return found


def show(results: Sequence[Result], original: float) -> str:
    """A row per damage and way."""
    rows = [("original", "", "", "", f"{100 * original:.1f}", "")]
    for damage, ways in WAYS.items():
        of = [one for one in results if one.damage == damage]
        rows.append((damage, "nothing", "0", "", _show([100 * one.before for one in of]), ""))
        for way in ways:
            own = [one for one in of if one.way == way]
            rows.append((
                damage, way, f"{own[0].trained:,}", f"{own[0].bytes / 1e6:.2f} MB", _show([100 * one.after for one in own]),
                _show([one.gain for one in own]),
            ))  # fmt: skip
    return table(("damage", "trained", "numbers", "size", "right answers, %", "gain, points"), rows)


def _show(values: Sequence[float]) -> str:
    spread = f" ({min(values):.1f} to {max(values):.1f})" if max(values) - min(values) >= 0.05 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def judge(results: Sequence[Result]) -> list[PassLine]:
    """The lines of the docstring."""

    def gain(damage: str, way: str) -> float:
        return statistics.mean(one.gain for one in results if (one.damage, one.way) == (damage, way))

    trained = {(one.damage, one.way): one.trained for one in results}
    return [
        PassLine("pruned: gain of LoRA over that of training all", gain("pruned", "LoRA") / gain("pruned", "all"), least=0.70),
        PassLine("pruned: numbers trained for LoRA, of those of all", trained["pruned", "LoRA"] / trained["pruned", "all"], most=0.05),
        PassLine("2 bits: LoRA from the error minus from zero, points",
                 gain("2 bits", "LoRA from the error") - gain("2 bits", "LoRA"), least=0.0),
        PassLine("2 bits: LoRA from the error minus norms, biases and scales, points",
                 gain("2 bits", "LoRA from the error") - gain("2 bits", "norms, biases, scales"), least=0.0),
    ]  # fmt: skip


def run_all(mode: Mode) -> tuple[list[Result], float]:
    """All recoveries, and the share of right answers of the model as it was."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = unpack_demo_model(Path(scratch) / "model")
        original, processor = open_model(folder), FusionProcessor.from_pretrained(folder)
        results = []
        for seed in mode.seeds:
            data = write_dataset(Path(scratch) / f"data{seed}", train=mode.samples, test=1, seed=seed)
            samples = [sample for sample in read_samples(open_data(data / "data.jsonl")) if sample.split == "train"]
            results += run_seed(original, processor, samples, mode, seed)
        whole = score_demo_model(original.module, processor, count=mode.questions).answer
    print(json.dumps({"original": whole}), flush=True)
    return results, whole


def read_results(file: Path) -> tuple[list[Result], float]:
    """What runs have printed."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    return [Result(**line) for line in lines if "way" in line], next(line["original"] for line in lines if "original" in line)


def main() -> None:
    """Damage, recover, score, print the table and the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and a few steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=FULL.seeds, help="in place of 0 1 2")
    parser.add_argument("--from", type=Path, dest="found", help="judge the lines that such runs have printed, and run nothing")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    mode, started = QUICK if given.quick else replace(FULL, seeds=tuple(given.seeds)), time.perf_counter()
    results, whole = read_results(given.found) if given.found else run_all(mode)
    print(show(results, whole))
    print(f"\n{len(mode.seeds)} seeds, {mode.steps} steps of {BATCH}, {mode.questions:,} questions; {time.perf_counter() - started:.0f} s")
    if given.quick:
        print("Quick mode: that everything runs is all it says.")
        return
    finish(judge(results))


if __name__ == "__main__":
    main()
