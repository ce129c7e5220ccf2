"""Parts of a model that is made which begin with the weights of other models: a LLaVA's vision tower with those of a CLIP.

    model: {class: LlavaForConditionalGeneration, config: …, parts: {model.vision_tower: ./scenes-clip}}

Transformers itself looks for the part in the folder's checkpoint, as `CLIPVisionModel.from_pretrained` does in that of a whole CLIP.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging as reports

from trimodal.errors import RecipeError, suggest_names
from trimodal.loading.load import locate_source
from trimodal.models.foreign import run_foreign

_SHOWN = 5  # names that an error shows, at most


def load_parts_(module: nn.Module, parts: Mapping[str, str], name: str) -> None:
    """Give the parts of `module` at the paths that `parts` names the weights of its folders or hub ids.

    Raises:
        RecipeError: there is no such part, it is of no class of Transformers, or its weights are of another shape.
        ModelError: the folder cannot be found or loaded.
    """
    known = [path for path, part in module.named_modules() if path and isinstance(part, PreTrainedModel)]
    for path, source in parts.items():
        if path not in known:
            advice = suggest_names(path, known[:_SHOWN]) if known else "the class has no parts of Transformers' classes"
            raise RecipeError(f"{name}: model.parts names {path!r}; {advice}")
        _load_part_(module.get_submodule(path), path, source, name)


def _load_part_(part: nn.Module, path: str, source: str, name: str) -> None:
    folder, kind = locate_source(source), type(part).__name__
    if not isinstance(folder, Path):
        raise RecipeError(f"{name}: model.parts.{path} is {source!r}, which is a function; expected a folder or a hub id")
    with _hide_reports():
        found, info = run_foreign(f"loading {kind} from {folder}", lambda: _load_like(part, folder))
    if lacking := sorted(info["missing_keys"]):
        raise RecipeError(f"{name}: model.parts.{path}: {folder} lacks {lacking[0]}, so it holds no {kind} of this configuration")
    if others := sorted(info["mismatched_keys"]):
        key, there, own = others[0]
        raise RecipeError(
            f"{name}: model.parts.{path}: {key} is {tuple(there)} in {folder}, but {tuple(own)} by model.config; give the part the "
            "same sizes there"
        )
    part.load_state_dict(found.state_dict())


def _load_like(part: Any, folder: Path) -> Any:
    """A module of the part's class and configuration with the folder's weights, and which of them did not fit. By the folder's own
    configuration it might be of any size."""
    return type(part).from_pretrained(
        folder, config=part.config, ignore_mismatched_sizes=True, output_loading_info=True, use_safetensors=True, local_files_only=True,
        trust_remote_code=False, dtype=torch.float32,
    )  # fmt: skip


@contextmanager
def _hide_reports() -> Iterator[None]:
    """Meanwhile Transformers lists no weights of the rest of a folder, which nobody asked for."""
    before = reports.get_verbosity()
    reports.set_verbosity(max(before, logging.ERROR) if before > logging.INFO else before)
    try:
        yield
    finally:
        reports.set_verbosity(before)
