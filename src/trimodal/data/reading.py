"""Read a data file, check all of it before any work begins, and turn its lines into batches.

A data file is JSONL: one object per line, with any of `image` and `audio` (paths relative to the file) and `text`,
plus what a task needs:

    {"image": "images/7.png", "audio": "clips/three.flac", "text": "add them", "label": 10, "split": "test"}

Whatever is wrong with it is a DataError that names the file and the line, and is raised while reading.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, overload

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from trimodal.core import MODALITIES, Sample
from trimodal.errors import DataError, suggest_names
from trimodal.models.model import Batch, LoadedSample, Model, device_of

DATA_NAME = "data.jsonl"
FIELDS = ("image", "audio", "text", "label", "labels", "target", "group", "split")
SPLITS = ("train", "test")

_IMAGE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
_KEPT_PIXELS = 256 * 256
_KEPT_FRAMES = 160_000
_KEPT_BYTES = 2**30  # of encoded batches


# Reading and checking


def read_samples(data: str | Path, *, needs: frozenset[str] | None = None) -> list[Sample]:
    """Read all lines of `data`, a JSONL file or a folder that holds `data.jsonl`.

    Args:
        data: the file or folder.
        needs: fields that every line must have, such as `frozenset({"label"})`.

    Returns:
        One sample per line that is not blank, in file order. Paths are joined to the file's folder.

    Raises:
        DataError: the file, one of its lines, or a file that a line names cannot be used. Every distinct image
            and audio file is decoded once to find that out.
    """
    file = _find_data_file(Path(data))
    samples = [_parse_sample(file, number, text) for number, text in enumerate(_read_lines(file), start=1) if text.strip()]
    if not samples:
        raise DataError(f"{file} holds no lines; expected one JSON object per line")
    _check_needs(file, samples, needs or frozenset())
    _check_splits(file, samples)
    _check_files(file, samples)
    return samples


def _find_data_file(given: Path) -> Path:
    file = given / DATA_NAME if given.is_dir() else given
    if not file.is_file():
        found = f"the folder {given} holds no {DATA_NAME}" if given.is_dir() else f"there is no file {given}"
        raise DataError(f"{found}; expected a JSONL file or a folder that holds {DATA_NAME}")
    return file


def _read_lines(file: Path) -> list[str]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    return [_decode_line(file, number, line) for number, line in enumerate(content.split(b"\n"), start=1)]


def _decode_line(file: Path, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _line_error(file, number, "is not UTF-8 text", "save the file as UTF-8") from error


def _line_error(file: Path, number: int, found: str, expected: str) -> DataError:
    return DataError(f"{file}, line {number}: {found}; {expected}")


def _parse_sample(file: Path, number: int, text: str) -> Sample:
    fields = {key: value for key, value in _parse_object(file, number, text).items() if value is not None}
    for key in fields:
        if key not in FIELDS:
            raise _line_error(file, number, f"unknown field {_shorten_value(key)}", suggest_names(key, FIELDS))
    strings = {
        key: _parse_string(file, number, key, fields) for key in ("image", "audio", "text", "target", "group", "split")
    }
    if all(strings[modality] is None for modality in MODALITIES):
        raise _line_error(file, number, "no image, audio or text", "a line needs at least one of them")
    if strings["split"] not in (None, *SPLITS):
        raise _line_error(file, number, f"split is {_shorten_value(strings['split'])}", "expected 'train' or 'test'")
    return Sample(
        line=number,
        image=_parse_path(file, number, "image", strings["image"]),
        audio=_parse_path(file, number, "audio", strings["audio"]),
        text=strings["text"],
        label=_parse_label(file, number, "label", fields["label"]) if "label" in fields else None,
        labels=_parse_labels(file, number, fields.get("labels", {})),
        target=strings["target"],
        group=strings["group"],
        split=strings["split"] or "",
    )


def _parse_object(file: Path, number: int, text: str) -> Mapping[str, Any]:
    expected = 'expected one JSON object such as {"text": "a red bus", "label": 3}'
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise _line_error(file, number, f"not JSON ({reason})", expected) from error
    if not isinstance(value, dict):
        raise _line_error(file, number, f"is a JSON {_json_type_of(value)}", expected)
    return value


def _json_type_of(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "true/false", int: "number", float: "number", str: "string", list: "list", dict: "object"}
    return names[type(value)]


def _shorten_value(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _parse_string(file: Path, number: int, key: str, fields: Mapping[str, Any]) -> str | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _line_error(file, number, f"{key} is a {_json_type_of(value)} ({_shorten_value(value)})", "expected a string")
    if not value:
        raise _line_error(file, number, f"{key} is an empty string", "give it a value or leave it out")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _line_error(file, number, f"{key} holds half a surrogate pair", "expected valid Unicode text")
    return value


def _parse_label(file: Path, number: int, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _line_error(file, number, f"{name} is {_shorten_value(value)}", "expected a whole number from 0")
    return value


def _parse_labels(file: Path, number: int, value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise _line_error(file, number, f"labels is a {_json_type_of(value)}", 'expected an object such as {"image": 7}')
    return {name: _parse_label(file, number, f"labels.{name}", label) for name, label in value.items() if label is not None}


def _parse_path(file: Path, number: int, key: str, given: str | None) -> Path | None:
    if given is None:
        return None
    path = file.parent / given
    if not _is_file(path):
        raise _line_error(
            file,
            number,
            f"{key} names {_shorten_value(given)}, which is not a file",
            f"paths are relative to {file.parent}",
        )
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a null character
        return False


def _check_needs(file: Path, samples: Sequence[Sample], needs: frozenset[str]) -> None:
    for sample in samples:
        for field in sorted(needs):
            if getattr(sample, field) in (None, "", {}):
                raise _line_error(file, sample.line, f"no {field}", f"every line needs {', '.join(sorted(needs))} here")


def _check_splits(file: Path, samples: Sequence[Sample]) -> None:
    first = samples[0]
    seen: dict[str, Sample] = {}
    for sample in samples:
        if bool(sample.split) != bool(first.split):
            without, having = (sample, first) if first.split else (first, sample)
            raise _line_error(
                file,
                without.line,
                f"no split, while line {having.line} has one",
                "give all lines a split or none",
            )
        if sample.group is None:
            continue
        earlier = seen.setdefault(sample.group, sample)
        if earlier.split != sample.split:
            where = f"in split {sample.split}, on line {earlier.line} in {earlier.split}"
            raise _line_error(file, sample.line, f"group {_shorten_value(sample.group)} is {where}", "a group must stay in one split")


def _check_files(file: Path, samples: Sequence[Sample]) -> None:
    checked: set[Path] = set()
    for sample in samples:
        for key, path, decode in (("image", sample.image, _load_image), ("audio", sample.audio, _load_audio)):
            if path is None or path in checked:
                continue
            try:
                decode(path)
            except DataError as error:
                raise DataError(f"{file}, line {sample.line}: {key} {error}") from error
            checked.add(path)


# Decoding files


def load_sample(sample: Sample) -> LoadedSample:
    """Read the files of `sample`: the image upright and in RGB, the audio as mono float32 (frames,) in [-1, 1].

    Raises:
        DataError: a file cannot be decoded.
    """
    audio, rate = (None, 0) if sample.audio is None else _load_audio(sample.audio)
    return LoadedSample(
        image=None if sample.image is None else _load_image(sample.image),
        audio=None if audio is None else audio.copy(),
        sampling_rate=rate,
        text=sample.text,
        target=sample.target,
    )


def _file_stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of change, so that a file that was written anew is decoded anew."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns


def _load_image(path: Path) -> Image.Image:
    kept = _load_small_image(path, _file_stamp_of(path))
    return _decode_image(path) if kept is None else kept


@lru_cache(maxsize=2048)
def _load_small_image(path: Path, stamp: tuple[int, int]) -> Image.Image | None:
    """The decoded image, kept in memory because many lines share it; None where it is too large for that."""
    try:
        with Image.open(path) as opened:
            small = opened.width * opened.height <= _KEPT_PIXELS
    except _IMAGE_ERRORS as error:
        raise _image_error(path, error) from error
    return _decode_image(path) if small else None


def _decode_image(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            opened.load()
            return _to_rgb(ImageOps.exif_transpose(opened))
    except _IMAGE_ERRORS as error:
        raise _image_error(path, error) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255 instead of scaling them
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _image_error(path: Path, error: BaseException) -> DataError:
    if path.exists() and path.stat().st_size == 0:
        return DataError(f"{path} is empty (0 bytes); expected a whole image file")
    reason = "not a known image format" if isinstance(error, UnidentifiedImageError) else str(error)
    return DataError(f"{path} cannot be decoded ({reason}); expected a whole image file such as PNG or JPEG")


def _load_audio(path: Path) -> tuple[np.ndarray, int]:
    kept = _load_short_audio(path, _file_stamp_of(path))
    return _decode_audio(path) if kept is None else kept


@lru_cache(maxsize=1024)
def _load_short_audio(path: Path, stamp: tuple[int, int]) -> tuple[np.ndarray, int] | None:
    """The decoded audio, kept in memory because many lines share it; None where it is too long for that."""
    audio, rate = _decode_audio(path)
    return (audio, rate) if audio.shape[0] <= _KEPT_FRAMES else None


def _decode_audio(path: Path) -> tuple[np.ndarray, int]:
    soundfile = _import_soundfile()
    try:
        with soundfile.SoundFile(path) as opened:
            expected, rate = opened.frames, opened.samplerate
            audio = opened.read(dtype="float32", always_2d=True)  # (frames, channels)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        reason = getattr(error, "error_string", str(error))
        raise DataError(
            f"{path} cannot be decoded ({reason}); expected a whole audio file such as WAV or FLAC"
        ) from error
    if _is_cut_short(path) or audio.shape[0] < expected:
        raise DataError(f"{path} is truncated: its header promises more audio than it holds; expected a whole file")
    if audio.shape[0] == 0:
        raise DataError(f"{path} holds 0 samples; expected some sound")
    if not np.isfinite(audio).all():
        raise DataError(f"{path} holds values that are not finite; expected samples in [-1, 1]")
    return audio.mean(axis=1, dtype=np.float32), int(rate)


def _is_cut_short(path: Path) -> bool:
    """Whether a RIFF file is shorter than its header says, which libsndfile forgives in silence."""
    with path.open("rb") as file:
        header = file.read(8)
    if len(header) < 8 or header[:4] != b"RIFF":
        return False
    promised = int.from_bytes(header[4:8], "little")
    streamed = promised in (0, 0xFFFFFFFF)
    return not streamed and path.stat().st_size < promised + 8


def _import_soundfile() -> ModuleType:
    try:
        import soundfile  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise DataError(
            "reading audio needs the soundfile package; install it with: pip install 'trimodal[audio]'"
        ) from error
    return soundfile  # type: ignore[no-any-return, unused-ignore]


# Choosing samples


def split_calibration_and_held_out(samples: Sequence[Sample], seed: int, held_out: float = 0.2) -> tuple[list[Sample], list[Sample]]:
    """Part `samples` into those to calibrate with and those to verify with, each in file order.

    Lines that say `train` calibrate and lines that say `test` verify. Where no line has a split, a seeded
    `held_out` fraction of the lines verifies, by whole groups; lines without a group that show the very same
    image, audio and text count as one group.
    """
    if any(sample.split for sample in samples):
        return [s for s in samples if s.split != "test"], [s for s in samples if s.split == "test"]
    sizes: dict[object, int] = {}
    for sample in samples:
        sizes[_group_key_of(sample)] = sizes.get(_group_key_of(sample), 0) + 1
    verifying = _choose_held_out_groups(sizes, seed, held_out * len(samples))
    return (
        [s for s in samples if _group_key_of(s) not in verifying],
        [s for s in samples if _group_key_of(s) in verifying],
    )


def _group_key_of(sample: Sample) -> object:
    return sample.group if sample.group is not None else (sample.image, sample.audio, sample.text)


def _choose_held_out_groups(sizes: Mapping[object, int], seed: int, wanted: float) -> set[object]:
    """Groups in seeded order as long as they fit into `wanted` lines; at least one if there are two."""
    if len(sizes) < 2:
        return set()
    order = random.Random(seed).sample(list(sizes), len(sizes))
    taken: set[object] = set()
    lines = 0
    for group in order:
        if lines + sizes[group] <= wanted:
            taken.add(group)
            lines += sizes[group]
    return taken or {min(order, key=lambda group: sizes[group])}


def choose_samples(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """A seeded choice of `count` samples in file order; all of them where there are no more."""
    if count >= len(samples):
        return list(samples)
    kept = random.Random(seed).sample(range(len(samples)), count)
    return [samples[index] for index in sorted(kept)]


def require_samples(samples: Sequence[Sample], count: int, what: str) -> None:
    """Raise a DataError where there are fewer than `count` of `what`, such as `calibration samples`."""
    if len(samples) < count:
        raise DataError(f"the data has {len(samples)} {what}, and {count} are needed; add lines, or ask for fewer")


def check_modalities(model: Model, samples: Sequence[Sample]) -> None:
    """Raise a DataError where `samples` and `model` do not fit together.

    They do not where every line has a modality that the model does not take, where one line has none that it
    takes, or where no line has one that it does take. A `target` counts as text.
    """
    if not samples:
        return
    takes = frozenset(model.modalities)
    surplus = frozenset[str].intersection(*(sample.modalities for sample in samples)) - takes
    about = f"{model.name} ({model.family.name}) takes {_list_modalities(takes)}"
    if surplus:
        raise DataError(
            f"line {samples[0].line} and all others have {_list_modalities(surplus)}, but {about}; "
            "leave that field out or choose another model"
        )
    for sample in samples:
        if not _modalities_of(sample) & takes:
            raise DataError(f"line {sample.line} has only {_list_modalities(sample.modalities)}, but {about}; take the line out")
    lacking = takes - frozenset[str]().union(*(_modalities_of(sample) for sample in samples))
    if lacking:
        raise DataError(
            f"no line has {_list_modalities(lacking)}, but {about}; line {samples[0].line} has "
            f"{_list_modalities(samples[0].modalities)}; add {_list_modalities(lacking)} to the data"
        )


def _modalities_of(sample: Sample) -> frozenset[str]:
    return sample.modalities | ({"text"} if sample.target is not None else frozenset())


def _list_modalities(modalities: frozenset[str]) -> str:
    return " and ".join(m for m in MODALITIES if m in modalities)


# Batches


def group_by_modality(model: Model, samples: Sequence[Sample], size: int) -> list[list[int]]:
    """Indices into `samples`, at most `size` at a time, with the same modalities out of those `model` takes.

    File order holds within a set of modalities; sets come in the order of their first line.
    """
    if size < 1:
        raise DataError(f"batch size is {size}; expected at least 1")
    sets: dict[frozenset[str], list[int]] = {}
    takes = frozenset(model.modalities)
    for index, sample in enumerate(samples):
        sets.setdefault(sample.modalities & takes, []).append(index)
    return [alike[start : start + size] for alike in sets.values() for start in range(0, len(alike), size)]


def encode_samples(model: Model, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
    """Keyword arguments of the module's forward for `samples`, on the module's device; labels are not in it."""
    batch = model.family.encode(model.module, model.processors, [_drop_unused_modalities(model, load_sample(s)) for s in samples])
    _check_finite(batch, samples)
    device = device_of(model.module)
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _check_finite(batch: Mapping[str, torch.Tensor], samples: Sequence[Sample]) -> None:
    """Raise a DataError where a number that the model is to be given is not finite; an additive mask may hold −∞."""
    for name, tensor in batch.items():
        if not tensor.is_floating_point():
            continue
        bad = tensor.isnan() if "mask" in name else ~tensor.isfinite()
        if bool(bad.any()):
            row = int(bad.flatten(1).any(dim=1).nonzero()[0]) if bad.dim() and len(bad) == len(samples) else 0
            raise DataError(
                f"line {samples[row].line}: {name} holds {int(bad.sum()):,} numbers that are not finite; "
                "expected finite inputs: look at its file, or at the processor's means and scales"
            )


def _drop_unused_modalities(model: Model, loaded: LoadedSample) -> LoadedSample:
    """The sample without what the model does not take, so that its family need not look at it."""
    takes = model.modalities
    return LoadedSample(
        image=loaded.image if "image" in takes else None,
        audio=loaded.audio if "audio" in takes else None,
        sampling_rate=loaded.sampling_rate,
        text=loaded.text if "text" in takes else None,
        target=loaded.target,
    )


class EncodedBatches(Sequence[Batch]):
    """Batches of at most `size` samples, as `group_by_modality` orders them, each encoded when it is asked for. They are kept until
    all that is kept takes `_KEPT_BYTES`; others are encoded anew each time."""

    def __init__(self, model: Model, samples: Sequence[Sample], size: int) -> None:
        self._model, self._samples = model, samples
        self._rows = group_by_modality(model, samples, size)
        self._kept: dict[int, Batch] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...

    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        """One batch, or those of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        if number in self._kept:
            return self._kept[number]
        batch = encode_samples(self._model, [self._samples[row] for row in self._rows[number]])
        self._bytes += sum(tensor.numel() * tensor.element_size() for tensor in batch.values())
        if self._bytes <= _KEPT_BYTES:
            self._kept[number] = batch
        return batch


def batch_samples(model: Model, samples: Sequence[Sample], size: int) -> Sequence[Batch]:
    """Batches of at most `size` samples, as `group_by_modality` orders them, encoded when they are asked for."""
    return EncodedBatches(model, samples, size)


def collect_labels(samples: Sequence[Sample], path: str) -> list[int | None]:
    """What stands at `path` (`label`, or `labels.image`) in each sample; None where nothing does."""
    if path == "label":
        return [sample.label for sample in samples]
    field, _, name = path.partition(".")
    if field != "labels" or not name:
        raise DataError(f"a label path is {path!r}; expected 'label' or 'labels.<name>'")
    return [sample.labels.get(name) for sample in samples]


def digest_samples(samples: Sequence[Sample]) -> str:
    """sha256 over the samples' fields in order, with each file given by the sha256 of its bytes.

    It does not depend on where the files lie or what they are called.
    """
    total = hashlib.sha256()
    for sample in samples:
        line = {
            "image": _digest_file(sample.image),
            "audio": _digest_file(sample.audio),
            "text": sample.text,
            "label": sample.label,
            "labels": dict(sample.labels),
            "target": sample.target,
            "group": sample.group,
            "split": sample.split,
        }
        total.update(json.dumps(line, sort_keys=True).encode() + b"\n")
    return total.hexdigest()


def _digest_file(path: Path | None) -> str | None:
    return None if path is None else _digest_content(path, _file_stamp_of(path))


@lru_cache(maxsize=65536)
def _digest_content(path: Path, stamp: tuple[int, int]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
