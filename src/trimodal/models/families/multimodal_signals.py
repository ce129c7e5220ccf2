"""Signals of samples as a stream of a `MultimodalModel` takes them: padded to one length, with the mask of what is real."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trimodal.core import name_signal
from trimodal.errors import DataError
from trimodal.models.model import LoadedSample
from trimodal.networks.multimodal.configuration import Stream


def encode_signals(stream: Stream, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """The signals of all `loaded` samples, float32 (batch, steps, channels), steps as in the longest, and their mask int64 (batch, steps).

    Raises:
        DataError: one has other channels than the stream, or more steps.
    """
    rows = [shape_signal(stream, sample) for sample in loaded]
    longest = max(map(len, rows))
    values = torch.zeros(len(rows), longest, rows[0].shape[1])
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        values[number, : len(row)] = torch.from_numpy(row)
        mask[number, : len(row)] = 1
    return {stream.input_name: values, stream.mask_name: mask}


def shape_signal(stream: Stream, sample: LoadedSample) -> np.ndarray:
    """The sample's signal for `stream` as (steps, channels): of a row of numbers each is a channel of one step, or where the stream has
    one channel a step of its own. A tower of Transformers is given what there is; only it knows what it takes.

    Raises:
        DataError: it does not fit the stream.
    """
    field = name_signal(stream.name)
    found = sample.signals[field]
    values: np.ndarray = found if found.ndim == 2 else found[:, None] if stream.channels == 1 else found[None, :]
    steps, channels = values.shape
    if stream.tower is not None:
        return values
    if channels != stream.channels:
        turned = "; it seems to be channels × steps, turn it" if found.ndim == 2 and steps == stream.channels else ""
        raise DataError(
            f"{sample.where}: {field} has {channels} numbers per step (shape {found.shape}), and the stream {stream.name} takes "
            f"{stream.channels}, as steps × channels{turned}"
        )
    if steps > stream.length:
        raise DataError(
            f"{sample.where}: {field} has {steps} steps, and the stream {stream.name} takes at most {stream.length}; cut it into windows, "
            "or give the model a larger length"
        )
    return values
