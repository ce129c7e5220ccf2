"""Reading data: what is accepted, and every kind of bad input with the file and line it names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor, nn

from trimodal.core import Layout, Sample
from trimodal.data import reading
from trimodal.errors import DataError
from trimodal.models.model import Family, LoadedSample, Model, Output, Processors


def write(folder: Path, *lines: object) -> Path:
    file = folder / "data.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one image and one sound."""
    pixels = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
    Image.fromarray(pixels).save(tmp_path / "seven.png")
    tone = np.sin(np.arange(800) / 10).astype(np.float32) / 2
    soundfile.write(tmp_path / "three.wav", np.stack([tone, tone], axis=1), 8000)
    return tmp_path


FULL = {
    "image": "seven.png", "audio": "three.wav", "text": "add them", "label": 10,
    "labels": {"image": 7, "audio": 3}, "target": "ten", "group": "w1", "split": "test",
}  # fmt: skip


def test_reads_every_field(folder: Path) -> None:
    (sample,) = reading.read_samples(write(folder, FULL))
    assert sample == Sample(
        line=1, image=folder / "seven.png", audio=folder / "three.wav", text="add them", label=10,
        labels={"image": 7, "audio": 3}, target="ten", group="w1", split="test",
    )  # fmt: skip


def test_accepts_a_folder_blank_lines_nulls_a_byte_order_mark_and_no_final_newline(folder: Path) -> None:
    lines = '\ufeff{"text": "a", "image": null}\n\n  \n{"text": "b", "labels": {"image": null}}'
    (folder / "data.jsonl").write_text(lines, encoding="utf-8")
    samples = reading.read_samples(folder)
    assert [(s.line, s.text, s.image) for s in samples] == [(1, "a", None), (4, "b", None)]


BAD_LINES = [
    ("{not json", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("[1, 2]", "JSON list"),
    ('"text"', "JSON string"),
    ("3", "JSON number"),
    ("null", "JSON null"),
    ({"label": 3}, "no image, audio or text"),
    ({}, "no image, audio or text"),
    ({"text": None}, "no image, audio or text"),
    ({"txt": "a"}, "did you mean 'text'"),
    ({"text": "a", "lable": 3}, "did you mean 'label'"),
    ({"text": 3}, "text is a number"),
    ({"text": ""}, "text is an empty string"),
    ({"text": "a \ud800"}, "surrogate"),
    ({"image": ["seven.png"]}, "image is a list"),
    ({"text": "a", "label": "3"}, "label is '3'"),
    ({"text": "a", "label": True}, "label is True"),
    ({"text": "a", "label": 1.5}, "label is 1.5"),
    ({"text": "a", "label": -1}, "label is -1"),
    ({"text": "a", "labels": [1]}, "labels is a list"),
    ({"text": "a", "labels": {"image": "7"}}, "labels.image is '7'"),
    ({"text": "a", "target": 3}, "target is a number"),
    ({"text": "a", "group": 3}, "group is a number"),
    ({"text": "a", "split": "train-set"}, "split is 'train-set'"),
    ({"image": "eight.png"}, "'eight.png', which is not a file"),
    ({"image": "."}, "not a file"),
    ({"image": "nul\0.png"}, "not a file"),
    ({"image": "x" * 5000}, "not a file"),
    ({"audio": "four.wav"}, "'four.wav', which is not a file"),
    ({"image": "three.wav"}, "not a known image format"),
    ({"audio": "seven.png"}, "cannot be decoded"),
]


@pytest.mark.parametrize(("line", "found"), BAD_LINES)
def test_names_the_file_and_the_line(folder: Path, line: object, found: str) -> None:
    file = write(folder, {"text": "a"}, line)
    with pytest.raises(DataError, match="line 2") as caught:
        reading.read_samples(file)
    assert found in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert caught.value.exit_code == 2


def test_refuses_what_is_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        reading.read_samples(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"holds no data\.jsonl"):
        reading.read_samples(tmp_path)
    for content in (b"", b"\n \n"):
        (tmp_path / "data.jsonl").write_bytes(content)
        with pytest.raises(DataError, match="holds no lines"):
            reading.read_samples(tmp_path)


def test_refuses_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(DataError, match="line 2: is not UTF-8"):
        reading.read_samples(tmp_path)


def test_refuses_a_missing_field_that_the_caller_needs(folder: Path) -> None:
    file = write(folder, {"text": "a", "label": 0}, {"text": "b"})
    assert len(reading.read_samples(file, needs=frozenset({"text"}))) == 2
    with pytest.raises(DataError, match="line 2: no label"):
        reading.read_samples(file, needs=frozenset({"text", "label"}))


@pytest.mark.parametrize("name", ["seven.png", "seven.jpg"])
def test_refuses_a_truncated_image(folder: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / name)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"line 1: image .* cannot be decoded"):
        reading.read_samples(write(folder, {"image": name}))


def test_refuses_an_empty_image_file(folder: Path) -> None:
    (folder / "seven.png").write_bytes(b"")
    with pytest.raises(DataError, match="0 bytes"):
        reading.read_samples(write(folder, {"image": "seven.png"}))


@pytest.mark.parametrize("name", ["three.wav", "three.flac"])
def test_refuses_a_truncated_sound(folder: Path, name: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    soundfile.write(folder / name, noise, 16_000)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="line 1: audio"):
        reading.read_samples(write(folder, {"audio": name}))


def test_refuses_a_sound_of_no_samples_and_values_that_are_not_finite(folder: Path) -> None:
    soundfile.write(folder / "none.wav", np.zeros(0), 16_000)
    with pytest.raises(DataError, match="0 samples"):
        reading.read_samples(write(folder, {"audio": "none.wav"}))
    soundfile.write(folder / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    with pytest.raises(DataError, match="not finite"):
        reading.read_samples(write(folder, {"audio": "nan.wav"}))


def test_says_which_extra_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    reading._load_short_audio.cache_clear()
    with pytest.raises(DataError, match=r"trimodal\[audio\]"):
        reading.read_samples(write(folder, {"audio": "three.wav"}))


def test_a_path_may_leave_the_folder(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (sample,) = reading.read_samples(write(inner, {"image": "../seven.png"}))
    assert reading.load_sample(sample).image is not None


def test_load_gives_rgb_upright_and_mono(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (8, 6), 100).save(folder / "turned.png", exif=exif)
    (sample,) = reading.read_samples(write(folder, {"image": "turned.png", "audio": "three.wav"}))
    loaded = reading.load_sample(sample)
    assert loaded.image is not None and loaded.audio is not None
    assert (loaded.image.mode, loaded.image.size) == ("RGB", (6, 8))
    assert loaded.audio.dtype == np.float32
    assert (loaded.audio.shape, loaded.sampling_rate) == ((800,), 8000)
    loaded.audio[:] = 9
    again = reading.load_sample(sample).audio
    assert again is not None and abs(again).max() <= 0.5


def test_sixteen_bits_are_scaled_and_a_rewritten_file_is_read_anew(folder: Path) -> None:
    Image.fromarray(np.full((4, 4), 0x8000, dtype=np.uint16)).save(folder / "deep.png")
    (sample,) = reading.read_samples(write(folder, {"image": "deep.png"}))
    first = reading.load_sample(sample).image
    assert first is not None and first.getpixel((0, 0)) == (128, 128, 128)
    Image.new("RGB", (5, 5), (1, 2, 3)).save(folder / "deep.png")
    second = reading.load_sample(sample).image
    assert second is not None and second.getpixel((0, 0)) == (1, 2, 3)


# Choosing


def texts(*groups: str | None, split: str = "") -> list[Sample]:
    return [Sample(line=i + 1, text=f"t{i}", group=group, split=split) for i, group in enumerate(groups)]


def test_split_follows_the_lines() -> None:
    samples = texts("a", split="train") + texts("b", split="test")
    calibration, verification = reading.split_calibration_and_held_out(samples, seed=0)
    assert [s.group for s in calibration] == ["a"] and [s.group for s in verification] == ["b"]


def test_split_never_parts_a_group_and_is_seeded() -> None:
    samples = texts(*(f"g{i // 4}" for i in range(100)))
    calibration, verification = reading.split_calibration_and_held_out(samples, seed=1)
    assert len(verification) == 20 and len(calibration) == 80
    assert not {s.group for s in calibration} & {s.group for s in verification}
    assert [s.line for s in verification] == sorted(s.line for s in verification)
    assert reading.split_calibration_and_held_out(samples, seed=1)[1] == verification
    assert reading.split_calibration_and_held_out(samples, seed=2)[1] != verification


def test_split_keeps_equal_lines_together_and_holds_out_one_of_two() -> None:
    samples = [Sample(line=i, text="same" if i < 5 else "other") for i in range(9)]
    calibration, verification = reading.split_calibration_and_held_out(samples, seed=0)
    assert {s.text for s in calibration} == {"same"} and {s.text for s in verification} == {"other"}
    assert reading.split_calibration_and_held_out(samples[:5], seed=0) == (samples[:5], [])


def test_refuses_a_group_in_two_splits_and_half_given_splits(folder: Path) -> None:
    with pytest.raises(DataError, match="line 2: group 'g' is in split test, on line 1 in train"):
        lines = [{"text": "a", "group": "g", "split": split} for split in ("train", "test")]
        reading.read_samples(write(folder, *lines))
    with pytest.raises(DataError, match="line 1: no split, while line 2 has one"):
        reading.read_samples(write(folder, {"text": "a"}, {"text": "b", "split": "test"}))


def test_choose_is_seeded_and_in_file_order() -> None:
    samples = texts(*[None] * 50)
    chosen = reading.choose_samples(samples, 10, seed=3)
    assert [s.line for s in chosen] == sorted({s.line for s in chosen}) and len(chosen) == 10
    assert reading.choose_samples(samples, 10, seed=3) == chosen
    assert reading.choose_samples(samples, 10, seed=4) != chosen
    assert reading.choose_samples(samples, 99, seed=0) == samples


def test_require_says_how_many_there_are() -> None:
    reading.require_samples(texts(None, None), 2, "calibration samples")
    with pytest.raises(DataError, match="2 calibration samples, and 3 are needed"):
        reading.require_samples(texts(None, None), 3, "calibration samples")


def test_labels_follow_their_path() -> None:
    samples = [Sample(line=1, text="a", label=3, labels={"image": 7}), Sample(line=2, text="b")]
    assert reading.collect_labels(samples, "label") == [3, None]
    assert reading.collect_labels(samples, "labels.image") == [7, None]
    with pytest.raises(DataError):
        reading.collect_labels(samples, "lables.image")


def test_digest_depends_on_content_and_not_on_the_folder(folder: Path, tmp_path_factory: Any) -> None:
    other = tmp_path_factory.mktemp("other")
    for name in ("seven.png", "three.wav"):
        (other / name).write_bytes((folder / name).read_bytes())
    here, there = (reading.read_samples(write(place, FULL, {"text": "b", "split": "train"})) for place in (folder, other))
    assert reading.digest_samples(here) == reading.digest_samples(there)
    assert reading.digest_samples(here) != reading.digest_samples(here[:1])
    assert reading.digest_samples(here) != reading.digest_samples(here[::-1])
    Image.new("RGB", (8, 6)).save(other / "seven.png")
    assert reading.digest_samples(here) != reading.digest_samples(there)


# Batches


def encode(module: nn.Module, processors: Processors, samples: Sequence[LoadedSample]) -> dict[str, Tensor]:
    batch = {}
    if all(s.image is not None for s in samples):
        batch["pixels"] = torch.tensor([s.image.size[0] for s in samples if s.image is not None])
    if all(s.text is not None for s in samples):
        batch["letters"] = torch.tensor([len(s.text or "") for s in samples])
    assert all(s.audio is None for s in samples)
    return batch


def model(*modalities: str) -> Model:
    outputs: tuple[Output, ...] = ()
    family = Family("toy", (), lambda module: Layout((), ()), lambda module: outputs, lambda module: modalities, encode)
    return Model(nn.Linear(1, 1), Layout((), ()), family, name="toys/one")


def test_batches_hold_samples_of_the_same_modalities(folder: Path) -> None:
    lines = [
        {"text": "a"},
        {"text": "bb", "image": "seven.png"},
        {"text": "ccc"},
        {"text": "dddd", "audio": "three.wav"},
    ]
    samples = reading.read_samples(write(folder, *lines))
    found = reading.batch_samples(model("image", "text"), samples, 2)
    assert [{name: tensor.tolist() for name, tensor in batch.items()} for batch in found] == [
        {"letters": [1, 3]},
        {"letters": [4]},
        {"pixels": [8], "letters": [2]},
    ]
    with pytest.raises(DataError, match="batch size is 0"):
        reading.batch_samples(model("text"), samples, 0)


def test_batches_are_encoded_when_they_are_asked_for_and_kept_while_there_is_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = reading.read_samples(write(folder, *({"text": "a" * n} for n in range(1, 7))))
    asked: list[int] = []
    encoded = reading.encode_samples
    monkeypatch.setattr(reading, "encode_samples", lambda model, few: asked.append(few[0].line) or encoded(model, few))
    monkeypatch.setattr(reading, "_KEPT_BYTES", 20)  # one batch of two int64
    found = reading.batch_samples(model("text"), samples, 2)
    assert len(found) == 3 and not asked
    assert [found[i]["letters"].tolist() for i in (0, 2, -1, 0)] == [[1, 2], [5, 6], [5, 6], [1, 2]] and asked == [1, 5, 5]
    assert [batch["letters"].tolist() for batch in found[1:]] == [[3, 4], [5, 6]]


@pytest.mark.parametrize(("name", "bad", "refused"), [
    ("pixel_values", torch.nan, True), ("pixel_values", -torch.inf, True), ("mask", torch.nan, True), ("mask", -torch.inf, False),
])  # fmt: skip
def test_inputs_that_are_not_finite_are_refused_by_line(folder: Path, name: str, bad: float, refused: bool) -> None:
    samples = reading.read_samples(write(folder, {"text": "a"}, {"text": "b"}))
    values = torch.zeros(2, 3)
    values[1, 2] = bad
    odd = model("text")
    family = Family("toy", (), odd.family.describe, odd.family.outputs, odd.family.modalities, lambda *_: {name: values})
    odd.family = family
    if not refused:
        assert reading.encode_samples(odd, samples)[name].equal(values)
        return
    with pytest.raises(DataError, match=rf"line 2: {name} holds 1 numbers that are not finite"):
        reading.encode_samples(odd, samples)


def test_check_modalities_names_both_sides_and_the_line() -> None:
    both = [Sample(line=4, image=Path("a.png"), text="a"), Sample(line=5, text="b")]
    reading.check_modalities(model("image", "text"), both)
    reading.check_modalities(model("text"), both)
    reading.check_modalities(model("image", "text"), [])
    with pytest.raises(DataError, match=r"line 6 has only audio, but toys/one \(toy\) takes image and text"):
        reading.check_modalities(model("image", "text"), [*both, Sample(line=6, audio=Path("a.wav"))])
    with pytest.raises(DataError, match=r"no line has audio, .* takes audio and text; line 4 has image and text"):
        reading.check_modalities(model("audio", "text"), both)
    with pytest.raises(DataError, match=r"line 1 and all others have audio, but .* takes text"):
        reading.check_modalities(model("text"), [Sample(line=1, text="a", audio=Path("a.wav"))])


def test_a_target_counts_as_text() -> None:
    reading.check_modalities(model("audio", "text"), [Sample(line=1, audio=Path("a.wav"), target="hello")])
