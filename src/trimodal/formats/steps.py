"""The recorded steps that rebuild a compressed architecture, as `model.safetensors` carries them in its metadata.

The file may come from anybody, so nothing is built from a step before `formats/step_checks.py` has passed it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from trimodal.core import Layout
from trimodal.core.storage import BASE, LINKS
from trimodal.errors import IntegrityError
from trimodal.formats.fold_checks import Unfit
from trimodal.formats.step_checks import check_fit, check_form
from trimodal.layers import open_recurrent_
from trimodal.models.apply import Step, replay_
from trimodal.models.families import family_of
from trimodal.models.folding import named_tensors

STEPS = "trimodal.steps"


def read_steps(file: Path) -> list[Step]:
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
            check_form(step, size)
        except Unfit as reason:
            raise IntegrityError(f"{file}: recorded step {number} {reason}, which this version cannot read") from reason
    return steps


def replay_steps_(module: nn.Module, steps: list[Step]) -> None:
    """Bring the bare `module` into the compressed architecture, with tensors that have no values yet.

    Raises:
        IntegrityError: a step does not fit the module.
    """
    open_recurrent_(module)
    layout = family_of(module).describe(module)
    for number, step in enumerate(steps, start=1):
        layout = replay_step_(module, layout, step, number)
    tied = getattr(module, "all_tied_weights_keys", {})
    for step in _twins(steps):  # Transformers need not look for what the file has under another name
        ignored = getattr(module, "_keys_to_ignore_on_load_missing", None) or ()
        module._keys_to_ignore_on_load_missing = [*ignored, f"^{re.escape(step['fold']['path'])}$"]  # type: ignore[assignment]
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for target, origin in list(tied.items()):
        if target not in names or origin not in names:
            del tied[target]


def replay_step_(module: nn.Module, layout: Layout, step: Step, number: int) -> Layout:
    """Carry out the recorded step of that `number` on the bare `module`, which has this `layout`; returns the new one.

    Raises:
        IntegrityError: it does not fit the module.
    """
    try:
        check_fit(step, module, layout)
    except Unfit as reason:
        name = type(module).__name__
        raise IntegrityError(f"recorded step {number} {reason}; it was not recorded for this {name}") from reason
    return replay_(module, layout, [step])


def twins(module: nn.Module, steps: list[Step]) -> dict[str, str]:
    """The tensors of `module` that are stored under another's name, with that name. Those that a later step has packed share
    their store already."""
    names = named_tensors(module).keys()
    found = {step["fold"]["path"]: step["fold"]["into"][0] for step in _twins(steps)}
    return {name: other for name, other in found.items() if {name, other} <= names}


def _twins(steps: list[Step]) -> list[Step]:
    return [step for step in steps if "fold" in step and step["fold"]["what"] == "twin"]


def root_of_factor(path: str) -> str:
    """The path of the layer that a factor of a factorised layer is a part of; other paths as they are."""
    while path.endswith(tuple(f".{name}" for name in (*LINKS, BASE))):
        path = path.rpartition(".")[0]
    return path
