"""The models that learn scenes: a CLIP that finds captions, a LLaVA that answers questions."""

from __future__ import annotations

from pathlib import Path

from benchmarks.trained import RECIPES, MadeData, TrainedModel
from examples.training import draw_scenes

TRAINING, TEST = 12_000, 1_000
SCENES = MadeData(
    "scenes", lambda folder: draw_scenes.write_scenes(folder, TRAINING, TEST), (Path(draw_scenes.__file__),),
    {"training": TRAINING, "test": TEST},
)  # fmt: skip
CLIP = TrainedModel("scenes-clip", RECIPES / "scenes_clip.yaml", SCENES, "captions.jsonl")
