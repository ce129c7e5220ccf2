"""Images and sounds: decoded as they are meant, and refused by line where they are broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from datafiles import write
from PIL import Image

from trimodal.data import check_media, load_sample, read_samples
from trimodal.errors import DataError


@pytest.mark.parametrize("name", ["seven.png", "seven.jpg"])
def test_refuses_a_truncated_image(folder: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / name)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"line 1: image .* cannot be decoded"):
        check_media(read_samples(write(folder, {"image": name})))


def test_refuses_an_empty_image_file(folder: Path) -> None:
    (folder / "seven.png").write_bytes(b"")
    with pytest.raises(DataError, match="0 bytes"):
        check_media(read_samples(write(folder, {"image": "seven.png"})))


@pytest.mark.parametrize("name", ["three.wav", "three.flac"])
def test_refuses_a_truncated_sound(folder: Path, name: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    soundfile.write(folder / name, noise, 16_000)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="line 1: audio"):
        check_media(read_samples(write(folder, {"audio": name})))


def test_refuses_a_sound_of_no_samples_and_values_that_are_not_finite(folder: Path) -> None:
    soundfile.write(folder / "none.wav", np.zeros(0), 16_000)
    with pytest.raises(DataError, match="0 samples"):
        check_media(read_samples(write(folder, {"audio": "none.wav"})))
    soundfile.write(folder / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    with pytest.raises(DataError, match="not finite"):
        check_media(read_samples(write(folder, {"audio": "nan.wav"})))


@pytest.mark.parametrize(("rate", "fits"), [(999, False), (1_000, True), (768_000, True), (768_001, False)])
def test_a_file_needs_a_rate_of_sound(folder: Path, rate: int, fits: bool) -> None:
    soundfile.write(folder / "odd.wav", np.zeros(80), rate)
    (sample,) = read_samples(write(folder, {"audio": "odd.wav"}))
    if fits:
        assert load_sample(sample).sampling_rate == rate
        return
    with pytest.raises(DataError, match=rf"line 1: audio .*odd\.wav is at {rate} Hz; expected a rate that is a whole number from 1,000"):
        load_sample(sample)


def test_a_file_may_overshoot_a_little_and_not_by_a_wrong_scale(folder: Path) -> None:
    for name, peak in (("loud", 1.5), ("wrong", 20_000.0)):
        soundfile.write(folder / f"{name}.wav", np.array([0.0, -peak]), 16_000, subtype="FLOAT")
    check_media(read_samples(write(folder, {"audio": "loud.wav"})))
    with pytest.raises(DataError, match=r"line 1: audio .*wrong\.wav holds values as large as 20,000; expected .* divide it by"):
        check_media(read_samples(write(folder, {"audio": "wrong.wav"})))


@pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 5), (5, 0)])
def test_refuses_an_image_file_without_pixels(folder: Path, width: int, height: int) -> None:
    (folder / "none.ppm").write_bytes(f"P6 {width} {height} 255\n".encode())
    with pytest.raises(DataError, match=r"line 1: image .*none\.ppm cannot be decoded"):
        check_media(read_samples(write(folder, {"image": "none.ppm"})))


def test_says_which_extra_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(DataError, match=r"trimodal\[audio\]"):
        check_media(read_samples(write(folder, {"audio": "three.wav"})))


def test_a_path_may_leave_the_folder(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (sample,) = read_samples(write(inner, {"image": "../seven.png"}))
    assert load_sample(sample).image is not None


def test_load_gives_rgb_upright_and_mono(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (8, 6), 100).save(folder / "turned.png", exif=exif)
    (sample,) = read_samples(write(folder, {"image": "turned.png", "audio": "three.wav"}))
    loaded = load_sample(sample)
    assert loaded.image is not None and loaded.audio is not None
    assert (loaded.image.mode, loaded.image.size) == ("RGB", (6, 8))
    assert loaded.audio.dtype == np.float32
    assert (loaded.audio.shape, loaded.sampling_rate) == ((800,), 8000)
    loaded.audio[:] = 9
    again = load_sample(sample).audio
    assert again is not None and abs(again).max() <= 0.5


def test_sixteen_bits_are_scaled_and_a_rewritten_file_is_read_anew(folder: Path) -> None:
    Image.fromarray(np.full((4, 4), 0x8000, dtype=np.uint16)).save(folder / "deep.png")
    (sample,) = read_samples(write(folder, {"image": "deep.png"}))
    first = load_sample(sample).image
    assert first is not None and first.getpixel((0, 0)) == (128, 128, 128)
    Image.new("RGB", (5, 5), (1, 2, 3)).save(folder / "deep.png")
    second = load_sample(sample).image
    assert second is not None and second.getpixel((0, 0)) == (1, 2, 3)
