"""The recorded steps that rebuild a compressed architecture, as `model.safetensors` carries them in its metadata."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from trimodal.errors import IntegrityError
from trimodal.layers import KINDS
from trimodal.models.apply import Step, replay_
from trimodal.models.families import family_of

STEPS = "trimodal.steps"
_DTYPES = ("float64", "float32", "float16", "bfloat16", "uint8", "int8")


def read_steps(file: Path) -> list[Step]:
    """The recorded steps in the metadata of `file`, checked before anything is built from them."""
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata() or {}
    if STEPS not in metadata:
        raise IntegrityError(f"{file} does not say how it was compressed; it was not written by trimodal")
    steps: list[Step] = json.loads(metadata[STEPS])
    for step in steps:
        treat = step.get("treat")
        if treat is None:
            continue
        types = {dtype for _, dtype in treat["tensors"].values()}
        if treat["kind"] not in KINDS or not types <= set(_DTYPES):
            raise IntegrityError(f"{file}: {treat['path']} is kept as '{treat['kind']}' in {sorted(types)}, which this version cannot read")
    return steps


def replay_steps_(module: nn.Module, steps: list[Step]) -> None:
    """Bring the bare `module` into the compressed architecture, with empty tensors."""
    device = str(next(module.parameters()).device)
    with torch.device(device):
        replay_(module, family_of(module).describe(module), steps, device)
    tied = getattr(module, "all_tied_weights_keys", {})
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for target, origin in list(tied.items()):
        if target not in names or origin not in names:
            del tied[target]
