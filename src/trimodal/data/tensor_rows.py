"""Rows that already are what the model's forward is given: tensors by name, or in its order.

    {"input_ids": (tokens,), "attention_mask": (tokens,), "label": 3}     keyword arguments of forward
    (picture, 3)                                                          forward's first argument, and a class
    picture                                                               forward's first argument

Each is one sample, without the dimension of the batch. They go together by shape: nothing is padded here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimodal.core import MODALITIES, SIGNAL, TensorInputs, is_signal
from trimodal.data.fields import FIELDS, shorten_value
from trimodal.errors import DataError

_BESIDE = tuple(name for name in FIELDS if name not in ("mask", SIGNAL))  # which are what many a forward calls an input of its own
Inputs = Mapping[str, Tensor]
"""What forward is given for one sample, (…) each; a name that is a number counts its parameters."""


def split_inputs(row: Any) -> tuple[Inputs, dict[str, Any]] | None:
    """The inputs in a row and the fields beside them (`label`, `group`, `split`); None where it is no row of tensors.

    `labels` that are one whole number are the label; others are what a loss wants, and are left out.

    Raises:
        DataError: a value is no array of numbers.
    """
    if isinstance(row, Mapping):
        return _split_mapping(row)
    if _is_array(row):
        return {"0": _to_tensor("the row", row)}, {}
    if isinstance(row, tuple | list) and row and _is_array(row[0]):
        *first, last = row if len(row) > 1 else (*row, None)
        label = _to_label(last)
        inputs = first if last is None or label is not None else row
        return {str(at): _to_tensor(f"value {at + 1} of the row", value) for at, value in enumerate(inputs)}, {"label": label}
    return None


def digest_inputs(inputs: Inputs) -> str:
    """sha256 over names, types, shapes and bytes of the tensors (…) in `inputs`."""
    found = hashlib.sha256()
    for name, tensor in sorted(inputs.items()):
        found.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def describe_shapes(inputs: Inputs) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Name and shape of each tensor (…) in `inputs`."""
    return tuple((name, tuple(tensor.shape)) for name, tensor in inputs.items())


def stack_inputs(given: Sequence[TensorInputs], parameters: Sequence[str]) -> dict[str, Tensor]:
    """Keyword arguments of a forward with these `parameters` for several samples of one shape, (samples, …) each.

    Raises:
        DataError: there are more inputs than parameters.
    """
    loaded = [one.load() for one in given]
    return {_name_input(name, parameters): torch.stack([one[name] for one in loaded]) for name in loaded[0]}


def _name_input(name: str, parameters: Sequence[str]) -> str:
    if not name.isdecimal():
        return name
    if int(name) >= len(parameters):
        raise DataError(
            f"a row has {int(name) + 1} tensors or more, and forward takes {', '.join(parameters) or 'nothing by name'}; "
            "give as many, a class last, or a dict of tensors by name"
        )
    return parameters[int(name)]


def _split_mapping(row: Mapping[str, Any]) -> tuple[Inputs, dict[str, Any]] | None:
    if any(name in row for name in MODALITIES):
        return None
    others = {name: value for name, value in row.items() if name not in _BESIDE and value is not None}
    if all(is_signal(name) for name in others) or not all(_is_array(value) or _is_number_list(value) for value in others.values()):
        return None
    beside = {name: value for name, value in row.items() if name in _BESIDE and name not in ("labels", "target")}
    label = _to_label(row.get("labels")) if beside.get("label") is None else beside["label"]
    inputs = {name: _to_tensor(name, value) for name, value in others.items()}
    return inputs, {**beside, "label": label}


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _is_number_list(value: Any) -> bool:
    """Whether `value` is a list of numbers, or of such lists, as `datasets` gives token ids."""
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float) and not isinstance(value, bool)


def _to_tensor(name: str, value: Any) -> Tensor:
    """`value` as a tensor (…) on the CPU; what is float64, as NumPy's is unless it is told otherwise, in float32."""
    try:
        tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} is a {type(value).__name__} ({shorten_value(value)}) that no tensor can be made of") from error
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _to_label(value: Any) -> int | None:
    """`value` as a class; None where it is not one whole number from 0."""
    found = value.item() if isinstance(value, Tensor | np.ndarray | np.generic) and not value.shape else value
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None
