"""A loss or gradient that is no finite number: the run stops, and this says at which step and most likely why."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.errors import TrimodalError
from trimodal.training.checkpoints import find_bad_parameter

_JUMP = 10.0  # a gradient that so many times the median came before is a sign of too high a learning rate
_RECENT = 20


class DivergedError(TrimodalError):
    """The loss or its gradient stopped being a finite number."""


def explain_divergence(
    module: nn.Module, run_again: Callable[[], Any], batch: Mapping[str, Tensor], precision: str, norms: Sequence[float]
) -> str:
    """Why the loss of a `batch` of tensors (samples, …) is most likely not finite, and what to do.

    Args:
        module: the model as it is, after the last finite step.
        run_again: computes the loss of the same batch once more.
        batch: what the model was given.
        precision: fp32, bf16 or fp16.
        norms: the gradient's 2-norms of the steps before.
    """
    if bad := find_bad_parameter(module):
        return f"the step before has made the weight {bad} not finite; lower learning_rate, or set gradient_clip"
    layer = _find_first_bad_layer(module, run_again)  # before what processes may answer differently: a sharded module needs all of them
    if bad := _find_bad_input(batch):
        return f"the input {bad} is not finite; look at the data and at the processor's means and scales"
    if layer and precision == "fp16":
        return f"{layer} gave numbers beyond the range of fp16 (65,504); use bf16 or fp32"
    if _has_jumped(norms):
        last, median = norms[-1], statistics.median(norms[-_RECENT:])
        where = f", and {layer} was the first to give such numbers" if layer else ""
        return f"the gradient had grown to {last:.3g} from a median of {median:.3g}{where}; lower learning_rate, or set gradient_clip"
    if layer:
        return f"{layer} is the first to give such numbers; lower learning_rate, or look for masks in the batch that leave nothing"
    return "what the model puts out is finite, but its loss is not; look for samples in the batch without any label that counts"


def _find_bad_input(batch: Mapping[str, Tensor]) -> str | None:
    floats = {name: value for name, value in batch.items() if value.is_floating_point() and "mask" not in name}
    return next((name for name, value in floats.items() if not bool(torch.isfinite(value).all())), None)


def _has_jumped(norms: Sequence[float]) -> bool:
    recent = norms[-_RECENT:]
    return len(recent) > 2 and recent[-1] > _JUMP * statistics.median(recent)


def _is_bad(output: Tensor) -> bool:
    """Whether it holds a NaN or +∞; −∞ stands in masks."""
    return output.is_floating_point() and bool((output.isnan() | output.isposinf()).any())


def _find_first_bad_layer(module: nn.Module, run_again: Callable[[], Any]) -> str:
    """The first layer without parts whose output is not finite."""
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and _is_bad(output):
                found.append(f"{name} ({type(part).__name__})")

        return hook

    leaves = [(name, part) for name, part in module.named_modules() if name and not any(True for _ in part.children())]
    handles = [part.register_forward_hook(watch(name)) for name, part in leaves]
    try:
        with torch.no_grad():
            run_again()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""
