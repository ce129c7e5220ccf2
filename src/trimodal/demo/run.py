"""The main job on the built-in model and data, as a user would run it: three folders, then the ordinary verbs.

demo-model   the trained model, an ordinary Hugging Face folder in float32
demo-data    an ordinary data folder: data.jsonl, images, sounds
demo-out     what `trimodal compress demo-model --recipe demo --data demo-data -o demo-out` writes
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trimodal import pipeline
from trimodal.core import Plan
from trimodal.demo.seehearread import write_dataset
from trimodal.demo.training import train_demo_model, unpack_demo_model
from trimodal.errors import OutputError
from trimodal.progress import Progress, ignore_progress
from trimodal.writing import check_output_place

TRAIN_ITEMS, TEST_ITEMS = 4000, 2000
DATA_SEED = 0


def run_demo(
    folder: Path, *, train: bool = False, seed: int | None = None, device: str = "cpu",
    progress: Progress = ignore_progress, on_plan: Callable[[Plan], None] = lambda plan: None,
) -> pipeline.Result:  # fmt: skip
    """Write model and data into `folder`, compress the model with the built-in recipe `demo`, and verify it.

    Args:
        folder: where `demo-model`, `demo-data` and `demo-out` are written; those of an earlier demo are replaced.
        train: train the model anew (some ten minutes on two cores) instead of unpacking the packaged weights.
        seed: of training and compression; None for the recipe's.
        device: where to compute.
        progress, on_plan: as in `pipeline.compress`.
    """
    model, data, out = (folder / f"demo-{name}" for name in ("model", "data", "out"))
    _check_is_demo_folder(model, "config.json", '"trimodal_fusion"')
    _check_is_demo_folder(data, "data.jsonl", '"writer-')
    _check_is_demo_folder(out, "trimodal.json", '"demo-model"')
    progress("train the model" if train else "unpack the model", 0, 1)
    _ = train_demo_model(model, seed=seed or 0, force=True) if train else unpack_demo_model(model, force=True)
    progress("write the data", 0, 1)
    write_dataset(data, train=TRAIN_ITEMS, test=TEST_ITEMS, seed=DATA_SEED, force=True)
    return pipeline.compress(
        str(model), "demo", data, out,
        seed=seed, device=device, force=True, progress=progress, on_plan=on_plan,
    )  # fmt: skip


def _check_is_demo_folder(folder: Path, file: str, words: str) -> None:
    """Refuse a folder that can be replaced, but that an earlier demo did not write.

    Raises:
        OutputError: `file` in it is missing, or does not hold `words`.
    """
    check_output_place(folder, force=True)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / file).is_file() or words not in (folder / file).read_text(encoding="utf-8", errors="replace"):
        raise OutputError(f"{folder} was not written by an earlier demo; move it, or give another --folder")
