"""Where should streams meet? The kinds of fusion at equal parameters on the see-hear-read task, whole and with a stream missing or noisy.

`python -m benchmarks.fusion` trains three seeds of each kind and compresses each model by one recipe (`int8-full`): 15 minutes on two
idle cores. `--quick` trains one seed for few steps, under two minutes, to see that everything runs: the accuracies are those of models that
have hardly begun to learn and rank nothing. `--long` trains three times the steps, some 45 minutes, to see whether kinds that
learn slowly catch up. `--keep FILE` writes each model's numbers down when it is done, and takes those that stand
there instead of training anew.

All models have about nine Transformer blocks of width 64 and our own stems, and differ in where the blocks stand:

    early       0 in each tower, 9 over the tokens of all
    late        3, 3 and 2 in the towers of image, audio and text; means joined by a gate and a perceptron
    hybrid      2 in each tower, 1 of cross-attention between streams, 2 over all
    layerwise   1 in each tower, 2 for each stream that exchange four bottleneck tokens

Every answer needs all three streams; so with one of them missing the best that can be known is the likeliest answer to what is left.
Besides the answer the models say the digit seen, the digit heard and the operation, from the same vector. In the first steps each batch
has one stream and its own label, so that streams are understood before they are joined; without this, early and hybrid fusion had not
begun to join anything after 800 steps. Then batches have all three, and each sample lacks each stream with a probability of a tenth.
Noise: one standard deviation on pixels and log-mel energies, every other word hidden. All kinds of one seed see the same batches in the
same order. MACs are of one sample at full length.

Lines, fixed before running. Always: parameters within 5 % of each other; what a missing stream's tensor holds changes nothing. Not with
`--quick`: every kind at least three times as often right as the commonest answer; hybrid no more than a point behind late; with any one
stream missing no model falls more than two points below the commonest answer; `int8-full` costs no model more than a point, and
takes at most 0.35 of the bytes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
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
from trimodal.training.objective import IGNORED
from trimodal.training.settings import EngineSettings

Batch = dict[str, Tensor]
BLOCKS = {"early": ((0, 0, 0), 9), "late": ((3, 3, 2), 0), "hybrid": ((2, 2, 2), 3), "layerwise": ((1, 1, 1), 2)}
"""By kind the blocks in each tower, and those in the fusion, or of each stream in it."""
WIDTH, SIZE, MISSING = 64, 64, 0.1
NAMES = {"image": ("pixel_values",), "audio": ("input_features", "audio_mask"), "text": ("input_ids", "attention_mask")}
CONDITIONS = ("all", *(f"no {name}" for name in NAMES), *(f"noisy {name}" for name in NAMES))


@dataclass(frozen=True)
class Mode:
    """How much is done: seeds, optimizer steps, those of them with one stream, batches that are kept and paired anew, test questions."""

    seeds: tuple[int, ...]
    steps: int
    alone: int
    kept: int
    test: int
    compress: bool

    @property
    def name(self) -> str:
        """What numbers of the same training have in common."""
        return f"{self.steps} steps, {self.alone} of one stream, {self.kept} batches, {self.test} questions"


QUICK = Mode((0,), 150, 50, 12, 400, False)
FULL = Mode((0, 1, 2), 1150, 350, 200, 2000, True)
LONG = Mode((0, 1, 2), 3450, 1050, 200, 2000, True)
LEARNING_RATE = 1.5e-3
TURNS = ("image", "audio", "audio", "text", "image", "audio")
"""Which stream a batch of one stream has: sounds take longest to be understood, texts are understood at once."""


@dataclass(frozen=True)
class Run:
    """One trained model: parameters, MACs of one sample, fractions right by condition, those of the compressed one and its share of the
    bytes, the largest change of a logit by what stands in the place of a missing stream, and seconds of training."""

    kind: str
    seed: int
    mode: str
    parameters: int
    macs: int
    right: Mapping[str, float]
    smaller: Mapping[str, float]
    share: float
    leak: float
    seconds: float


class Bank:
    """Augmented inputs, made once; `bank(number)` pairs images, sounds and texts at random and leaves out a tenth of each; of the
    first batches each has one stream."""

    def __init__(self, batches: int, seed: int) -> None:
        processor = make_demo_processor(make_demo_config())
        self.words, self.unknown = len(processor.tokenizer), int(processor.tokenizer.unk_token_id)
        source = QuestionBatches(prepare_material(processor), processor, SIZE, seed)
        parts = {name: [self._make(source, name) for _ in range(batches)] for name in NAMES}
        self.kept = {name: {key: _join([part[key] for part in found]) for key in found[0]} for name, found in parts.items()}
        self.begin(seed)
        self.processor = processor

    def begin(self, seed: int, alone: int = 0) -> None:
        """Begin the batches of `seed`, the first `alone` of one stream."""
        self.chance, self.alone = torch.Generator().manual_seed(seed), alone

    @staticmethod
    def _make(source: QuestionBatches, name: str) -> Batch:
        made: Batch = getattr(source, f"make_{name}_batch")()
        return made

    def __call__(self, number: int) -> Batch:
        """Batch `number` (SIZE, …)."""
        batch: Batch = {}
        names = [TURNS[number % len(TURNS)]] if number < self.alone else list(NAMES)
        for kept in [self.kept[name] for name in names]:
            rows = torch.randint(len(next(iter(kept.values()))), (SIZE,), generator=self.chance)
            batch |= {key: value[rows] for key, value in kept.items()}
        if len(names) == 1:
            return batch
        batch["labels"] = ANSWER_TABLE[batch["text_labels"], batch["image_labels"], batch["audio_labels"]]
        present = torch.rand(SIZE, len(NAMES), generator=self.chance) >= MISSING
        present[:, 0] |= ~present.any(dim=1)
        for i, name in enumerate(NAMES):
            batch[f"{name}_labels"] = batch[f"{name}_labels"].masked_fill(~present[:, i], IGNORED)
            batch[f"{name}_present"] = present[:, i].long()
        return batch


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


def compress_model(model: Any, bank: Bank, scratch: Path) -> tuple[Any, float]:
    """The same model by the recipe `int8-full`, loaded again, and its share of the bytes of the weights."""
    rows: list[dict[str, Any]] = []
    for _ in range(4):
        batch = {key: value for key, value in bank(bank.alone).items() if not key.endswith("_labels")}
        rows += [{key: value[i] for key, value in batch.items()} for i in range(SIZE)]
    for index, row in enumerate(rows):
        row["label"], row["split"] = int(row.pop("labels")), "test" if index % 5 == 0 else "train"
    model.save_pretrained(scratch / "model")
    trimodal.compress(scratch / "model", "int8-full", rows, scratch / "out", force=True)
    before, after = (sum(file.stat().st_size for file in (scratch / name).glob("*.safetensors")) for name in ("model", "out"))
    return trimodal.load(scratch / "out"), after / before


@cache
def prepare(mode: Mode) -> tuple[Bank, Batch]:
    """What a process trains and tests with."""
    return Bank(mode.kept, 0), make_test(Bank(1, 0), mode.test)


def run(kind: str, seed: int, mode: Mode) -> Run:
    """One model trained, scored, and compressed."""
    torch.set_num_threads(1)
    bank, test = prepare(mode)
    bank.begin(seed, mode.alone)
    model, started = make_model(kind, bank.words, seed), time.perf_counter()
    settings = EngineSettings(mode.steps, learning_rate=LEARNING_RATE, weight_decay=0.05, warmup=0.1, seed=seed)
    train_on_batches(model, bank, lambda net, batch: net(**batch).loss, settings)
    seconds = time.perf_counter() - started
    macs = inspect(build_model(model, kind)).macs or 0
    right, smaller, share = score(model, test, bank.unknown), dict[str, float](), 0.0
    leak = find_leak(model, test)
    if mode.compress:
        with tempfile.TemporaryDirectory() as scratch:
            small, share = compress_model(model, bank, Path(scratch))
            smaller = score(small, test, bank.unknown)
    parameters = sum(value.numel() for value in model.parameters())
    return Run(kind, seed, mode.name, parameters, macs, right, smaller, share, leak, seconds)


def run_all(kinds: Sequence[str], mode: Mode, processes: int, keep: Path | None) -> list[Run]:
    """All runs, seed after seed, so many at a time; those that `keep` has are taken from there."""
    known = {(one.kind, one.seed): one for one in _read_kept(keep) if one.mode == mode.name}
    jobs = [(kind, seed) for seed in mode.seeds for kind in kinds]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run, *job, mode) for job in jobs if job not in known]):
            one = future.result()
            known[one.kind, one.seed] = one
            print(_tell(one), flush=True)
            if keep is not None:
                with keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(one)) + "\n")
    return [known[job] for job in jobs]


def _tell(one: Run) -> str:
    return f"{one.kind}, seed {one.seed}: {100 * one.right['all']:.1f} % after {one.seconds:.0f} s"


def _read_kept(keep: Path | None) -> Iterator[Run]:
    if keep is not None and keep.is_file():
        yield from (Run(**json.loads(line)) for line in keep.read_text(encoding="utf-8").splitlines())


def show(runs: Sequence[Run], common: float) -> str:
    """A row for each kind, and one for it compressed: means over seeds in percent, with the range where there are several."""
    rows = []
    for kind in dict.fromkeys(one.kind for one in runs):
        own = [one for one in runs if one.kind == kind]
        cells = [_show_percent([one.right[condition] for one in own]) for condition in CONDITIONS]
        rows.append((kind, f"{own[0].parameters:,}", f"{own[0].macs / 1e6:.1f} M", *cells))
        if all(one.smaller for one in own):
            cells = [_show_percent([one.smaller[condition] for one in own]) for condition in CONDITIONS]
            rows.append(("  int8-full", f"{statistics.mean(one.share for one in own):.2f} of the bytes", "", *cells))
    rows.append(("commonest answer", "", "", f"{100 * common:.1f}", *[""] * (len(CONDITIONS) - 1)))
    return table(("fusion", "parameters", "MACs", *CONDITIONS), rows)


def _show_percent(values: Sequence[float]) -> str:
    low, high = (f"{100 * value:.1f}" for value in (min(values), max(values)))
    return f"{100 * statistics.mean(values):.1f}" + (f" ({low}–{high})" if len(values) > 1 else "")


def judge(runs: Sequence[Run], common: float, full: bool) -> list[PassLine]:
    """The lines of the docstring."""
    sizes = [one.parameters for one in runs]
    lines = [
        PassLine("parameters, largest over smallest", max(sizes) / min(sizes), most=1.05),
        PassLine("largest change by what a missing stream holds", max(one.leak for one in runs), most=0.0),
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
        PassLine("largest share of the bytes after int8-full", max(one.share for one in runs), most=0.35),
    ]


def main() -> None:
    """Train, score, print the table and the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and few steps, to see that everything runs")
    parser.add_argument("--long", action="store_true", help="three times as many steps")
    parser.add_argument("--kinds", nargs="+", default=list(BLOCKS), choices=list(BLOCKS), help="all are needed for the lines")
    parser.add_argument("--processes", type=int, default=2, help="models that are trained at a time, each by one thread")
    parser.add_argument("--keep", type=Path, help="file of numbers of models that are done")
    given = parser.parse_args()
    mode, started = QUICK if given.quick else LONG if given.long else FULL, time.perf_counter()
    runs = run_all(given.kinds, mode, given.processes, given.keep)
    labels = make_test(Bank(1, 0), mode.test)["labels"]
    common = float(torch.bincount(labels).max() / len(labels))
    print(show(runs, common))
    print(f"\n{len(mode.seeds)} seeds, {mode.steps:,} steps of {SIZE}, {mode.test:,} questions; {time.perf_counter() - started:.0f} s")
    if given.quick:
        print("Quick mode: models that have hardly begun to learn. That everything runs is all it says.")
    finish(judge(runs, common, mode is not QUICK and len(given.kinds) == len(BLOCKS)))


if __name__ == "__main__":
    main()
