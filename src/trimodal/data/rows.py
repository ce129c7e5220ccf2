"""Rows in memory: a list of mappings or samples, a torch Dataset or DataLoader, a Hugging Face dataset.

A row has the fields of a JSONL line. An image is a file's path, a PIL image or a uint8 array (height, width, channels); a
sound is a file's path, (waveform, rate) or {"array": waveform, "sampling_rate": rate}, as `datasets` gives them; either may
be {"bytes": content of a file}. No package but torch is imported to know them: they are told by what they have.

Every image and sound is looked at once, for the sha256 of its content. Of rows that can be asked for by number nothing is
kept: they must be the same each time, which is checked by that sha256. What can only be gone through (a DataLoader, a
stream) is held in memory.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from trimodal.core import Media, Sample
from trimodal.data.fields import build_sample, line_error, shorten_value
from trimodal.data.media import (
    Waveform,
    check_waveform,
    decode_audio,
    decode_image,
    describe_rates,
    parse_rate,
    to_upright_rgb,
)
from trimodal.errors import DataError

_CHANNELS = (1, 3, 4)
_INT16 = 32768.0


class RowTable(Protocol):
    """Rows by number, as in a torch Dataset."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int, /) -> Any:
        """Row `index`, from 0: the same each time."""


def is_iterable(rows: object) -> bool:
    """Whether one can go through `rows`, as through a torch Dataset, which has no `__iter__`."""
    return hasattr(rows, "__iter__") or hasattr(rows, "__getitem__")


class RowSource:
    """The samples of `rows`, one per mapping; samples among them pass as they are. A DataLoader's batches are parted.

    Raises:
        DataError: while it is gone through, a row is no mapping, or one of its fields cannot be used.
    """

    def __init__(self, rows: Any) -> None:
        self.name = f"the given {type(rows).__name__}"
        self.origin = f"{self.name}, row"
        self._rows = rows

    def explain_empty(self) -> str:
        """What an error says where there are no rows."""
        if isinstance(self._rows, Iterator):
            return f"{self.name} gives no rows; it can be gone through once, and is used up or empty: give a new one, or a list of its rows"
        return f'{self.name} holds no rows; expected one mapping per row, such as {{"text": "a red bus", "label": 3}}'

    def __iter__(self) -> Iterator[Sample]:
        """Go through the rows from the first."""
        again = hasattr(self._rows, "__getitem__") and hasattr(self._rows, "__len__")
        for index, row in enumerate(_iterate_rows(self._rows, again)):
            if isinstance(row, Sample):
                yield row
            elif isinstance(row, Mapping):
                fields = {key: _to_number(value) for key, value in row.items()}
                yield build_sample(self.origin, index + 1, fields, partial(_find_media, self._rows if again else None, index))
            else:
                found = f"is a {type(row).__name__} ({shorten_value(row)})"
                raise line_error(f"{self.origin} {index + 1}", found, 'expected a mapping such as {"text": "a red bus", "label": 3}')


def _iterate_rows(rows: Any, again: bool) -> Iterator[Any]:
    if again:
        yield from (_get_row(rows, index) for index in range(len(rows)))
    elif getattr(rows, "collate_fn", None) is not None and getattr(rows, "batch_size", None) is not None:
        for batch in rows:
            yield from _part_batch(batch) if isinstance(batch, Mapping) else batch
    else:
        yield from rows


def _get_row(rows: Any, index: int) -> Any:
    try:
        return rows[index]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"the given {type(rows).__name__} has no row {index} ({shorten_value(error)}); expected rows by "
            "number, 0 first; of a table give a list of mappings, as DataFrame.to_dict('records') does"
        ) from error


def _part_batch(batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows that a DataLoader collated: each column a list or tensor of as many, or a mapping of such."""
    columns = {key: list(_part_batch(value)) if isinstance(value, Mapping) else list(value) for key, value in batch.items()}
    counts = {len(values) for values in columns.values()}
    if len(counts) > 1:
        raise DataError(
            f"a batch of the DataLoader has columns of {' and '.join(map(str, sorted(counts)))} rows; expected as many of each: "
            "give it batch_size=None or collate_fn=list"
        )
    return (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def _to_number(value: Any) -> Any:
    """A NumPy or torch number as Python's own; a mapping with its numbers so; others as they are."""
    if isinstance(value, Mapping):
        return {key: _to_number(one) for key, one in value.items()}
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


# Images and sounds of rows


def _find_media(rows: Any, index: int, where: str, key: str, value: Any) -> Path | Media:
    """Where the image or sound of row `index` is: in a file, in `rows`, which can be asked again, or in memory (None)."""
    if isinstance(value, str | Path):
        return _find_file(where, key, Path(value))
    kind = _KINDS[key]
    try:
        content = kind.convert(value)
    except DataError as error:
        raise DataError(f"{where}: {key} {error}") from error
    sha256 = kind.digest(content)
    return Media(sha256, partial(_hold, content) if rows is None else partial(_load_again, rows, index, key, sha256))


def _find_file(where: str, key: str, path: Path) -> Path:
    if not path.is_file():
        found = f"{key} names {shorten_value(str(path))}, which is not a file"
        raise line_error(where, found, f"paths are relative to {Path.cwd()}")
    return path


def _hold(content: Any) -> Any:
    return content


def _load_again(rows: Any, index: int, key: str, sha256: str) -> Any:
    row, kind = _get_row(rows, index), _KINDS[key]
    value = row.get(key) if isinstance(row, Mapping) else None
    content = None if value is None else kind.convert(value)
    if content is None or kind.digest(content) != sha256:  # what was calibrated with would not be what the plan's digest says
        raise DataError(
            "is not what the row gave first: the row gives other data each time; "
            "give list(dataset), which keeps what it gave, or turn random augmentation off"
        )
    return content


def _to_image(value: Any) -> Image.Image:
    if isinstance(value, Image.Image):
        return _load_image(value)
    if isinstance(value, Mapping):
        return decode_image(_find_bytes(value))
    pixels = _to_array(value) if hasattr(value, "__array__") else None
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise DataError(f"is {_describe_value(value, pixels)}; expected a path, a PIL image or uint8 (height, width, channels)")
    if pixels.ndim == 3 and pixels.shape[0] in _CHANNELS and pixels.shape[2] not in _CHANNELS:  # as torch has them
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] not in _CHANNELS:
        raise DataError(f"is {_describe_value(value, pixels)}; expected 1, 3 or 4 channels, first or last")
    pixels = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    _check_size((pixels.shape[1], pixels.shape[0]))
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def _load_image(image: Image.Image) -> Image.Image:
    _check_size(image.size)
    try:
        return to_upright_rgb(image)
    except (OSError, SyntaxError) as error:  # it was opened, but not read yet
        raise DataError(f"cannot be decoded ({error}); expected a whole image") from error


def _check_size(size: tuple[int, int]) -> None:
    """Refuse an image without pixels, as Pillow does of a file."""
    if 0 in size:
        raise DataError(f"has a size of {size[0]} x {size[1]} pixels; expected at least one: take the row out, or make its image anew")


def _to_waveform(value: Any) -> Waveform:
    if isinstance(value, Mapping) and "array" not in value:
        return decode_audio(_find_bytes(value))
    wave, rate = _split_wave(value)
    audio, checked = _to_array(wave), parse_rate(rate)
    if audio.dtype.newbyteorder("=") == np.int16:
        audio = audio.astype(np.float32) / _INT16
    if audio.ndim not in (1, 2) or audio.dtype.kind != "f" or checked is None:
        found = f"is {_describe_value(wave, audio)} at {shorten_value(rate)} Hz"
        raise DataError(f"{found}; expected float or int16 (frames,) and its rate: {describe_rates()}")
    mono = audio.reshape(-1, 1) if audio.ndim == 1 else audio if audio.shape[0] >= audio.shape[1] else audio.T
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
        return check_waveform("in memory", np.asarray(mono, dtype=np.float32)), checked


def _to_array(value: Any) -> NDArray[Any]:
    """`value` as an array; of a tensor without its gradient, and of floats that NumPy has no type for, float32."""
    try:
        if isinstance(value, torch.Tensor):
            tensor = value.detach().cpu()
            return np.asarray(tensor.float() if tensor.is_floating_point() else tensor)
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = shorten_value(str(error))
        raise DataError(f"is {_describe_value(value)} that no array can be made of ({reason}); expected an array of numbers") from error


def _split_wave(value: Any) -> tuple[Any, Any]:
    """Waveform and rate, as a pair, as `datasets` has them, or in its decoder, which gives all frames when asked."""
    if isinstance(value, tuple | list) and len(value) == 2:
        return value[0], _to_number(value[1])
    if isinstance(value, Mapping):
        return value["array"], _to_number(value.get("sampling_rate"))
    if hasattr(value, "get_all_samples"):
        found = value.get_all_samples()
        return found.data, _to_number(found.sample_rate)
    raise DataError(
        f"is {_describe_value(value)} without a rate; expected a path, (waveform, rate) or "
        '{"array": waveform, "sampling_rate": rate}'
    )


def _find_bytes(value: Mapping[str, Any]) -> Path | io.BytesIO:
    """The content of a file that a row holds as bytes, or the file that it names."""
    if isinstance(value.get("bytes"), bytes):
        return io.BytesIO(value["bytes"])
    if isinstance(value.get("path"), str | Path) and Path(value["path"]).is_file():
        return Path(value["path"])
    raise DataError(f"is a mapping with the keys {shorten_value(list(value))}; expected bytes, or the path of a file")


def _describe_value(value: Any, array: Any = None) -> str:
    shape = "" if array is None else f" of {array.dtype} {tuple(array.shape)}"
    return f"a {type(value).__name__}{shape}"


def _digest_image(image: Image.Image) -> str:
    return hashlib.sha256(f"RGB {image.width} {image.height} ".encode() + image.tobytes()).hexdigest()


def _digest_waveform(wave: Waveform) -> str:
    return hashlib.sha256(f"{wave[1]} Hz ".encode() + wave[0].tobytes()).hexdigest()


@dataclass(frozen=True)
class _MediaKind:
    """How a row's value becomes an image or a sound, and the sha256 of that."""

    convert: Callable[[Any], Any]
    digest: Callable[[Any], str]


_KINDS = {"image": _MediaKind(_to_image, _digest_image), "audio": _MediaKind(_to_waveform, _digest_waveform)}
