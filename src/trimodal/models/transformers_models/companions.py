"""What forward needs beside images, sounds and texts, and what can be said without data: which patches are masked, where to look.

All of it is the same whenever it is asked for, so that two models see the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn

from trimodal.models import encoding
from trimodal.models.transformers_models.signature import list_parameters, read_setting


def add_companions(module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`noise` float (samples, patches), by which an autoencoder chooses what it masks; `bool_masked_pos` bool (samples, patches), every
    other one, for models that are trained on masked images; `input_points` float (samples, 1, 1, 2) in pixels, the middle of the image,
    for models that segment what they are pointed at."""
    taken, image = list_parameters(module), next((v for k, v in batch.items() if k.startswith("pixel_values")), None)
    found: dict[str, Tensor] = {}
    if image is None or image.dim() < 4:
        return found
    rows, patches = len(image), count_patches(module, image)
    if "noise" in taken and patches:
        drawn = torch.rand(patches, generator=torch.Generator().manual_seed(0))
        found["noise"] = drawn.expand(rows, -1).contiguous().to(image.device)
    if "bool_masked_pos" in taken and patches and ("MaskedImage" in type(module).__name__ or "ForPreTraining" in type(module).__name__):
        mask = torch.arange(patches, device=image.device) % 2 == 0
        found["bool_masked_pos"] = mask.expand(rows, -1).contiguous()
    if "input_points" in taken and "input_points" not in batch:
        middle = torch.tensor([image.shape[-1] / 2, image.shape[-2] / 2], device=image.device)
        found["input_points"] = middle.expand(rows, 1, 1, 2).contiguous()
    return found


def count_patches(module: nn.Module, image: Tensor) -> int:
    """How many patches `image` (samples, …, height, width) has; of a film (samples, frames, channels, height, width) those of all
    frames. 0 where the configuration does not say how large one is."""
    size = read_setting(module, ("patch_size",), "vision", "image", "backbone")
    if not isinstance(size, (int, list, tuple)):
        return 0
    height, width = encoding.height_and_width(size if isinstance(size, int) else tuple(size)[-2:])
    tubelet = read_setting(module, ("tubelet_size",)) or 1
    times = image.shape[1] // tubelet if image.dim() == 5 else 1
    return prod((times, image.shape[-2] // height, image.shape[-1] // width))
