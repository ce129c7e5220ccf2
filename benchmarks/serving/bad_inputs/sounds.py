"""Rows 51 to 59: sounds."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.serving.bad_inputs.cases import Case, Found, Place, Row, judge, post_file
from benchmarks.serving.bad_inputs.files import make_riff, make_wav, make_wave, write_sound
from benchmarks.serving.bad_inputs.sockets import Reply, as_json, talk

PATH = "/transcribe?model=whisper&max_tokens=2"


def list_rows(quick: bool) -> list[Row]:
    """The rows."""
    return [*_list_lengths(quick), *_list_samples()]


def _case(label: str, data: bytes, *allowed: int, **more: Any) -> Case:
    return Case(label, post_file(PATH, data, "audio/wav"), allowed or (400,), **more)


def _hears(reply: Reply) -> str:
    told = as_json(reply) if reply.status == 200 else None
    return "" if told is None or isinstance(told["answers"][0]["text"], str) else "no text"


def _list_lengths(quick: bool) -> list[Row]:
    second = (make_wave(1.0) * 32767).astype("<i2").tobytes()
    flac = _make_flac(600 if quick else 3600)
    wav = make_wav(1.0)
    return [
        Row(51, "0 samples", "400", [
            _case("WAV", make_wav(0.0)), _case("FLAC", make_wav(0.0, form="FLAC")), _case("nothing", b""),
            _case("a head alone", make_riff(b"")),
        ]),
        Row(52, "the head claims 10^9 samples or 4 GB, there is 1 s", "400 (or exact)", [
            _case("10^9 samples", make_riff(second, claimed=2 * 10**9, riff=2 * 10**9 + 36), declared=True),
            _case("4 GB", make_riff(second, claimed=0xFFFFFFF0, riff=0xFFFFFFFE), declared=True),
            _case("the outer one alone", make_riff(second, riff=2 * 10**9), declared=True),
            _case("the inner one alone", make_riff(second, claimed=2 * 10**9), 400, declared=True),
        ]),
        Row(53, "cut short", "400 or documented", [Case("WAV at many places", attempt=_cut(wav, 1601)), Case("FLAC",
            attempt=_cut(make_wav(1.0, form="FLAC"), 499))]),
        Row(54, "a bomb: a FLAC that unfolds", "400 by its frames, before it is decoded", [
            _case(f"{len(flac):,} bytes", flac, declared=True),
            _case("601 s of WAV", make_wav(601, 8000, subtype="PCM_U8"), declared=True, extra=True),
        ], "601 s and more"),
        Row(56, "a rate of 0, 1, 2^31 − 1, or not the model's", "400 or resampled with a cap", [
            *(_case(f"{rate} Hz", make_riff(second, rate=rate)) for rate in (0, 1, 999, 768_001, 2**31 - 1)),
            _case("8 kHz", make_wav(0.5, 8000), 200, check=_hears), _case("44.1 kHz", make_wav(0.5, 44_100), 200, check=_hears),
        ]),
    ]  # fmt: skip


def _make_flac(seconds: int) -> bytes:
    return write_sound(np.zeros((seconds * 16_000 + 16_000, 1), np.int16), 16_000, "FLAC")


def _cut(data: bytes, step: int) -> Callable[[Place], Found]:
    def attempt(place: Place) -> Found:
        said = set[str]()
        for end in range(1, len(data) - 1, step):
            found = judge(talk(place.port, post_file(PATH, data[:end], "audio/wav")), (400, 415))
            said.add(found.said)
            if found.fault:
                return Found(found.said, f"cut at {end} of {len(data)}: {found.fault}")
        return Found("/".join(sorted(said)))

    return attempt


def _floats(*values: float) -> bytes:
    wave = np.zeros((8000, 1), np.float32)
    wave[:, 0] = 0.1
    wave[: len(values), 0] = values
    return make_riff(wave.astype("<f4").tobytes(), bits=32, code=3)


def _list_samples() -> list[Row]:
    second = (make_wave(0.5) * 32767).astype("<i2").tobytes()
    adpcm = write_sound(make_wave(0.5), 16_000, "WAV", "IMA_ADPCM")
    return [
        Row(55, "NaN, infinite, denormal samples, beyond 1", "400", [
            _case("NaN", _floats(float("nan"))), _case("infinite", _floats(float("inf"))), _case("1e30", _floats(1e30)),
            _case("32,767", _floats(32767.0)), _case("denormal", _floats(*[1e-40] * 8000), 200, 400, check=_hears),
            _case("1.5", _floats(1.5, -1.5), 200, 400, check=_hears),
        ], "up to 16 is taken, as gain and resampling overshoot 1; denormal is silence"),
        Row(57, "0 or 1,000 channels, 8 or 24 bits, ADPCM, an unknown codec", "400 / averaged", [
            _case("0 channels", make_riff(second, channels=0), 400, 415), _case("1,000 channels", make_riff(second * 2, channels=1000)),
            _case("9 channels", make_wav(0.1, channels=9)), _case("an unknown codec", make_riff(second, code=0x4242), 400, 415),
            _case("8 bits", make_wav(0.3, subtype="PCM_U8"), 200, check=_hears),
            _case("24 bits", make_wav(0.3, subtype="PCM_24"), 200, check=_hears),
            _case("8 channels", make_wav(0.3, channels=8), 200, check=_hears), _case("ADPCM", adpcm, 200, 400, 415, check=_hears),
        ]),
        Row(58, "IRCAM, OGG, AIFF, MP3, AU, CAF", "415 by a list of what is taken", [
            *(_case(form, make_wav(0.3, form=form, subtype=None), 415) for form in ("IRCAM", "OGG", "AIFF", "MP3", "AU", "CAF", "W64",
            "VOC")),
            _case("junk", b"RIFFjunk" + bytes(50), 400, 415), _case("a video", b"\0\0\0\x18ftypmp42" + bytes(100), 415),
        ]),
        Row(59, "silence; one sample", "400 or defined", [
            _case("silence", write_sound(np.zeros((8000, 1)), 16_000), 200, check=_hears),
            _case("one sample", make_riff(struct.pack("<h", 1000)), 200, 400, check=_hears),
            _case("100 samples", make_riff(second[:200]), 200, 400, check=_hears),
        ], "padded to the window, as silence is"),
    ]  # fmt: skip

