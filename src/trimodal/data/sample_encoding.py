"""From samples to what a model's forward takes. Samples are read and encoded here, in the process that asks."""

from __future__ import annotations

import inspect as inspection
from collections.abc import Mapping, Sequence

import torch

from trimodal.core import SIGNAL, Sample, is_signal
from trimodal.data.media import load_sample
from trimodal.data.tensor_rows import stack_inputs
from trimodal.errors import DataError
from trimodal.models.model import Model, device_of


def encode_samples(model: Model, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """Keyword arguments of the module's forward for `samples`, each of shape (samples, …) and on the module's device; labels are
    not in it. What a source gave as inputs is stacked as it is, and so are signals that are forward's arguments. What the model does not
    take is neither read nor shown to its family.

    Raises:
        DataError: a sample cannot be read, or makes numbers that are not finite.
    """
    given = [sample.inputs for sample in samples if sample.inputs is not None]
    if len(given) == len(samples):
        batch = stack_inputs(given, _list_parameters(model))
    elif are_arguments(model, samples):
        batch = _stack_signals(samples)
    else:
        takes = model.modalities
        loaded = [load_sample(sample, takes) for sample in samples]
        batch = model.family.encode(model.module, model.processors, loaded)
    _check_finite(batch, samples)
    device = device_of(model.module)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def are_arguments(model: Model, samples: Sequence[Sample]) -> bool:
    """Whether all that `samples` hold are signals which the module's forward takes by their names, and its family knows nothing of."""
    held = frozenset[str]().union(*(sample.modalities for sample in samples))
    if not held or not all(map(is_signal, held)) or held & {*model.modalities}:
        return False
    return {_name_argument(field) for field in held} <= {*_list_parameters(model)}


def _name_argument(field: str) -> str:
    return field if field == SIGNAL else field.removeprefix(f"{SIGNAL}.")


def _stack_signals(samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """Each signal of all samples, (samples, …), by the argument that it is."""
    loaded = [load_sample(sample, sample.modalities).signals for sample in samples]
    for one, sample in zip(loaded, samples, strict=True):
        for field, first in loaded[0].items():
            shape = one[field].shape if field in one else None
            if shape != first.shape:
                raise DataError(
                    f"{sample.where}: {field} has the shape {shape}, and {first.shape} in {samples[0].where}; a model of one's own is "
                    "given arrays of one shape"
                )
    return {_name_argument(field): torch.stack([torch.from_numpy(one[field]) for one in loaded]) for field in loaded[0]}


def _list_parameters(model: Model) -> list[str]:
    """The names of what forward takes in order."""
    kinds = (inspection.Parameter.POSITIONAL_ONLY, inspection.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspection.signature(model.module.forward).parameters.values()
    return [parameter.name for parameter in found if parameter.kind in kinds]


def _check_finite(batch: Mapping[str, torch.Tensor], samples: Sequence[Sample]) -> None:
    """Raise a DataError where a number that the model is to be given is not finite; an additive mask may hold −∞."""
    for name, tensor in batch.items():
        if not tensor.is_floating_point():
            continue
        bad = tensor.isnan() if "mask" in name else ~tensor.isfinite()
        if bool(bad.any()):
            row = int(bad.flatten(1).any(dim=1).nonzero()[0]) if bad.dim() and len(bad) == len(samples) else 0
            raise DataError(
                f"{samples[row].where}: {name} holds {int(bad.sum()):,} numbers that are not finite; "
                "expected finite inputs: look at its file, or at the processor's means and scales"
            )
