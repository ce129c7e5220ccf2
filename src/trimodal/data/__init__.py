"""Samples: any of image, audio and text per line, file or row; read from anywhere, checked, split, and made into batches."""

from trimodal.data.batches import (
    CALIBRATION,
    CALIBRATION_BYTES,
    VERIFICATION,
    Batches,
    BatchLimits,
    batch_samples,
    count_ids,
    count_tokens,
    fit_batch_size,
    group_by_modality,
    part_batch,
)
from trimodal.data.checks import check_modalities, check_signals, require_samples
from trimodal.data.columns import parse_map
from trimodal.data.digest import digest_samples
from trimodal.data.labels import collect_labels, name_labels
from trimodal.data.masks import count_mask_classes, load_masks
from trimodal.data.media import check_media, load_sample
from trimodal.data.sample_encoding import encode_samples
from trimodal.data.source_kind import SampleSource
from trimodal.data.sources import Data, find_data_place, is_no_data, open_data, open_source, read_samples
from trimodal.data.splitting import choose_samples, split_calibration_and_held_out

__all__ = [
    "CALIBRATION",
    "CALIBRATION_BYTES",
    "VERIFICATION",
    "BatchLimits",
    "Batches",
    "Data",
    "SampleSource",
    "batch_samples",
    "check_media",
    "check_modalities",
    "check_signals",
    "choose_samples",
    "collect_labels",
    "count_ids",
    "count_mask_classes",
    "count_tokens",
    "digest_samples",
    "encode_samples",
    "find_data_place",
    "fit_batch_size",
    "group_by_modality",
    "is_no_data",
    "load_masks",
    "load_sample",
    "name_labels",
    "open_data",
    "open_source",
    "parse_map",
    "part_batch",
    "read_samples",
    "require_samples",
    "split_calibration_and_held_out",
]
