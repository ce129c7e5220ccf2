"""Checks that nothing which was written, and nothing that comes out, is NaN or infinite where it was not before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trimodal.core import Check
from trimodal.errors import IntegrityError
from trimodal.formats.stock_load_check import collect_outputs
from trimodal.models.finite import find_nonfinite, iter_nonfinite_tensors
from trimodal.models.model import Batch, Model

_WEIGHTS, _OUTPUTS = "weights finite", "outputs finite"


def run_finite_checks(original: Model, model: Model, batch: Batch | None) -> list[Check]:
    """Whether anything in the result, or coming out of it for `batch`, is no longer finite.

    Raises:
        IntegrityError: something is, so the result is of no use.
    """
    checks = [finite_weights_check(model), finite_outputs_check(original, model, batch)]
    for check in checks:
        if check.failed:
            raise IntegrityError(f"the result is of no use ({check.name}: {check.detail}); nothing was kept")
    return checks


def finite_weights_check(model: Model) -> Check:
    """Whether every stored tensor is finite, and every weight as the forward pass decodes it."""
    found = next(iter_nonfinite_tensors(model.module), None)
    coded = [site.path for site in model.layout.sites if site.stored != "dense"]
    for path in coded if found is None else ():
        weight: Any = model.module.get_submodule(path).weight
        found = find_nonfinite(f"{path}.weight", weight)
        if found is not None:
            break
    return Check.from_outcome(_WEIGHTS, found is None, str(found or f"all tensors, and {len(coded)} decoded weights"))


def finite_outputs_check(original: Model, model: Model, batch: Batch | None) -> Check:
    """Whether the outputs of `model` for `batch` are finite wherever those of the model as it was are."""
    if batch is None:
        return Check(_OUTPUTS, "not run", "there are no samples to run")
    before, after = collect_outputs(original.module, batch), collect_outputs(model.module, batch)
    for name, value in after.items():
        bad = _count_new_nonfinite(before.get(name), value)
        if bad:
            return Check.from_outcome(_OUTPUTS, False, f"{name} holds {bad:,} numbers that are not finite and were")
    return Check.from_outcome(_OUTPUTS, True, f"{len(after)} outputs{_describe_original_faults(before)}")


def _describe_original_faults(before: dict[str, Tensor]) -> str:
    """What of the original's own outputs is not finite, in words: its samples count as lost, whoever lost them."""
    bad = sum(int((~value.isfinite()).sum()) for value in before.values() if value.is_floating_point())
    return f"; {bad:,} numbers in them are not finite in the original either, and what is measured on them counts as lost" if bad else ""


def _count_new_nonfinite(before: Tensor | None, after: Tensor) -> int:
    """How many entries are not finite that were; all that are not, where shapes differ."""
    if not after.is_floating_point():
        return 0
    bad = ~after.isfinite()
    if before is not None and before.shape == after.shape:
        bad &= before.isfinite()
    elif before is not None and not bool(torch.isfinite(before).all()):
        return 0
    return int(bad.sum())
