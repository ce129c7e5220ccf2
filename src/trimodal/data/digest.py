"""One sha256 for the samples that a plan was made with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimodal.core import Media, Sample
from trimodal.errors import DataError


def digest_samples(samples: Sequence[Sample]) -> str:
    """sha256 over the samples' fields in order, with each image and sound given by the sha256 of its bytes: those of its
    file, or of its pixels and waveform where it is in memory.

    It does not depend on where the files lie or what they are called. Each file is read once, and nothing of it is kept.

    Raises:
        DataError: a file cannot be read any more.
    """
    total = hashlib.sha256()
    known: dict[Path, str] = {}
    for sample in samples:
        line: dict[str, Any] = {
            "image": _digest_media(sample, sample.image, known),
            "audio": _digest_media(sample, sample.audio, known),
            "text": sample.text,
            "label": sample.label,
            "labels": dict(sample.labels),
            "target": sample.target,
            "group": sample.group,
            "split": sample.split,
        }
        if sample.mask is not None:
            line["mask"] = _digest_media(sample, sample.mask, known)
        if sample.signals:
            line["signals"] = {key: _digest_media(sample, media, known) for key, media in sample.signals.items()}
        if sample.inputs is not None:
            line["inputs"] = sample.inputs.sha256
        total.update(json.dumps(line, sort_keys=True).encode() + b"\n")
    return total.hexdigest()


def _digest_media(sample: Sample, media: Path | Media | None, known: dict[Path, str]) -> str | None:
    if media is None or isinstance(media, Media):
        return None if media is None else media.sha256
    if media not in known:
        known[media] = _digest_file(sample, media)
    return known[media]


def _digest_file(sample: Sample, path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{sample.where}: {path} cannot be read: {error.strerror}") from error
