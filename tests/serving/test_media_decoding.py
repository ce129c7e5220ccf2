"""What strangers' files become, and what is refused before it is decoded: the cases of images and sounds that servers fell over."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib

import numpy as np
import pytest
import soundfile
from media_files import make_png, make_wav
from PIL import Image

from trimodal.serving.limits import Limits
from trimodal.serving.media.decoders import Decoders
from trimodal.serving.media.decoding import MediaLimits, decode_media
from trimodal.serving.refusals import RefusedError

LIMITS = MediaLimits(image_pixels=1_000_000, audio_seconds=60, audio_channels=8)


def refusal(kind: str, data: bytes) -> tuple[int, str]:
    with pytest.raises(RefusedError) as refused:
        decode_media(kind, data, LIMITS)
    return int(refused.value.status), str(refused.value)


def save(image: Image.Image, form: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_pixels_and_waveform_are_those_that_were_sent() -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert np.array_equal(decode_media("image", save(Image.fromarray(pixels), "PNG"), LIMITS).array, pixels)
    found = decode_media("audio", make_wav(0.5, 8000, channels=2), LIMITS)
    assert found.rate == 8000 and found.array.shape == (4000,) and found.array.dtype == np.float32


def test_an_image_of_too_many_pixels_is_refused_by_its_header() -> None:
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    status, said = refusal("image", head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""))
    assert status == 400 and "pixels" in said
    assert refusal("image", make_png((1001, 1000)))[0] == 400


def test_a_file_that_is_cut_short_anywhere_is_refused() -> None:
    data = save(Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)), "PNG")
    for end in range(0, len(data) - 12, 97):
        assert refusal("image", data[:end])[0] in (400, 415)
    wave = make_wav()
    for end in (1, 10, 40, 100, len(wave) - 2):
        assert refusal("audio", wave[:end])[0] in (400, 415)


@pytest.mark.parametrize(
    ("kind", "data", "status"),
    [
        ("image", b"", 400), ("image", b"\0" * 100, 415), ("image", b"\x80\x04pickle", 415), ("audio", b"PK\x03\x04zip", 415),
        ("image", b"%PDF-1.7", 415), ("image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415), ("image", b"%!PS-Adobe", 415),
        ("audio", b"OggS" + b"\0" * 60, 415), ("audio", make_wav(form="AIFF"), 415), ("audio", make_wav(form="OGG"), 415),
        ("image", make_wav(), 415), ("audio", make_png(), 415), ("audio", make_wav(61), 400), ("audio", make_wav(0), 400),
        ("audio", make_wav(0.01, channels=9), 400),
    ],
    ids=lambda value: "data" if isinstance(value, bytes) else str(value),
)  # fmt: skip
def test_other_kinds_of_data_are_refused(kind: str, data: bytes, status: int) -> None:
    assert refusal(kind, data)[0] == status


def test_what_a_decoder_says_is_not_told() -> None:
    for kind, data in (("image", b"\x89PNG junk"), ("image", b"nonsense"), ("audio", b"RIFF junk")):
        said = refusal(kind, data)[1]
        assert "0x" not in said and "object" not in said and "BytesIO" not in said


def test_a_flac_that_unfolds_is_refused_by_its_length() -> None:
    sink = io.BytesIO()
    soundfile.write(sink, np.zeros(600 * 16_000, np.int16), 16_000, format="FLAC")
    assert len(sink.getvalue()) < 200_000
    assert "long" in refusal("audio", sink.getvalue())[1]


def test_sounds_that_are_no_sound_are_refused() -> None:
    sink = io.BytesIO()
    soundfile.write(sink, np.array([0.0, np.nan, 1.0] * 100), 16_000, format="WAV", subtype="FLOAT")
    assert refusal("audio", sink.getvalue())[0] == 400
    for rate in (2**31 - 1, 0):
        wrong = bytearray(make_wav())
        wrong[24:28] = struct.pack("<I", rate)
        assert refusal("audio", bytes(wrong))[0] == 400


def test_samples_that_a_head_promises_are_there() -> None:
    """libsndfile gives what there is, and says nothing."""
    wave = bytearray(make_wav())
    place = wave.index(b"data") + 4
    samples = len(decode_media("audio", bytes(wave), LIMITS).array)
    wave[place : place + 4] = struct.pack("<I", 2 * 10**9)
    status, said = refusal("audio", bytes(wave))
    assert status == 400 and "cut short" in said
    wave[place : place + 4] = wave[4:8] = b"\xff" * 4  # as ffmpeg writes into a pipe
    assert len(decode_media("audio", bytes(wave), LIMITS).array) == samples


def test_modes_of_images_have_one_meaning() -> None:
    for mode in ("L", "LA", "RGBA", "P", "1", "CMYK"):
        form = "TIFF" if mode == "CMYK" else "PNG"
        assert decode_media("image", save(Image.new(mode, (6, 4)), form), LIMITS).array.shape == (4, 6, 3)
    deep = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    assert decode_media("image", save(deep, "PNG"), LIMITS).array[0, 0, 0] == 40_000 >> 8
    for value, seen in ((0.5, 128), (200.0, 200), (300.0, 255)):
        assert decode_media("image", save(Image.new("F", (4, 4), value), "TIFF"), LIMITS).array[0, 0].tolist() == [seen] * 3
    turned = Image.new("RGB", (8, 4))
    exif = turned.getexif()
    exif[274] = 6
    assert decode_media("image", save(turned, "JPEG", exif=exif), LIMITS).array.shape == (8, 4, 3)
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    moving = save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_media("image", moving, LIMITS).array[0, 0].tolist() == [255, 0, 0]


def test_packed_text_in_a_png_is_not_unfolded() -> None:
    image = make_png((5, 3))
    texts = chunk(b"tEXt", b"Title\0a") + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"0" * 1_000_000))
    found = decode_media("image", image[:33] + texts + image[33:], LIMITS).array
    assert np.array_equal(found, decode_media("image", image, LIMITS).array)
    status, said = refusal("image", image[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"0" * 100_000_000)) + image[33:])
    assert status == 400 and "packed text" in said


def test_a_decoder_that_needs_too_much_dies_alone() -> None:
    bomb = make_png((5, 3))
    bomb = bomb[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(b"0" * 300_000_000)) + bomb[33:]

    async def decode() -> None:
        decoders = Decoders(Limits(decode_bytes=512 * 2**20, image_pixels=200_000_000), 1)
        good = await decoders.decode("image", make_png((9, 7)))
        for bad in (bomb, make_png((3000, 3000)), b"junk"):
            try:
                await decoders.decode("image", bad)
            except RefusedError as refused:
                assert int(refused.status) in (400, 415)
        again = await decoders.decode("image", make_png((9, 7)))
        assert good.array.shape == (7, 9, 3) and np.array_equal(good.array, again.array)
        await decoders.stop()

    asyncio.run(decode())


def test_a_decoder_that_takes_too_long_is_killed() -> None:
    async def decode() -> None:
        decoders = Decoders(Limits(decode_seconds=0.001), 1)
        await decoders.warm_up()
        with pytest.raises(RefusedError, match="takes longer"):
            await decoders.decode("image", make_png((2000, 2000)))
        decoders._limits = Limits()
        assert (await decoders.decode("image", make_png((9, 7)))).array.shape == (7, 9, 3)
        await decoders.stop()

    asyncio.run(decode())
