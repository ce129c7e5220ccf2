"""Masks: for every pixel of an image the number of its class. Files, or what rows hold.

A mask is an image of one channel whose values are the classes (PNG; of a palette the entries' numbers, of 1 bit 0 and 1), or whole
numbers (height, width). 255 is no class and counts in no loss and no metric, as in the masks of VOC and ADE20K.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from trimodal.core import Media, Sample
from trimodal.errors import DataError
from trimodal.models.encoding import NO_LABEL

UNLABELLED = 255
_EXPECTED = "expected one channel whose values are classes, 0 to 65535, such as a grey or palette PNG"
_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")

Mask = NDArray[np.int32]
"""(height, width): the class of each pixel; `UNLABELLED` where there is none."""


def decode_mask(file: Path | BinaryIO) -> Mask:
    """The mask in `file`, upright.

    Raises:
        DataError: the file is broken, or an image of colours.
    """
    try:
        with Image.open(file) as opened:
            opened.load()
            return to_mask(opened)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        name = file if isinstance(file, Path) else "in memory"
        raise DataError(f"{name} cannot be decoded ({error}); {_EXPECTED}") from error


def to_mask(value: Any) -> Mask:
    """A mask out of what a row holds: a PIL image, an array or tensor (height, width), or the content of a file.

    Raises:
        DataError: it is none.
    """
    if isinstance(value, bytes) or (isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes)):
        return decode_mask(io.BytesIO(value if isinstance(value, bytes) else value["bytes"]))
    if isinstance(value, Image.Image):
        if value.mode not in _MODES:
            raise DataError(f"is an image of mode {value.mode}; {_EXPECTED}")
        value = ImageOps.exif_transpose(value)
    found = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
    if found.ndim != 2 or 0 in found.shape or found.dtype.kind not in "iub" or found.min() < 0 or found.max() > np.iinfo(np.uint16).max:
        raise DataError(f"is {type(value).__name__} of {found.dtype} {found.shape}; {_EXPECTED}")
    return found.astype(np.int32)


def digest_mask(mask: Mask) -> str:
    """sha256 of its numbers and shape."""
    return hashlib.sha256(f"mask {mask.shape} ".encode() + mask.tobytes()).hexdigest()


def load_mask(sample: Sample) -> Mask | None:
    """The mask of `sample`; None where it has none.

    Raises:
        DataError: it cannot be decoded; it says on which line.
    """
    if sample.mask is None:
        return None
    try:
        return decode_mask(sample.mask) if isinstance(sample.mask, Path) else sample.mask.load()
    except DataError as error:
        raise DataError(f"{sample.where}: mask {error}") from error


def load_masks(samples: Sequence[Sample], size: tuple[int, int]) -> Tensor:
    """The samples' masks at the size (height, width) of what the model is shown: int64 (samples, height, width), of each pixel the class of
    the nearest, `NO_LABEL` where there is none, and all over where a sample has no mask.

    Raises:
        DataError: one cannot be decoded.
    """
    masks = [load_mask(sample) for sample in samples]
    return torch.stack([torch.full(size, NO_LABEL) if mask is None else _fit_mask(mask, size) for mask in masks])


def _fit_mask(mask: Mask, size: tuple[int, int]) -> Tensor:
    found = torch.from_numpy(mask).long()
    found = found.masked_fill(found == UNLABELLED, NO_LABEL)
    if tuple(found.shape) == size:
        return found
    return functional.interpolate(found[None, None].double(), size, mode="nearest-exact")[0, 0].long()


def count_mask_classes(samples: Sequence[Sample]) -> int:
    """How many classes the masks of `samples` have: one more than the highest that is there; 0 without a mask. Reads all of them.

    Raises:
        DataError: one cannot be decoded.
    """
    highest, seen = -1, set[Path | Media]()
    for sample in samples:
        if sample.mask is not None and sample.mask not in seen:
            seen.add(sample.mask)
            mask = load_mask(sample)
            assert mask is not None
            highest = max(highest, int(np.where(mask == UNLABELLED, -1, mask).max()))
    return highest + 1
