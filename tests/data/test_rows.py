"""Rows in memory become the same samples as lines do, whoever holds them; what they hold is compared by its content."""

from __future__ import annotations

import io
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from datafiles import write
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset
from toyfamily import make_toy_model as model

from trimodal.core import Media, Sample
from trimodal.data import (
    batch_samples,
    check_media,
    digest_samples,
    load_sample,
    read_samples,
    split_calibration_and_held_out,
)
from trimodal.errors import DataError

TONE = (np.sin(np.arange(400) / 10) / 2).astype(np.float32)


def picture(shade: int = 100) -> Image.Image:
    return Image.new("RGB", (8, 6), (shade, 0, 0))


def pixels_of(sample: Sample) -> np.ndarray:
    image = load_sample(sample).image
    assert image is not None and image.mode == "RGB"
    return np.asarray(image)


def test_rows_have_the_fields_of_a_line() -> None:
    row = {
        "image": picture(), "audio": (TONE, 8000), "text": "add them", "label": np.int64(10),
        "labels": {"image": torch.tensor(7), "audio": None},
        "target": "ten", "group": "w1", "split": "test", "other": None,
    }  # fmt: skip
    with pytest.raises(DataError, match=r"the given list, row 2: unknown field 'lable'; did you mean 'label'"):
        read_samples([row, {"text": "a", "lable": 3}])
    (sample,) = read_samples([row])
    assert (sample.line, sample.text, sample.label, sample.labels) == (1, "add them", 10, {"image": 7})
    assert (sample.target, sample.group, sample.split, sample.modalities) == ("ten", "w1", "test", {"image", "audio", "text"})
    loaded = load_sample(sample)
    assert loaded.audio is not None and loaded.audio.dtype == np.float32
    assert np.array_equal(loaded.audio, TONE) and loaded.sampling_rate == 8000
    assert np.array_equal(pixels_of(sample), np.asarray(picture()))


def test_a_picture_and_its_class_are_a_row_as_torchvision_has_them() -> None:
    class Folder:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return picture(index), index

    samples = read_samples(Folder())
    assert [s.label for s in samples] == [0, 1] and np.array_equal(pixels_of(samples[1]), np.asarray(picture(1)))
    with pytest.raises(DataError, match="row 1: is a tuple"):
        read_samples([("a red bus", 3)])


def as_png(image: Image.Image) -> bytes:
    image.save(content := io.BytesIO(), "PNG")
    return content.getvalue()


@pytest.mark.parametrize("kind", ["array", "tensor", "bytes", "gray"])
def test_an_image_is_the_same_however_it_is_given(kind: str) -> None:
    image = picture() if kind != "gray" else Image.new("L", (8, 6), 100).convert("RGB")
    array = np.asarray(image)
    given: dict[str, Any] = {
        "array": array, "tensor": torch.from_numpy(array.copy()).permute(2, 0, 1), "bytes": {"bytes": as_png(image), "path": None},
        "gray": array[:, :, 0],
    }  # fmt: skip
    expected, found = read_samples([{"image": image}, {"image": given[kind]}])
    assert expected.image == found.image and np.array_equal(pixels_of(found), array)


class Decoder:
    """A sound as `datasets` hands it out: decoded when it is asked."""

    def __init__(self, data: torch.Tensor, rate: int) -> None:
        self.data, self.sample_rate = data, rate

    def get_all_samples(self) -> Decoder:
        return self


def as_wav(wave: np.ndarray, rate: int) -> bytes:
    soundfile.write(content := io.BytesIO(), wave, rate, format="WAV", subtype="FLOAT")
    return content.getvalue()


@pytest.mark.parametrize("kind", ["mapping", "pair of tensors", "stereo", "decoder", "bytes", "doubles"])
def test_a_sound_is_the_same_however_it_is_given(kind: str) -> None:
    given: dict[str, Any] = {
        "mapping": {"array": TONE, "sampling_rate": 8000, "path": "a.wav"}, "pair of tensors": (torch.from_numpy(TONE), torch.tensor(8000)),
        "stereo": (np.stack([TONE * 2, TONE * 0]), 8000), "decoder": Decoder(torch.from_numpy(TONE)[None], 8000),
        "bytes": {"bytes": as_wav(TONE, 8000)}, "doubles": (TONE.astype(np.float64), 8000),
    }  # fmt: skip
    expected, found = read_samples([{"audio": (TONE, 8000)}, {"audio": given[kind]}])
    assert expected.audio == found.audio and hash(expected.audio) == hash(found.audio)
    loaded = load_sample(found)
    assert loaded.audio is not None and np.array_equal(loaded.audio, TONE) and loaded.sampling_rate == 8000


def test_sixteen_bit_sound_is_scaled() -> None:
    (sample,) = read_samples([{"audio": (np.array([-32768, 0, 16384], dtype=np.int16), 16_000)}])
    loaded = load_sample(sample).audio
    assert loaded is not None and loaded.tolist() == [-1, 0, 0.5]


BAD_ROWS = [
    ("a red bus", "row 2: is a str ('a red bus'); expected a mapping"),
    ({"image": 3.5}, "row 2: image is a float; expected a path, a PIL image or uint8"),
    ({"image": np.zeros((8, 6, 3))}, "image is a ndarray of float64 (8, 6, 3)"),
    ({"image": np.zeros((8, 6, 2), dtype=np.uint8)}, "expected 1, 3 or 4 channels"),
    ({"image": {"pixels": 1}}, "image is a mapping with the keys ['pixels']"),
    ({"image": {"bytes": b"no image"}}, "image in memory cannot be decoded (not a known image format)"),
    ({"image": "gone.png"}, "image names 'gone.png', which is not a file"),
    ({"audio": TONE}, "audio is a ndarray without a rate; expected a path, (waveform, rate)"),
    ({"audio": (TONE, None)}, "at None Hz; expected float or int16"),
    ({"audio": (TONE.astype(np.int64), 8000)}, "of int64 (400,) at 8000 Hz"),
    ({"audio": (TONE[:0], 8000)}, "audio in memory holds 0 samples"),
    ({"audio": {"array": [0.5, np.nan], "sampling_rate": 8000}}, "not finite"),
    ({"audio": (TONE * 32768, 8000)}, "audio in memory holds values as large as 16,383.9; expected samples in [-1, 1]: divide it by"),
    ({"audio": (TONE.astype(np.float64) * 1e300, 8000)}, "not finite"),
    ({"audio": (np.zeros((400, 0)), 8000)}, "audio in memory holds 0 samples"),
    ({"audio": ([[0.1, 0.2], [0.3]], 8000)}, "audio is a list that no array can be made of"),
    ({"audio": (torch.zeros(4, device="meta"), 8000)}, "audio is a Tensor that no array can be made of"),
    ({"audio": (TONE.astype(object), 8000)}, "audio is a ndarray of object (400,) at 8000 Hz; expected float or int16"),
    ({"audio": (["0.1", "0.2"], 8000)}, "audio is a list of <U3 (2,) at 8000 Hz; expected float or int16"),
    ({"audio": (TONE.astype(np.complex64), 8000)}, "audio is a ndarray of complex64 (400,)"),
    ({"audio": (torch.from_numpy(TONE).to(torch.complex64).conj(), 8000)}, "audio is a Tensor"),
    ({"image": torch.zeros(6, 8, 3, dtype=torch.bfloat16)}, "image is a Tensor of float32 (6, 8, 3)"),
    ({"image": torch.zeros(6, 8, 3, requires_grad=True)}, "image is a Tensor of float32 (6, 8, 3)"),
    ({"image": np.zeros((0, 0, 3), dtype=np.uint8)}, "image has a size of 0 x 0 pixels"),
    ({"image": np.zeros((0, 5), dtype=np.uint8)}, "image has a size of 5 x 0 pixels"),
    ({"image": torch.zeros(3, 5, 0, dtype=torch.uint8)}, "image has a size of 0 x 5 pixels"),
    ({"image": Image.new("L", (0, 5))}, "image has a size of 0 x 5 pixels"),
    ({"text": b"bytes"}, "text is a bytes"),
    ({"text": "a", "label": torch.tensor([1, 2])}, "label is tensor([1, 2])"),
    ({}, "no image, audio, text or signal"),
]


@pytest.mark.parametrize(("row", "found"), BAD_ROWS)
def test_names_the_row_and_what_is_wrong(row: Any, found: str) -> None:
    with pytest.raises(DataError) as caught:
        read_samples([{"text": "a"}, row])
    assert str(caught.value).startswith("the given list, row 2: ") and found in str(caught.value)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


BAD_RATES = [True, np.True_, torch.tensor(True), 0, 1, 999, 768_001, 10**9, -8000, 8000.5, np.nan, np.inf, "8000", np.zeros((9, 9))]


@pytest.mark.parametrize("rate", BAD_RATES, ids=lambda rate: type(rate).__name__)
def test_a_rate_is_a_whole_number_of_a_sound(rate: Any) -> None:
    for value in ((TONE, rate), {"array": TONE, "sampling_rate": rate}, Decoder(torch.from_numpy(TONE)[None], rate)):
        with pytest.raises(DataError, match=r"row 1: audio is .* Hz; expected float .* a whole number from 1,000 to 768,000 Hz$"):
            read_samples([{"audio": value}])


@pytest.mark.parametrize("rate", [8000, 8000.0, np.int32(8000), np.uint16(8000), np.float32(8000), torch.tensor(8000.0)])
def test_a_whole_rate_counts_however_it_is_held(rate: Any) -> None:
    (sample,) = read_samples([{"audio": {"array": TONE, "sampling_rate": rate}}])
    found = load_sample(sample).sampling_rate
    assert found == 8000 and type(found) is int


@pytest.mark.parametrize("kind", ["bfloat16", "with a gradient", "other byte order", "overshoot"])
def test_an_odd_waveform_that_can_be_meant_is_taken(kind: str) -> None:
    tensor = torch.from_numpy(TONE)
    given, expected = {
        "bfloat16": (tensor.bfloat16(), tensor.bfloat16().float().numpy()),
        "with a gradient": (tensor.clone().requires_grad_(), TONE),
        "other byte order": (np.array([-32768, 16384], dtype=">i2"), np.array([-1, 0.5])),
        "overshoot": (TONE * 3, TONE * 3),
    }[kind]  # fmt: skip
    (sample,) = read_samples([{"audio": (given, 8000)}])
    found = load_sample(sample).audio
    assert found is not None and found.dtype == np.float32 and np.array_equal(found, expected)


def test_rows_are_compared_by_content_in_digest_and_split() -> None:
    rows = [{"image": picture(i // 4), "audio": (TONE * (i // 4), 8000)} for i in range(1, 41)]
    samples = read_samples(rows)
    assert digest_samples(samples) == digest_samples(read_samples([dict(row) for row in rows]))
    assert digest_samples(samples) != digest_samples(samples[::-1])
    for other in ({"image": picture(0), "audio": (TONE, 8000)}, {"image": picture(1), "audio": (TONE, 16_000)}):
        assert digest_samples(read_samples([other])) != digest_samples(read_samples([{"image": picture(1), "audio": (TONE, 8000)}]))
    calibration, held_out = split_calibration_and_held_out(samples, seed=0)
    assert held_out and not {s.image for s in calibration} & {s.image for s in held_out}


def test_files_named_by_rows_count_by_their_bytes_like_those_of_lines(folder: Path) -> None:
    lines = read_samples(write(folder, {"image": "seven.png", "audio": "three.wav"}))
    rows = read_samples([{"image": folder / "seven.png", "audio": str(folder / "three.wav")}])
    assert rows == lines and digest_samples(rows) == digest_samples(lines)


def test_samples_pass_as_they_are() -> None:
    given = [Sample(7, text="a"), Sample(9, text="b")]
    assert read_samples(given) == given
    assert [s.where for s in read_samples(given)] == ["the given list, row 7", "the given list, row 9"]


class Table(Dataset[Mapping[str, Any]]):
    """Rows that are made when they are asked for, and told so."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.asked: list[int] = []
        self.alive: list[weakref.ref[np.ndarray]] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.asked.append(index)
        wave = TONE * (index + 1) / self.count
        self.alive.append(weakref.ref(wave))
        return {"audio": {"array": wave, "sampling_rate": 8000}, "text": f"t{index}", "label": index % 3}


def test_of_a_table_nothing_is_held_and_rows_are_asked_for_again_when_they_are_used() -> None:
    table = Table(6)
    samples = read_samples(table)
    assert table.asked == list(range(6)) and not [one for one in table.alive if one() is not None]
    loaded = load_sample(samples[4]).audio
    assert table.asked[6:] == [4] and loaded is not None and np.array_equal(loaded, TONE * 5 / 6)
    found = batch_samples(model("text"), samples, 2)
    assert [batch["letters"].tolist() for batch in found] == [[2, 2]] * 3 and len(table.asked) == 7


class Augmented(Dataset[Mapping[str, Any]]):
    """Rows that differ each time, in what `key` holds; `forgets` it when asked again."""

    def __init__(self, key: str, forgets: bool = False) -> None:
        self.key, self.forgets, self.asked = key, forgets, 0

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.asked += 1
        row = {"image": picture(self.asked), "audio": (TONE / self.asked, 8000), "text": "a"}
        return {"text": "a"} if self.forgets and self.asked > len(self) else {"text": "a", self.key: row[self.key]}


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("key", ["image", "audio"])
def test_rows_that_differ_each_time_are_refused_when_they_are_asked_again(key: str, forgets: bool) -> None:
    wrong = rf"the given Augmented, row 2: {key} is not what the row gave first: .* other data each time; give list\(dataset\)"
    for use in (load_sample, lambda sample: check_media([sample])):
        with pytest.raises(DataError, match=wrong):
            use(read_samples(Augmented(key, forgets))[1])
    kept = read_samples([Augmented(key)[index] for index in range(2)])
    check_media(kept)


class Stream(IterableDataset[Mapping[str, Any]]):
    """Rows that can only be gone through."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        table = Table(6)
        return (table[index] for index in range(6))


class Rows:
    """As a Hugging Face dataset: rows by number, columns by name."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)


@pytest.mark.parametrize("kind", ["stream", "list", "generator", "dataset", "loader", "lists", "single rows", "streamed batches"])
def test_every_holder_of_rows_gives_the_same_samples(kind: str) -> None:
    table = Table(6)
    holders: dict[str, Any] = {
        "stream": Stream(), "list": list(table), "generator": (row for row in list(table)), "dataset": Rows(list(table)),
        "loader": DataLoader(table, batch_size=4), "lists": DataLoader(table, batch_size=4, collate_fn=list),
        "single rows": DataLoader(table, batch_size=None), "streamed batches": DataLoader(Stream(), batch_size=4),
    }  # fmt: skip
    found = read_samples(holders[kind])
    assert found == read_samples(table) and len(found) == 6
    for one, other in zip(found, read_samples(table), strict=True):
        assert isinstance(one.audio, Media) and np.array_equal(load_sample(one).audio, load_sample(other).audio)  # type: ignore[arg-type]


def test_a_batch_of_unlike_columns_says_what_to_do() -> None:
    loader = DataLoader(Table(4), batch_size=4, collate_fn=lambda rows: {"text": [row["text"] for row in rows], "label": [1]})
    with pytest.raises(DataError, match="columns of 1 and 4 rows; expected as many of each: give it batch_size=None"):
        read_samples(loader)


class Frame:
    """As a data frame: columns by name, no rows by number."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, key: str) -> list[str]:
        return {"text": ["a", "b"]}[key]


def test_a_table_of_columns_is_refused_with_what_to_give() -> None:
    with pytest.raises(DataError, match=r"the given Frame has no row 0 \(KeyError\(0\)\); .*to_dict\('records'\)"):
        read_samples(Frame())  # type: ignore[arg-type]
