"""The models that learn scenes: a CLIP that finds captions, and a LLaVA that answers questions and begins with its vision tower."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.passlines import PassLine, table
from benchmarks.trained import RECIPES, MadeData, TrainedModel, get_trained, make_data, read_training
from benchmarks.trained.questions import Answers, ask, read_questions, say_most_common, say_without_looking
from examples.training import draw_scenes

TRAINING, TEST = 12_000, 1_000
SCENES = MadeData(
    "scenes", lambda folder: draw_scenes.write_scenes(folder, TRAINING, TEST), (Path(draw_scenes.__file__),),
    {"training": TRAINING, "test": TEST},
)  # fmt: skip
CLIP = TrainedModel("scenes-clip", RECIPES / "scenes_clip.yaml", SCENES, "captions.jsonl")
LLAVA = TrainedModel("scenes-llava", RECIPES / "scenes_llava.yaml", SCENES, "questions.jsonl", parts={"model.vision_tower": CLIP})

RECALL, ABOVE_BLIND, MEAN = 75.0, 15.0, 70.0
INT4_COST, TOKENS_COST = 3.0, 5.0
COMPRESSIONS: Mapping[str, Any] = {
    "int4": "int4",
    "a quarter of the image tokens gone": {"steps": [{"prune.tokens": {"where": "image", "share": 0.25}}]},
    "half of them gone": {"steps": [{"prune.tokens": {"where": "image", "share": 0.5}}]},
    "half gone, then int4": {"steps": [
        {"prune.tokens": {"where": "image", "share": 0.5}},
        {"quantize.rtn": {"where": "*embedding*", "optional": True, "bits": 4, "group": 64, "grid": "nf"}},
        {"quantize.gptq": {"where": "*", "optional": True, "bits": 4, "group": 64, "grid": "nf"}},
    ]},
}  # fmt: skip
CALIBRATING, TOLD = 256, 500
CALIBRATIONS = (0, 1, 2)


def shrink(model: TrainedModel, steps: int = 4) -> TrainedModel:
    """The same on a few scenes and steps: whether everything runs, and no more."""
    few = replace(SCENES, write=lambda folder: draw_scenes.write_scenes(folder, 96, 60), settings={"training": 96, "test": 60})
    parts = {path: shrink(part, steps) for path, part in model.parts.items()}
    return replace(model, data=few, parts=parts, changes={"steps": steps, "batch": 16, "evaluate_every": steps})


def describe_cost(folder: Path) -> str:
    """Steps, parameters, and seconds by the clock of the machine that trained it."""
    found = read_training(folder)
    return f"{found['steps']:,} steps, {found['model']['parameters']:,} weights, {found['seconds']:.0f} s with whatever else ran"


def measure_clip(quick: bool, seeds: Sequence[int]) -> list[PassLine]:
    """Recall both ways on scenes that were not learnt from, by seed."""
    rows, worst = [], [100.0, 100.0]
    model = shrink(CLIP) if quick else CLIP
    for seed in seeds:
        folder = get_trained(model, seed)
        found = read_training(folder)["metrics"]
        ways = [found["image_to_text_retrieval"], found["text_to_image_retrieval"]]
        worst = [min(pair) for pair in zip(worst, ways, strict=True)]
        rows.append((f"CLIP, seed {seed}", *(f"{way:.1f} %" for way in ways), describe_cost(folder)))
    chance = 100 / (60 if quick else TEST)
    rows.append(("by chance", f"{chance:.1f} %", f"{chance:.1f} %", ""))
    print(table((f"recall at 1 of {60 if quick else TEST:,} captions, all distinct", "image to text", "text to image", "training"), rows))
    names = ("image to text", "text to image")
    return [PassLine(f"CLIP: recall at 1, {name}, the worst seed", way, least=RECALL) for name, way in zip(names, worst, strict=True)]


def measure_llava(quick: bool, seeds: Sequence[int]) -> list[PassLine]:
    """Right answers by kind of question, beside those of whoever does not look, and after compression."""
    model = shrink(LLAVA) if quick else LLAVA
    train, test = read_questions(make_data(model.data) / model.file)
    blind = {"most common answer": say_most_common(train, test), "best without looking": say_without_looking(train, test)}
    answers, folders = {}, {}
    for seed in seeds:
        folders[seed] = get_trained(model, seed)
        answers[f"LLaVA, seed {seed}"] = ask(_open(folders[seed]), test)
    _print_answers(f"{len(test):,} questions about scenes not learnt from", {**blind, **answers})
    print(*(f"seed {seed}: {describe_cost(folder)}" for seed, folder in folders.items()), sep="\n", end="\n\n")
    kinds = blind["best without looking"].right
    gains = {kind: min(a.share(kind) for a in answers.values()) - max(b.share(kind) for b in blind.values()) for kind in kinds}
    lines = [PassLine(f"LLaVA: '{kind}', points above the best without looking", gain, least=ABOVE_BLIND) for kind, gain in gains.items()]
    lines.append(PassLine("LLaVA: mean of the kinds, the worst seed", min(a.mean for a in answers.values()), least=MEAN))
    return [*lines, *_measure_compressed(folders[seeds[0]], train, test, quick)]


def _open(folder: Path) -> Any:
    from trimodal.formats import open_model

    return open_model(folder)


def _print_answers(title: str, answers: Mapping[str, Answers]) -> None:
    kinds = list(next(iter(answers.values())).right)
    rows = [(name, *(f"{one.share(kind):.1f} %" for kind in kinds), f"{one.mean:.1f} %") for name, one in answers.items()]
    print(table((title, *kinds, "mean"), rows), end="\n\n", flush=True)


def _measure_compressed(folder: Path, train: Sequence[Any], test: Sequence[Any], quick: bool) -> list[PassLine]:
    """The answers of the compressed model, by calibration seed, and what they cost in the mean."""
    from trimodal import compress
    from trimodal.data import choose_samples

    before, found, costs = ask(_open(folder), test), {}, {}
    found["as it was"] = before
    with tempfile.TemporaryDirectory() as scratch:
        for name, recipe in COMPRESSIONS.items():
            seeds = CALIBRATIONS[:1] if quick or name[-4:] == "gone" else CALIBRATIONS  # what is removed input by input calibrates nothing
            told = []
            for seed in seeds:
                data = [*choose_samples(train, CALIBRATING, seed), *choose_samples(test, TOLD, seed)]
                out = Path(scratch) / f"{len(found)}-{seed}"
                result = compress(folder, recipe, data, out)
                found[f"{name}, calibration {seed}"] = ask(_open(out), test)
                told.append(before.mean - found[f"{name}, calibration {seed}"].mean)
                print(f"{name}, calibration {seed}: {result.verdict}")
            costs[name] = statistics.mean(told)
    print()
    _print_answers("after compression", found)
    return [
        PassLine("LLaVA int4: points lost, mean of kinds and calibrations", costs["int4"], most=INT4_COST),
        PassLine("LLaVA, a quarter of the image tokens gone: points lost", costs["a quarter of the image tokens gone"], most=TOKENS_COST),
    ]
