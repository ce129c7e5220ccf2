"""Where should streams meet? The kinds of fusion at equal parameters on the see-hear-read task, whole and with a stream missing or noisy.

`python -m benchmarks.fusion` is the quick mode: one seed and few steps, under two minutes on two idle cores, to see that everything runs.
Its accuracies are those of models that have hardly begun to learn and rank nothing. `--full` trains three seeds for long enough to rank
them, and compresses each model by one recipe (`int8-full`).

All models have about nine Transformer blocks of width 64 and our own stems, and differ in where the blocks stand:

    early       0 in each tower, 9 over the tokens of all
    late        3, 3 and 2 in the towers of image, audio and text; means joined by a gate and a perceptron
    hybrid      2 in each tower, 1 of cross-attention between streams, 2 over all
    layerwise   1 in each tower, 2 for each stream that exchange four bottleneck tokens

Every answer needs all three streams; so with one of them missing the best that can be known is the likeliest answer to what is left. In
training each sample lacks each stream with a probability of a tenth. Besides the answer the models say the digit seen, the digit heard and
the operation, from the same vector. Noise: one standard deviation on pixels and log-mel energies, every other word hidden.

Lines, fixed before running. Always: parameters within 5 % of each other; what a missing stream's tensor holds changes nothing. With
`--full`: every kind at least three times as often right as the commonest answer; hybrid no more than a point behind late; with any one
stream missing no model falls more than two points below the commonest answer; `int8-full` costs no kind more than a point.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import trimodal
from benchmarks.passlines import PassLine, finish, table
from trimodal.demo.seehearread import ANSWERS, OPERATIONS, draw_questions, load_handwriting
from trimodal.demo.training import (
    ANSWER_TABLE,
    QuestionBatches,
    make_demo_config,
    make_demo_processor,
    prepare_material,
)
from trimodal.inventory import inspect
from trimodal.loading.load import build_model
from trimodal.networks.multimodal import MultimodalConfig, MultimodalModel
from trimodal.training.batchwise import train_on_batches
from trimodal.training.settings import EngineSettings

Batch = dict[str, Tensor]
BLOCKS = {"early": ((0, 0, 0), 9), "late": ((3, 3, 2), 0), "hybrid": ((2, 2, 2), 3), "layerwise": ((1, 1, 1), 2)}
"""By kind the blocks in each tower, and those in the fusion, or of each stream in it."""
WIDTH, SIZE, MISSING = 64, 64, 0.1
NAMES = {"image": ("pixel_values",), "audio": ("input_features", "audio_mask"), "text": ("input_ids", "attention_mask")}
CONDITIONS = ("all", *(f"no {name}" for name in NAMES), *(f"noisy {name}" for name in NAMES))


@dataclass(frozen=True)
class Mode:
    """How much is done: seeds, optimizer steps, batches that are kept and paired anew, test questions."""

    seeds: tuple[int, ...]
    steps: int
    kept: int
    test: int
    compress: bool


QUICK = Mode((0,), 120, 12, 400, False)
FULL = Mode((0, 1, 2), 4000, 400, 2000, True)


@dataclass(frozen=True)
class Run:
    """One trained model: parameters, MACs of one sample, fractions right by condition, and those of the compressed one."""

    kind: str
    parameters: int
    macs: int
    right: Mapping[str, float]
    smaller: Mapping[str, float]


class Bank:
    """Augmented inputs, made once; `bank(number)` pairs images, sounds and texts at random and leaves out a tenth of each."""

    def __init__(self, batches: int, seed: int) -> None:
        processor = make_demo_processor(make_demo_config())
        self.words, self.unknown = len(processor.tokenizer), int(processor.tokenizer.unk_token_id)
        source = QuestionBatches(prepare_material(processor), processor, SIZE, seed)
        parts = {name: [self._make(source, name) for _ in range(batches)] for name in NAMES}
        self.kept = {name: {key: _join([part[key] for part in found]) for key in found[0]} for name, found in parts.items()}
        self.chance = torch.Generator().manual_seed(seed)
        self.processor = processor

    @staticmethod
    def _make(source: QuestionBatches, name: str) -> Batch:
        made: Batch = getattr(source, f"make_{name}_batch")()
        return made

    def __call__(self, number: int) -> Batch:
        """Batch `number` (SIZE, …)."""
        batch: Batch = {}
        for kept in self.kept.values():
            rows = torch.randint(len(next(iter(kept.values()))), (SIZE,), generator=self.chance)
            batch |= {key: value[rows] for key, value in kept.items()}
        batch["labels"] = ANSWER_TABLE[batch["text_labels"], batch["image_labels"], batch["audio_labels"]]
        present = torch.rand(SIZE, len(NAMES), generator=self.chance) >= MISSING
        present[:, 0] |= ~present.any(dim=1)
        return batch | {f"{name}_present": present[:, i].long() for i, name in enumerate(NAMES)}


def _join(parts: Sequence[Tensor]) -> Tensor:
    """Rows of several batches, padded with zeros to the longest."""
    if parts[0].dim() < 2:
        return torch.cat(list(parts))
    longest = max(part.shape[-1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, longest - part.shape[-1])) for part in parts])


def make_model(kind: str, words: int, seed: int) -> Any:
    """A fresh model with its blocks where `kind` has them."""
    towers, fusion = BLOCKS[kind]
    stems = {
        "image": {"channels": 1, "length": 16, "patch": 4}, "audio": {"channels": 40, "length": 100, "patch": 5},
        "text": {"channels": words, "length": 32},
    }  # fmt: skip
    streams = {
        name: {"modality": name, "width": WIDTH, "blocks": blocks, **stem}
        for (name, stem), blocks in zip(stems.items(), towers, strict=True)
    }
    torch.manual_seed(seed)
    return MultimodalModel(MultimodalConfig(
        streams=streams, fusion=kind, fusion_width=WIDTH, fusion_blocks=fusion, cross_blocks=min(1, fusion),
        exchange_at=list(range(fusion)), num_labels=len(ANSWERS), label_sets={"image": 10, "audio": 10, "text": len(OPERATIONS)},
        label_set_weight=1.0,
    ))  # fmt: skip


def make_test(bank: Bank, count: int) -> Batch:
    """Questions with writers, voices and wordings that training has not seen, and their `labels`."""
    items = draw_questions("test", count, 0)
    handwriting = load_handwriting("test")
    images = dict(zip(handwriting.indices.tolist(), handwriting.images, strict=True))
    made = bank.processor(
        images=[images[item.image][:, :, None] for item in items], audio=[item.clip.samples for item in items], text=[i.text for i in items]
    )
    return {**{key: torch.as_tensor(value) for key, value in made.items()}, "labels": torch.tensor([item.label for item in items])}


def change(batch: Batch, condition: str, unknown: int) -> Batch:
    """The test under `condition`."""
    how, _, name = condition.partition(" ")
    if how == "no":
        return {key: value for key, value in batch.items() if key not in NAMES[name]}
    chance = torch.Generator().manual_seed(0)
    if how == "noisy" and name == "text":
        hidden = torch.rand(batch["input_ids"].shape, generator=chance) < 0.5
        return {**batch, "input_ids": batch["input_ids"].masked_fill(hidden & batch["attention_mask"].bool(), unknown)}
    if how == "noisy":
        key = NAMES[name][0]
        return {**batch, key: batch[key] + batch[key].std() * torch.randn(batch[key].shape, generator=chance)}
    return batch


@torch.inference_mode()
def score(model: Any, test: Batch, unknown: int) -> dict[str, float]:
    """Fractions right by condition."""
    model.eval()
    found = {}
    for condition in CONDITIONS:
        batch = change(test, condition, unknown)
        labels = batch["labels"]
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        parts = [{key: value[i : i + 200] for key, value in inputs.items()} for i in range(0, len(labels), 200)]
        said = torch.cat([model(**part).logits.argmax(dim=1) for part in parts])
        found[condition] = float((said == labels).float().mean())
    return found


@torch.inference_mode()
def find_leak(model: Any, test: Batch) -> float:
    """The largest change of a logit when a stream that is said to be missing holds other numbers."""
    few = {key: value[:8] for key, value in test.items() if key != "labels"}
    worst = 0.0
    for name, keys in NAMES.items():
        other = {**few, keys[0]: few[keys[0]].flip(0), f"{name}_present": torch.zeros(8).long()}
        worst = max(worst, float((model(**other).logits - model(**{**other, keys[0]: few[keys[0]]}).logits).abs().max()))
    return worst


def compress_model(model: Any, bank: Bank, scratch: Path) -> Any:
    """The same model by the recipe `int8-full`, loaded again."""
    rows = []
    for number in range(4):
        batch = {key: value for key, value in bank(number).items() if not key.endswith("_labels")}
        rows += [{key: value[i] for key, value in batch.items()} for i in range(SIZE)]
    for index, row in enumerate(rows):
        row["label"], row["split"] = int(row.pop("labels")), "test" if index % 5 == 0 else "train"
    model.save_pretrained(scratch / "model")
    trimodal.compress(scratch / "model", "int8-full", rows, scratch / "out", force=True)
    return trimodal.load(scratch / "out")


def run(kind: str, seed: int, mode: Mode, bank: Bank, test: Batch) -> tuple[Run, float]:
    """One model trained and scored; and what leaks of a missing stream."""
    model = make_model(kind, bank.words, seed)
    settings = EngineSettings(mode.steps, learning_rate=1e-3, weight_decay=0.05, warmup=0.1, seed=seed)
    train_on_batches(model, bank, lambda net, batch: net(**batch).loss, settings)
    macs = inspect(build_model(model, kind)).macs or 0
    right, smaller = score(model, test, bank.unknown), dict[str, float]()
    leak = find_leak(model, test)
    if mode.compress:
        with tempfile.TemporaryDirectory() as scratch:
            smaller = score(compress_model(model, bank, Path(scratch)), test, bank.unknown)
    return Run(kind, sum(value.numel() for value in model.parameters()), macs, right, smaller), leak


def show(runs: Sequence[Run], common: float) -> str:
    """A row for each kind: means over seeds in percent, with the range where there are several."""
    rows = []
    for kind in dict.fromkeys(one.kind for one in runs):
        own = [one for one in runs if one.kind == kind]
        cells = [_show_percent([one.right[condition] for one in own]) for condition in CONDITIONS]
        smaller = [one.smaller["all"] for one in own if one.smaller]
        rows.append((
            kind, f"{own[0].parameters:,}", f"{own[0].macs / 1e6:.1f} M", *cells, _show_percent(smaller) if smaller else "not run",
        ))  # fmt: skip
    rows.append(("commonest answer", "", "", f"{100 * common:.1f}", *[""] * len(CONDITIONS)))
    return table(("fusion", "parameters", "MACs", *CONDITIONS, "int8-full"), rows)


def _show_percent(values: Sequence[float]) -> str:
    low, high = (f"{100 * value:.1f}" for value in (min(values), max(values)))
    return f"{100 * statistics.mean(values):.1f}" + (f" ({low} to {high})" if len(values) > 1 else "")


def judge(runs: Sequence[Run], leak: float, common: float, full: bool) -> list[PassLine]:
    """The lines of the docstring."""
    sizes = [one.parameters for one in runs]
    lines = [
        PassLine("parameters, largest over smallest", max(sizes) / min(sizes), most=1.05),
        PassLine("largest change by what a missing stream holds", leak, most=0.0),
    ]
    if not full:
        return lines
    kinds = {one.kind: [other for other in runs if other.kind == one.kind] for one in runs}
    mean = {kind: {c: statistics.mean(one.right[c] for one in own) for c in CONDITIONS} for kind, own in kinds.items()}
    missing = min(found[f"no {name}"] for found in mean.values() for name in NAMES)
    lost = max(one.right["all"] - one.smaller["all"] for one in runs)
    return [
        *lines,
        PassLine("worst kind over the commonest answer", min(found["all"] for found in mean.values()) / common, least=3.0),
        PassLine("hybrid minus late, points", 100 * (mean["hybrid"]["all"] - mean["late"]["all"]), least=-1.0),
        PassLine("worst with a stream missing minus the commonest answer, points", 100 * (missing - common), least=-2.0),
        PassLine("most lost by int8-full, points", 100 * lost, most=1.0),
    ]


def main() -> None:
    """Train, score, print the table and the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="three seeds, long enough to rank the kinds, and compression")
    parser.add_argument("--kinds", nargs="+", default=list(BLOCKS), choices=list(BLOCKS), help="all are needed for the lines of --full")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    mode, started = FULL if given.full else QUICK, time.perf_counter()
    bank = Bank(mode.kept, 0)
    test = make_test(bank, mode.test)
    common = float(torch.bincount(test["labels"]).max() / len(test["labels"]))
    found = [run(kind, seed, mode, bank, test) for kind in given.kinds for seed in mode.seeds]
    runs, leak = [one for one, _ in found], max(worst for _, worst in found)
    print(show(runs, common))
    print(f"\n{len(mode.seeds)} seeds, {mode.steps:,} steps of {SIZE}, {mode.test:,} questions; {time.perf_counter() - started:.0f} s")
    if not given.full:
        print("Quick mode: models that have hardly begun to learn. That everything runs is all it says.")
    finish(judge(runs, leak, common, given.full))


if __name__ == "__main__":
    main()
