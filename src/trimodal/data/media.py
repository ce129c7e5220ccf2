"""Images, sounds and signals, read when they are asked for: from files, or from a source that has them in its own keeping."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimodal.core import MODALITIES, Media, Sample, is_signal
from trimodal.data.masks import decode_mask
from trimodal.data.signals import decode_signal
from trimodal.errors import DataError
from trimodal.media.images import decode_image
from trimodal.media.sounds import decode_audio
from trimodal.models.model import LoadedSample

CHECKED_MEDIA = 1_000


def load_sample(sample: Sample, modalities: Collection[str] = MODALITIES) -> LoadedSample:
    """Read of `sample` what is of the `modalities`: its image, upright and in RGB, its sound, mono float32 (frames,) in
    [-1, 1], its text, its signals, float32 (steps, channels) or (features,).

    Raises:
        DataError: one cannot be decoded; it says on which line.
    """
    image = sample.image if "image" in modalities else None
    sound = sample.audio if "audio" in modalities else None
    audio, rate = (None, 0) if sound is None else _load_part(sample, "audio", sound)
    return LoadedSample(
        image=None if image is None else _load_part(sample, "image", image),
        audio=audio,
        sampling_rate=rate,
        text=sample.text if "text" in modalities else None,
        target=sample.target,
        signals={key: _load_part(sample, key, media) for key, media in sample.signals.items() if key in modalities},
        where=sample.where,
    )


def check_media(samples: Sequence[Sample], most: int = CHECKED_MEDIA) -> None:
    """Decode the images, sounds, masks and signals of `samples` once, so that what is broken is told before any work begins.

    At most the first `most` different ones are looked at, so that large data starts as fast as small; give first what is
    used first. A broken one behind them is told when it is used.

    Raises:
        DataError: one cannot be decoded; it says on which line.
    """
    checked: set[Path | Media] = set()
    for sample in samples:
        held = (("image", sample.image), ("audio", sample.audio), ("mask", sample.mask), *sample.signals.items())
        for key, media in held:
            if media is None or media in checked:
                continue
            if len(checked) >= most:
                return
            _load_part(sample, key, media)
            checked.add(media)


def _load_part(sample: Sample, key: str, media: Path | Media) -> Any:
    try:
        if isinstance(media, Media):
            return media.load()
        return decode_signal(media) if is_signal(key) else _DECODERS[key](media)
    except DataError as error:
        raise DataError(f"{sample.where}: {key} {error}") from error


_DECODERS: Mapping[str, Callable[[Path], Any]] = {"image": decode_image, "audio": decode_audio, "mask": decode_mask}
