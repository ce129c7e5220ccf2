"""Images: upright and in RGB."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from trimodal.errors import DataError
from trimodal.media.naming import name_file

_IMAGE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


def decode_image(file: Path | BinaryIO) -> Image.Image:
    """The image in `file`, upright and in RGB.

    Raises:
        DataError: the file is empty, broken or no image.
    """
    try:
        with Image.open(file) as opened:
            opened.load()
            return to_upright_rgb(opened)
    except _IMAGE_ERRORS as error:
        raise _make_image_error(file, error) from error


def to_upright_rgb(image: Image.Image) -> Image.Image:
    """The image turned as its Exif data say, in RGB; of 16 bits the upper 8, of floats that end at 1 the share of 255."""
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255 instead of scaling them
        return Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8)).convert("RGB")
    if turned.mode == "F":  # whose fractions Pillow would cut off
        numbers = np.nan_to_num(np.asarray(turned))
        scaled = numbers * 255 if numbers.max(initial=0.0) <= 1 else numbers
        return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    return turned.convert("RGB")


def _make_image_error(file: Path | BinaryIO, error: BaseException) -> DataError:
    name = name_file(file)
    if isinstance(file, Path) and file.exists() and file.stat().st_size == 0:
        return DataError(f"{name} is empty (0 bytes); expected a whole image file")
    reason = "not a known image format" if isinstance(error, UnidentifiedImageError) else str(error)
    return DataError(f"{name} cannot be decoded ({reason}); expected a whole image file such as PNG or JPEG")
