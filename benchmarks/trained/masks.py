"""The U-Net that says which shape every pixel of a scene shows: a module of one's own, cut and rounded."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.passlines import PassLine, table
from benchmarks.trained import RECIPES, TrainedModel, get_trained, make_data, read_training
from benchmarks.trained.scenes import SCENES, describe_cost, shrink
from examples import segment_scenes

UNET = TrainedModel("scenes-unet", RECIPES / "scenes_unet.yaml", SCENES, "masks.jsonl", code=(Path(segment_scenes.__file__),))
DICE, COST = 80.0, 3.0
CALIBRATIONS = (0, 1, 2)
RECIPE: dict[str, Any] = {
    "calibration": {"samples": 64},
    "steps": [
        {"prune.channels": {"where": "*", "sparsity": 0.25}},
        {"distill": {"steps": 100, "batch": 16}},
        {"quantize.rtn": {"where": "*", "bits": 8}},
    ],
}


def measure_unet(quick: bool, seeds: Sequence[int]) -> list[PassLine]:
    """Dice on scenes that were not learnt from, before and after a quarter of the channels goes and the rest has 8 bits."""
    from trimodal import compress
    from trimodal.data import choose_samples, read_samples

    model = shrink(UNET) if quick else UNET
    rows, dice, costs = [], [], []
    for seed in seeds:
        folder = get_trained(model, seed)
        found = read_training(folder)["metrics"]
        dice.append(found["image_dice"])
        rows.append((f"U-Net, seed {seed}", f"{dice[-1]:.1f} %", f"{found['image_iou']:.1f} %", "", describe_cost(folder)))
    samples = read_samples(str(make_data(model.data) / model.file))
    train, test = ([s for s in samples if (s.split == "test") == is_test] for is_test in (False, True))
    with tempfile.TemporaryDirectory() as scratch:
        for seed in CALIBRATIONS[: 1 if quick else None]:
            data = [*choose_samples(train, 300, seed), *choose_samples(test, 500, seed)]
            recipe = {**RECIPE, "steps": [RECIPE["steps"][0], {"distill": {"steps": 4 if quick else 100, "batch": 16}}, RECIPE["steps"][2]]}
            folder = get_trained(model, seeds[0])
            result = compress(lambda folder=folder: _load(folder), recipe, data, Path(scratch) / str(seed))
            first, second = result.verdict.metrics[:2]
            costs.append(first.drop)
            size = result.verdict.size
            told = f"{first.before:.1f} % before, on the same {first.samples} scenes"
            rows.append((f"compressed, calibration {seed}", f"{first.after:.1f} %", f"{second.after:.1f} %",
                         f"{size.before_bytes / size.after_bytes:.1f} times smaller", told))  # fmt: skip
    print(table(("scenes not learnt from", "Dice", "IoU", "size", "how"), rows))
    return [
        PassLine("U-Net: Dice, the worst seed", min(dice), least=DICE),
        PassLine("U-Net, a quarter of the channels gone, 8 bits: Dice lost, the worst calibration", max(costs), most=COST),
    ]


def _load(folder: Path) -> Any:
    """The module with the weights of a trained folder."""
    from safetensors.torch import load_model

    module = segment_scenes.build()
    load_model(module, folder / "model.safetensors")
    return module
