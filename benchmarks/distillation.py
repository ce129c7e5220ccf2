"""Does a teacher help, and how: a small model trained from few labels, alone and with a teacher; in rounds; two encoders from few pairs.

`python -m benchmarks.distillation` takes about six minutes on an idle core; `--quick` runs everything with few steps, under a
minute, to see that it works: its numbers rank nothing. All runs are `trimodal train`; data are drawn by `examples/training/draw_shapes.py`,
and nothing is loaded.

Few labels. Which of four shapes does an image show? A Vision Transformer of four blocks of width 64 learns it from 1,500 labelled images:
the teacher. Students have 60 labels, another 60 for each seed:

    scratch            two blocks of width 32, the 60 labelled images
    distilled          the same student, the same random weights, as many steps: the teacher's scores of all 1,500 images, and the labels
    … and features     the distance of matched blocks besides, through learned maps
    … and relations    the relations of queries, keys and values of the last block besides, without maps
    one round          one block of width 64, the teacher's first, distilled
    two rounds         the teacher's first and last block, distilled; of these the first, distilled

Two encoders. CLIP's own classes, captions of the same images: a teacher (three and two blocks of width 64) from 1,500 pairs; students
(two and one block of width 32) from 200 of them:

    contrastive        the pairs alone
    affinity           and the teacher's similarities of images and texts
    embeddings         and the teacher's embeddings, through learned maps

Test: 800 further images; retrieval both ways, mean. Each student is compared with that of the same seed in another row.

Lines, fixed before running: distilled beats scratch by at least 2 points, paired over seeds, p < 0.05 (t-test, one-sided); two rounds at
most 0.3 points behind one; affinity and embeddings each no worse than contrastive alone; embeddings no worse than affinity (the order in
CLIP-KD, Yang et al. 2024, arXiv 2307.12732: of all single terms the distance of features helps most).
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import ttest_rel

import trimodal
from benchmarks.passlines import PassLine, finish, table

Row = dict[str, Any]
_SHAPES = Path(__file__).parents[1] / "examples" / "training" / "draw_shapes.py"
_IMAGE = {"image": {"class": "ViTImageProcessor", "size": {"height": 32, "width": 32}}}


@dataclass(frozen=True)
class Mode:
    """How much is done."""

    seeds: int
    images: int
    test: int
    labels: int
    pairs: int
    teacher_steps: int
    steps: int
    pair_steps: int


QUICK = Mode(seeds=2, images=240, test=240, labels=24, pairs=60, teacher_steps=6, steps=4, pair_steps=4)
FULL = Mode(seeds=3, images=1500, test=800, labels=60, pairs=200, teacher_steps=800, steps=300, pair_steps=200)


@dataclass(frozen=True)
class Shapes:
    """Where everything is written, and the drawn rows: those to learn from, and those to be tested with."""

    folder: Path
    learn: list[Row]
    test: list[Row]

    def choose_labelled(self, count: int, seed: int, others: bool) -> list[Row]:
        """The rows of a run with `count` labels that the seed chooses; the `others` without label, or not at all."""
        chosen = set(random.Random(seed).sample(range(len(self.learn)), count))
        labelled = [_pick(row, "label", "train") for at, row in enumerate(self.learn) if at in chosen]
        rest = [_pick(row, "", "train") for at, row in enumerate(self.learn) if at not in chosen]
        return [*labelled, *(rest if others else []), *(_pick(row, "label", "test") for row in self.test)]

    def choose_pairs(self, count: int, seed: int) -> list[Row]:
        """The rows of a run with `count` captioned images that the seed chooses."""
        chosen = random.Random(seed).sample(self.learn, count)
        return [*(_pick(row, "text", "train") for row in chosen), *(_pick(row, "text", "test") for row in self.test)]


def _pick(row: Row, what: str, split: str) -> Row:
    return {"image": row["image"], "split": split, "group": row["image"], **({what: row[what]} if what else {})}


def draw_shapes(folder: Path, mode: Mode) -> Shapes:
    """Draw all images."""
    spec = importlib.util.spec_from_file_location("draw_shapes", _SHAPES)
    assert spec is not None and spec.loader is not None
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    chance, rows = random.Random(0), []
    for number in range(mode.images + mode.test):
        image, caption, shape = drawing.draw_shape(chance)
        path = folder / f"{number}.png"
        image.save(path)
        rows.append({"image": str(path), "text": caption, "label": shape})
    return Shapes(folder, rows[: mode.images], rows[mode.images :])


def make_vit(blocks: int, width: int) -> dict[str, Any]:
    """A Vision Transformer of patches of 8 by 8, with heads of width 16."""
    sizes = {"hidden_size": width, "num_hidden_layers": blocks, "num_attention_heads": width // 16, "intermediate_size": 2 * width}
    config = {**sizes, "image_size": 32, "patch_size": 8, "num_labels": 4}
    return {"class": "ViTForImageClassification", "config": config, "processors": _IMAGE}


def make_clip(image_blocks: int, text_blocks: int, width: int, tokenizer: Path | None) -> dict[str, Any]:
    """CLIP's classes with heads of width 16; the processors are those of `tokenizer`, a folder, or made for the captions."""
    sizes = {"hidden_size": width, "num_attention_heads": width // 16, "intermediate_size": 2 * width}
    vision = {**sizes, "num_hidden_layers": image_blocks, "image_size": 32, "patch_size": 8}
    text = {**sizes, "num_hidden_layers": text_blocks, "max_position_embeddings": 32}
    square = {"height": 32, "width": 32}
    made = {"image": {"class": "CLIPImageProcessor", "size": square, "crop_size": square}, "text": {"vocabulary": 320}}
    if tokenizer is not None:
        made = {"image": made["image"], "text": str(tokenizer)}
    return {"class": "CLIPModel", "config": {"projection_dim": width, "vision_config": vision, "text_config": text}, "processors": made}


def train(rows: list[Row], out: Path, *, measured: int, **keys: Any) -> Mapping[str, float]:
    """One run; what it says of the test images."""
    config = {"batch": 32, "evaluate_every": 0, "evaluate_samples": measured, "track": "none", "output": str(out), **keys}
    return trimodal.train(config, data=rows).metrics


class FewLabels:
    """The runs on the shapes' names: accuracy in percent by row of the table."""

    def __init__(self, shapes: Shapes, mode: Mode) -> None:
        self.shapes, self.mode = shapes, mode
        self.teacher = shapes.folder / "teacher"
        rows = shapes.choose_labelled(mode.images, 0, others=False)
        self.teacher_accuracy = self.run(rows, "teacher", 0, make_vit(4, 64), mode.teacher_steps)

    def run(self, rows: list[Row], name: str, seed: int, model: Any, steps: int, **more: Any) -> float:
        """The accuracy of one trained model."""
        found = train(rows, self.shapes.folder / name, measured=self.mode.test, task="classify", model=model, seed=seed, steps=steps,
                      learning_rate=3e-3, **more)  # fmt: skip
        return found["image_accuracy"]

    def run_seed(self, seed: int) -> dict[str, float]:
        """All rows of the table for one seed."""
        few = self.shapes.choose_labelled(self.mode.labels, seed, others=False)
        everything = self.shapes.choose_labelled(self.mode.labels, seed, others=True)
        terms = {"teacher": str(self.teacher), "cache": str(self.shapes.folder / "outputs"), "logits": 1.0, "labels": 0.5}
        small, steps = make_vit(2, 32), self.mode.steps

        def distil(name: str, model: Any, **more: Any) -> float:
            return self.run(everything, f"{name}-{seed}", seed, model, steps, distill={**terms, **more})

        one, two = {"student_of": "teacher", "layers": [0]}, {"student_of": "teacher", "layers": [0, 3]}
        return {
            "scratch": self.run(few, f"scratch-{seed}", seed, small, steps),
            "distilled": distil("distilled", small),
            "… and features": distil("features", small, features=1.0),
            "… and relations": distil("relations", small, relations=1.0),
            "one round": distil("one", one),
            "two rounds": distil("two", one, assistants=[{"model": two}]),
        }


class TwoEncoders:
    """The runs on the shapes' captions: recall at 1 in percent, mean of both ways."""

    def __init__(self, shapes: Shapes, mode: Mode) -> None:
        self.shapes, self.mode = shapes, mode
        self.teacher = shapes.folder / "pair-teacher"
        self.teacher_recall = self.run("pair-teacher", 0, make_clip(3, 2, 64, None), mode.images, mode.teacher_steps // 2, None)

    def run(self, name: str, seed: int, model: Any, pairs: int, steps: int, distill: Mapping[str, Any] | None) -> float:
        """The recall of one trained model."""
        more = {"distill": {"teacher": str(self.teacher), "labels": 1.0, **distill}} if distill else {}
        found = train(self.shapes.choose_pairs(pairs, seed), self.shapes.folder / name, measured=self.mode.test, task="retrieve",
                      model=model, seed=seed, steps=max(1, steps), learning_rate=2e-3, **more)  # fmt: skip
        return statistics.mean(value for key, value in found.items() if key.endswith("retrieval"))

    def run_seed(self, seed: int) -> dict[str, float]:
        """All rows of the table for one seed."""
        model = make_clip(2, 1, 32, self.teacher)
        rows: dict[str, Mapping[str, Any] | None] = {"contrastive": None, "affinity": {"affinity": 1.0}, "embeddings": {"embeddings": 1.0}}
        return {name: self.run(f"{name}-{seed}", seed, model, self.mode.pairs, self.mode.pair_steps, terms) for name, terms in rows.items()}


Found = dict[str, list[float]]


def run_seeds(run: Callable[[int], dict[str, float]], seeds: int) -> Found:
    """The numbers of all seeds by row."""
    each = []
    for seed in range(seeds):
        started = time.perf_counter()
        each.append(run(seed))
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.1f}" for name, value in each[-1].items())
              + f" ({time.perf_counter() - started:.0f} s)", flush=True)  # fmt: skip
    return {name: [one[name] for one in each] for name in each[0]}


def compare_rows(found: Found, better: str, worse: str) -> tuple[float, float]:
    """Mean difference in points over seeds, and p of a paired one-sided t-test that it is not above 0."""
    differences = [a - b for a, b in zip(found[better], found[worse], strict=True)]
    difference = statistics.mean(differences)
    if len({round(one, 9) for one in differences}) == 1:  # no spread, which the test cannot be told
        return difference, 0.0 if difference > 0 else 1.0
    return difference, float(ttest_rel(found[better], found[worse], alternative="greater").pvalue)


def describe_rows(found: Found, first: str) -> list[tuple[str, ...]]:
    """Mean, spread, and the paired difference from the row called `first`."""
    rows = []
    for name, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        difference, p = compare_rows(found, name, first)
        paired = "" if name == first else f"{difference:+.1f} (p {p:.2g})"
        rows.append((name, f"{statistics.mean(values):.1f} ± {spread:.1f}", paired))
    return rows


def judge(labels: FewLabels, few: Found, two: Found) -> list[PassLine]:
    """The lines that were fixed before running."""
    gain, p = compare_rows(few, "distilled", "scratch")
    rounds, _ = compare_rows(few, "two rounds", "one round")
    return [
        PassLine("distilled over scratch, points", gain, least=2),
        PassLine("distilled over scratch, p", p, most=0.05),
        PassLine("two rounds over one, points", rounds, least=-0.3),
        PassLine("affinity over contrastive, points", compare_rows(two, "affinity", "contrastive")[0], least=0),
        PassLine("embeddings over contrastive, points", compare_rows(two, "embeddings", "contrastive")[0], least=0),
        PassLine("embeddings over affinity, points", compare_rows(two, "embeddings", "affinity")[0], least=0),
    ]


def main() -> None:
    """Run everything, print the tables and the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps and two seeds: to see that it runs")
    mode = QUICK if parser.parse_args().quick else FULL
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        shapes = draw_shapes(Path(place), mode)
        labels = FewLabels(shapes, mode)
        print(f"teacher: {labels.teacher_accuracy:.1f} % ({time.perf_counter() - started:.0f} s)", flush=True)
        few = run_seeds(labels.run_seed, mode.seeds)
        pairs = TwoEncoders(shapes, mode)
        print(f"teacher of pairs: {pairs.teacher_recall:.1f} % ({time.perf_counter() - started:.0f} s)", flush=True)
        two = run_seeds(pairs.run_seed, mode.seeds)
    print(f"\n{mode.seeds} seeds, {mode.test:,} test images, {time.perf_counter() - started:.0f} s\n")
    heading = (f"teacher {labels.teacher_accuracy:.1f}; students with {mode.labels} labels", "accuracy, %", "over scratch")
    print(table(heading, describe_rows(few, "scratch")))
    print()
    heading = (f"teacher {pairs.teacher_recall:.1f}; students with {mode.pairs} pairs", "recall at 1, %", "over contrastive")
    print(table(heading, describe_rows(two, "contrastive")))
    print()
    if mode is QUICK:
        print("quick: no line is judged")
        return
    finish(judge(labels, few, two))


if __name__ == "__main__":
    main()
