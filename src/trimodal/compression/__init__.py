"""Compress: carry out a plan on a model."""

from trimodal.compression.run import Progress, compress_
from trimodal.core.record import LEFT_ALONE

__all__ = ["LEFT_ALONE", "Progress", "compress_"]
