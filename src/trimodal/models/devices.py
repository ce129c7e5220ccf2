"""Where a model computes."""

from __future__ import annotations

import torch

from trimodal.errors import InputError
from trimodal.models.model import Model


def move_to_device_(model: Model, device: str) -> Model:
    """The model, on `device`.

    Raises:
        InputError: there is no such device here, or it holds no values.
    """
    try:
        place = torch.device(device)
        if place.type == "meta":
            raise InputError("device 'meta' holds no values; use cpu or cuda")
        model.module.to(place)
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:
        reason = str(error).splitlines()[0].partition(" at start of device string")[0]
        raise InputError(f"device '{device}' cannot be used here ({reason}); use cpu") from error
    return model
