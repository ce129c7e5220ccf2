"""Maps of scores, (batch, classes, height, width): one row of class scores for every place of an image."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from trimodal.errors import ModelError
from trimodal.models.model import Batch


def find_image_size(batch: Batch) -> tuple[int, int]:
    """Height and width of the images (batch, channels, height, width) in `batch`: the largest such tensor of numbers with a fraction.

    Raises:
        ModelError: there is none.
    """
    images = [value for value in batch.values() if value.dim() == 4 and value.is_floating_point()]
    if not images:
        given = ", ".join(f"{name} {tuple(value.shape)}" for name, value in batch.items())
        raise ModelError(f"the model is given no images (batch, channels, height, width) that a mask could belong to, but {given}")
    found = max(images, key=lambda value: value.shape[2] * value.shape[3])
    return int(found.shape[2]), int(found.shape[3])


def enlarge_map(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """`scores` (batch, classes, height, width) at another `size` (height, width), by bilinear interpolation; as they are where that is
    theirs. This is what Transformers' processors do with SegFormer's maps, which are a quarter of the image's size."""
    if tuple(scores.shape[2:]) == size:
        return scores
    return functional.interpolate(scores, size, mode="bilinear", align_corners=False)
