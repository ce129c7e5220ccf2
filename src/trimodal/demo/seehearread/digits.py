"""The handwriting: scikit-learn's digits (8 x 8 grey images of real handwriting), split by writer.

The data set is ordered by writer, and each writer begins with runs of 0 ... 9, which shows where a writer starts.
Whole writers go to one split: the first nine to training, two to validation, the last three to the test. The split
was fixed before any model was trained. There are 14 such blocks, while the data set's authors speak of 13 writers, so
one person may have written two blocks; the images do not say who.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

WRITER_STARTS = (0, 130, 256, 386, 516, 646, 776, 905, 1029, 1157, 1287, 1415, 1545, 1667)
WRITERS = {"train": range(9), "validation": range(9, 11), "test": range(11, 14)}
COUNT = 1797


@dataclass(frozen=True)
class Handwriting:
    """`images` (n, 8, 8) uint8, 255 is full ink; `digits`, `writers` and places in the data set (n,) int64."""

    images: npt.NDArray[np.uint8]
    digits: npt.NDArray[np.int64]
    writers: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]


@lru_cache(maxsize=1)
def _load_all_images() -> Handwriting:
    """All 1,797 images in their original order."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]

    bunch = load_digits()
    images = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    writers = np.searchsorted(np.asarray(WRITER_STARTS), np.arange(COUNT), side="right") - 1
    return Handwriting(images, bunch.target.astype(np.int64), writers.astype(np.int64), np.arange(COUNT))


def load_handwriting(split: str) -> Handwriting:
    """The images of one split's writers."""
    everything = _load_all_images()
    chosen = np.isin(everything.writers, list(WRITERS[split]))
    return Handwriting(
        everything.images[chosen],
        everything.digits[chosen],
        everything.writers[chosen],
        everything.indices[chosen],
    )
