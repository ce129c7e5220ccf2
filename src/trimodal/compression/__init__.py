"""Compress: carry out a plan on a model."""

from trimodal.compression.run import Progress, compress_

__all__ = ["Progress", "compress_"]
