"""The main job on the built-in model and data, as a user would run it: three folders, then the ordinary verbs.

demo-model   the trained model, an ordinary Hugging Face folder in float32
demo-data    an ordinary data folder: data.jsonl, images, sounds
demo-out     what `trimodal compress demo-model --recipe demo --data demo-data -o demo-out` writes
"""

from __future__ import annotations

from pathlib import Path

from trimodal import pipeline
from trimodal.data.seehearread import write_dataset
from trimodal.formats import whole_folder
from trimodal.training.seehearread import train_demo_model, unpack_demo_model

TRAIN_ITEMS, TEST_ITEMS = 4000, 2000
DATA_SEED = 0


def run(
    folder: Path, *, train: bool = False, seed: int | None = None, device: str = "cpu",
    progress: pipeline.Progress = lambda what, done, total: None,
) -> pipeline.Result:  # fmt: skip
    """Write model and data into `folder`, compress the model with the built-in recipe `demo`, and verify it.

    Args:
        folder: where `demo-model`, `demo-data` and `demo-out` are written; what stands there is replaced.
        train: train the model anew (some ten minutes on two cores) instead of unpacking the packaged weights.
        seed: of training and compression; None for the recipe's.
        device: where to compute.
        progress: as in `pipeline.compress`.
    """
    with whole_folder(folder / "demo-model", force=True) as part:
        progress("train the model" if train else "unpack the model", 0, 1)
        _ = train_demo_model(part, seed=seed or 0) if train else unpack_demo_model(part)
    with whole_folder(folder / "demo-data", force=True) as part:
        progress("write the data", 0, 1)
        write_dataset(part, train=TRAIN_ITEMS, test=TEST_ITEMS, seed=DATA_SEED)
    return pipeline.compress(
        str(folder / "demo-model"), "demo", folder / "demo-data", folder / "demo-out",
        seed=seed, device=device, force=True, progress=progress,
    )  # fmt: skip
