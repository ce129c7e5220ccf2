"""Samples: any of image, audio and text per line of a JSONL file; read, checked, split, and made into batches."""

from trimodal.data.reading import (
    batch_samples,
    check_modalities,
    choose_samples,
    collect_labels,
    digest_samples,
    encode_samples,
    group_by_modality,
    load_sample,
    read_samples,
    require_samples,
    split_calibration_and_held_out,
)

__all__ = [
    "batch_samples",
    "check_modalities",
    "choose_samples",
    "digest_samples",
    "encode_samples",
    "group_by_modality",
    "collect_labels",
    "load_sample",
    "read_samples",
    "require_samples",
    "split_calibration_and_held_out",
]
