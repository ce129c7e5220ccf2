"""Compress: carry out a plan on a model."""

from trimodal.compression.run import LEFT_ALONE, Progress, compress_

__all__ = ["LEFT_ALONE", "Progress", "compress_"]
