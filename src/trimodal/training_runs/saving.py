"""The trained model as a folder: what its own loader needs, what was done, and the curves."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from trimodal.core import json_text
from trimodal.errors import IntegrityError
from trimodal.layers import close_layers_
from trimodal.loading.load import load_pretrained
from trimodal.models.files import find_companion_files, find_licence_files
from trimodal.models.quiet import hide_progress_bars
from trimodal.training.checkpoints import write_weights
from trimodal.training.settings import RunFolder
from trimodal.training_runs.building import BuiltModel

RECORD = "training.json"
CURVES = "curves.jsonl"
_PARTS = ("text", "image", "audio")


@hide_progress_bars()
def write_trained_model(built: BuiltModel, folder: Path, run: RunFolder, record: Mapping[str, Any]) -> None:
    """Write everything into the empty `folder`: weights and configuration, processors, `training.json`, `curves.jsonl`, TensorBoard's
    files. A module of no Transformers class has its weights alone. Layers that were opened are of their own classes again.

    Raises:
        IntegrityError: what was written does not load as the same weights.
    """
    module = close_layers_(built.model.module)
    _write_companions(built, folder)
    if isinstance(module, PreTrainedModel):
        module.save_pretrained(folder)
        check_reload(module, folder)
    else:
        write_weights(module, folder)
    (folder / RECORD).write_text(json_text(dict(record), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if run.curves.is_file():
        shutil.copyfile(run.curves, folder / CURVES)
    if run.tensorboard.is_dir():
        shutil.copytree(run.tensorboard, folder / run.tensorboard.name)


def _write_companions(built: BuiltModel, folder: Path) -> None:
    """The processors' files: those of the folder that they came from, or written anew."""
    if built.companions is not None:
        for path in [*find_companion_files(built.companions), *find_licence_files(built.companions)]:
            if path.name != "config.json":
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(built.companions / path, folder / path)
        return
    processors = built.model.processors
    whole = [processors.whole] if processors.whole is not None else [getattr(processors, part) for part in _PARTS]
    for processor in whole:
        if processor is not None:
            processor.save_pretrained(folder)


def check_reload(module: nn.Module, folder: Path) -> None:
    """Load what was written, as anybody would, and hold its tensors against those in memory.

    Raises:
        IntegrityError: one is missing or another.
    """
    loaded, missing, _ = load_pretrained(folder)
    if missing:
        raise IntegrityError(f"{folder.name}: the written weights lack {missing[0]}; the model's class does not save what it holds")
    found = loaded.state_dict()
    for name, value in module.state_dict().items():
        if name not in found or not torch.equal(found[name].cpu(), value.cpu()):
            raise IntegrityError(f"{folder.name}: {name} is not reloaded as it was; {type(module).__name__} does not save what it holds")
