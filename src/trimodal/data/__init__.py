"""Samples: any of image, audio and text per line of a JSONL file; read, checked, split, and made into batches."""

from trimodal.data.reading import (
    batches,
    check_modalities,
    choose,
    digest,
    encode,
    grouped,
    labels,
    load,
    read,
    require,
    split,
)

__all__ = [
    "batches",
    "check_modalities",
    "choose",
    "digest",
    "encode",
    "grouped",
    "labels",
    "load",
    "read",
    "require",
    "split",
]
