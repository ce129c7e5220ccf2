"""The recorded steps that rebuild a compressed architecture, as `model.safetensors` carries them in its metadata.

The file may come from anybody, so nothing is built from a step before `edits/step_checks.py` has passed it.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from trimodal.core import Layout
from trimodal.core.storage import BASE, LINKS
from trimodal.edits.apply import RecordedStep, replay_on_bare_
from trimodal.edits.fold_checks import UnfitStepError
from trimodal.edits.folding import named_tensors
from trimodal.edits.step_checks import check_step_fits, check_step_form
from trimodal.errors import IntegrityError

STEPS = "trimodal.steps"


def read_steps(file: Path) -> list[RecordedStep]:
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
    size = file.stat().st_size
    for number, step in enumerate(steps, start=1):
        try:
            check_step_form(step, size)
        except UnfitStepError as reason:
            raise IntegrityError(f"{file}: recorded step {number} {reason}, which this version cannot read") from reason
    return steps


def replay_step_(module: nn.Module, layout: Layout, step: RecordedStep, number: int) -> Layout:
    """Carry out the recorded step of that `number` on the bare `module`, which has this `layout`; returns the new one.

    Raises:
        IntegrityError: it does not fit the module.
    """
    try:
        check_step_fits(step, module, layout)
    except UnfitStepError as reason:
        name = type(module).__name__
        raise IntegrityError(f"recorded step {number} {reason}; it was not recorded for this {name}") from reason
    return replay_on_bare_(module, layout, [step])


def map_duplicate_tensors(module: nn.Module, steps: list[RecordedStep]) -> dict[str, str]:
    """The tensors of `module` that are stored under another's name, with that name. Those that a later step has packed share
    their store already."""
    names = named_tensors(module).keys()
    found = {step["fold"]["path"]: step["fold"]["into"][0] for step in twin_steps(steps)}
    return {name: other for name, other in found.items() if {name, other} <= names}


def twin_steps(steps: list[RecordedStep]) -> list[RecordedStep]:
    """The steps that let a tensor be stored once under another's name."""
    return [step for step in steps if "fold" in step and step["fold"]["what"] == "twin"]


def root_of_factor(path: str) -> str:
    """The path of the layer that a factor of a factorised layer is a part of; other paths as they are."""
    while path.endswith(tuple(f".{name}" for name in (*LINKS, BASE))):
        path = path.rpartition(".")[0]
    return path
