"""The recorded steps that rebuild a compressed architecture, as the file with the weights carries them in its metadata.

The file may come from anybody, so nothing is built from a step before it has passed the checks of its kind.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from trimodal.core import Layout, json_text
from trimodal.core.model_edit import ModelEdit
from trimodal.edits import read_edit
from trimodal.edits.edit import UnfitEditError
from trimodal.edits.fold import named_tensors
from trimodal.errors import IntegrityError

STEPS = "trimodal.steps"


def write_steps(steps: Sequence[ModelEdit]) -> str:
    """The text that the metadata hold for `steps`, which `read_steps` reads."""
    return json_text([step.to_json() for step in steps], sort_keys=True)


def read_steps(file: Path) -> list[ModelEdit]:
    """The recorded steps in the metadata of `file`, each of the right form.

    Raises:
        IntegrityError: there are none, or one is not of a form that trimodal writes.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{file} is damaged or cut short ({error}); copy the folder again") from error
    if STEPS not in metadata:
        raise IntegrityError(f"{file} does not say how it was compressed; it was not written by trimodal")
    try:
        steps = json.loads(metadata[STEPS])
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{file}: the recorded steps are not JSON; it was not written by trimodal") from error
    if not isinstance(steps, list):
        raise IntegrityError(f"{file}: the recorded steps are no list; it was not written by trimodal")
    size, found = file.stat().st_size, []
    for number, step in enumerate(steps, start=1):
        try:
            found.append(read_edit(step, size))
        except UnfitEditError as reason:
            raise IntegrityError(f"{file}: recorded step {number} {reason}, which this version cannot read") from reason
    return found


def replay_step_(module: nn.Module, layout: Layout, step: ModelEdit, number: int) -> Layout:
    """Carry out the recorded step of that `number` on the bare `module`, which has this `layout`; returns the new one. After all
    steps the module's state dict has the names and shapes of the saved one.

    Raises:
        IntegrityError: it does not fit the module.
    """
    try:
        step.check_fits(module, layout)
    except UnfitEditError as reason:
        name = type(module).__name__
        raise IntegrityError(f"recorded step {number} {reason}; it was not recorded for this {name}") from reason
    step.apply_(module, layout)
    return step.layout_after(layout)


def map_duplicate_tensors(module: nn.Module, steps: Sequence[ModelEdit]) -> dict[str, str]:
    """The tensors of `module` that are stored under another's name, with that name. Those that a later step has packed share
    their store already."""
    names = named_tensors(module).keys()
    return {name: other for step in steps for name, other in step.aliases.items() if {name, other} <= names}
