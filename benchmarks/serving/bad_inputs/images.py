"""Rows 38 to 50: images."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.serving.bad_inputs.cases import Case, Found, Place, Row, judge, post_file, post_json
from benchmarks.serving.bad_inputs.files import add_chunk, as_uri, make_png, make_png_head, save
from benchmarks.serving.bad_inputs.sockets import Reply, as_json, talk

PATH = "/embed?model=clip"
_NEAR = 1e-3


def list_rows(quick: bool) -> list[Row]:
    """The rows."""
    return [*_list_bombs(quick), *_list_forms(), *_list_strange()]


def _case(label: str, data: bytes, *allowed: int, **more: Any) -> Case:
    return Case(label, post_file(PATH, data, "image/png"), allowed or (400,), **more)


def read_vector(reply: Reply) -> Any:
    """The vector in an answer, float64 (width,)."""
    return np.array(as_json(reply)["answers"][0]["embedding"])


def _compare(data: bytes, other: bytes, same: bool = True) -> Callable[[Place], Found]:
    """Whether two files get the same vector, or, where they show other things, another one."""

    def attempt(place: Place) -> Found:
        first, second = (talk(place.port, post_file(PATH, one, "image/png")) for one in (data, other))
        if first.status != 200 or second.status != 200:
            return Found(str(first.status), f"{first.status}, {second.status}: {first.body[:150]!r}")
        apart = float(np.abs(read_vector(first) - read_vector(second)).max())
        return Found("200", "" if (apart < _NEAR) == same else f"the vectors are {apart:.4f} apart")

    return attempt


def _list_bombs(quick: bool) -> list[Row]:
    png = make_png()
    packed = {size: zlib.compress(b"0" * size) for size in (200_000_000,)}
    many = [as_uri(make_png_head(10_000, 10_000), "image/png")] * 20
    legal = [as_uri(save(Image.new("L", (7_000, 7_000)), "PNG"), "image/png")] * (2 if quick else 6)
    step = 997 if quick else 61
    jpeg = save(Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)), "JPEG")
    return [
        Row(38, "a pixel bomb: 60,000 × 60,000 in 100 bytes", "400 before it is decoded", [
            _case(f"{width:,} × {height:,}", make_png_head(width, height), declared=True)
            for width, height in ((60_000, 60_000), (13_000, 13_000), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (7_072, 7_072))
        ]),
        Row(39, "many images of 100 million pixels in one request", "413 by their sum", [
            Case("20 × 100 million pixels", post_json("/v1/embeddings", {"model": "clip", "modality": "image", "input": many}), (400, 413)),
            Case(f"{len(legal)} × 49 million", post_json("/v1/embeddings", {"model": "clip", "modality": "image", "input": legal}),
            (400, 413),
                 extra=True),
        ], "one image may have 50 million, a request 200"),
        Row(40, "a bomb in a text chunk (zTXt of 200 MB)", "400", [
            _case("zTXt", add_chunk(png, b"zTXt", b"a\0\0" + packed[200_000_000])),
            _case("iTXt", add_chunk(png, b"iTXt", b"a\0\1\0\0\0" + packed[200_000_000])),
            _case("iCCP", add_chunk(png, b"iCCP", b"a\0\0" + packed[200_000_000]), 400, 200),
        ], "a profile (iCCP) is not read, so that image is answered"),
        Row(41, "a JPEG or PNG cut anywhere", "400", [
            Case(f"PNG at every {step} bytes", attempt=_cut(png[: len(png) - 12], step)),
            Case(f"JPEG at every {step // 10 + 1} bytes", attempt=_cut(jpeg[:-2], step // 10 + 1)),
            _case("PNG at half", png[: len(png) // 2]), _case("JPEG at half", jpeg[: len(jpeg) // 2]),
        ]),
        Row(42, "0 × 0, 1 × 1, 1 × 10,000", "400 or an answer", [
            _case("0 × 0", make_png_head(0, 0)), _case("0 × 5", make_png_head(0, 5)),
            _case("1 × 1", make_png(size=(1, 1)), 200, 400), _case("1 × 10,000", make_png(size=(1, 10_000)), 200, 400),
            _case("10,000 × 1", make_png(size=(10_000, 1)), 200, 400),
        ]),
    ]  # fmt: skip


def _cut(data: bytes, step: int) -> Callable[[Place], Found]:
    def attempt(place: Place) -> Found:
        said = set[str]()
        for end in range(1, len(data), step):
            found = judge(talk(place.port, post_file(PATH, data[:end], "image/png")), (400, 415))
            said.add(found.said)
            if found.fault:
                return Found(found.said, f"cut at {end} of {len(data)}: {found.fault}")
        return Found("/".join(sorted(said)))

    return attempt


def _list_forms() -> list[Row]:
    rng = np.random.default_rng(1)
    gray = rng.integers(0, 256, (48, 48), dtype=np.uint8)
    grey_png, colour = save(Image.fromarray(gray), "PNG"), Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    deep = save(Image.fromarray((gray.astype(np.uint16) << 8) + 7), "PNG")
    opaque = colour.convert("RGBA")
    turned = colour.transpose(Image.Transpose.ROTATE_270)
    exif = Image.Exif()
    exif[274] = 6
    plain = save(colour, "PNG")
    palette = colour.quantize(32)
    frames = [palette, palette.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    tiff_pages = save(colour, "TIFF", save_all=True, append_images=[turned])
    apng = save(colour, "PNG", save_all=True, append_images=[turned.resize(colour.size)])
    floats = save(Image.fromarray((gray / 255).astype(np.float32)), "TIFF")
    bits = Image.fromarray(((gray > 128) * 255).astype(np.uint8))
    return [
        Row(43, "16 bits of grey", "scaled, not clipped", [Case("the vector of 8 bits", attempt=_compare(deep, grey_png))]),
        Row(44, "CMYK, LA, RGBA, P with transparency, 1 bit, float TIFF", "a defined conversion", [
            Case("RGBA is RGB", attempt=_compare(save(opaque, "PNG"), plain)),
            Case("LA is L", attempt=_compare(save(Image.fromarray(gray).convert("LA"), "PNG"), grey_png)),
            Case("P is its colours", attempt=_compare(save(palette, "PNG"), save(palette.convert("RGB"), "PNG"))),
            Case("P with transparency", attempt=_compare(save(palette, "PNG", transparency=3), save(palette.convert("RGB"), "PNG"))),
            Case("1 bit is 0 and 255", attempt=_compare(save(bits.convert("1"), "PNG"), save(bits, "PNG"))),
            Case("float is a share of 255", attempt=_compare(floats, grey_png)),
            Case("CMYK", attempt=_compare(save(colour.convert("CMYK"), "TIFF"), save(colour.convert("CMYK").convert("RGB"), "PNG"))),
        ], "alpha is dropped"),
        Row(45, "an orientation in Exif", "applied or documented", [
            Case("applied", attempt=_compare(save(colour, "PNG", exif=exif), save(turned, "PNG"))),
        ], "applied"),
        Row(46, "moving GIF, WebP, APNG; TIFF of several pages", "the first frame or 400", [
            Case("GIF", attempt=_compare(save(frames[0], "GIF", save_all=True, append_images=frames[1:]), save(palette.convert("RGB"),
            "PNG"))),
            Case("WebP", attempt=_compare(save(colour, "WEBP", lossless=True, save_all=True, append_images=[turned.resize(colour.size)]),
            plain)),
            Case("APNG", attempt=_compare(apng, plain)), Case("TIFF", attempt=_compare(tiff_pages, plain)),
        ], "the first frame"),
    ]  # fmt: skip


def _list_strange() -> list[Row]:
    png = make_png()
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (40, 40), dtype=np.uint8)
    one, other = Image.fromarray(pixels, "P"), Image.fromarray(pixels, "P")
    one.putpalette(list(range(256)) * 3)
    other.putpalette(list(range(255, -1, -1)) * 3)
    wide, high = Image.frombytes("L", (50, 32), pixels.tobytes()), Image.frombytes("L", (32, 50), pixels.tobytes())
    strangers = {
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PDF": b"%PDF-1.7\n" + b"a" * 100, "PSD": b"8BPS\0\1" + b"\0" * 100,
        "FITS": b"SIMPLE  =                    T" + b" " * 2850, "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "ICNS": b"icns" + struct.pack(">I", 100) + b"\0" * 92, "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 50,
        "HTML": b"<html></html>",
        "ICO": b"\0\0\1\0\1\0" + b"\0" * 60, "PCX": b"\n\5\1\x08" + b"\0" * 124, "XBM": b"#define a_width 8\n#define a_height 8\n",
        "zip": b"PK\3\4" + b"\0" * 60,
    }  # fmt: skip
    junk = {
        "random bytes": bytes(rng.integers(0, 256, 5000, dtype=np.uint8)), "one byte": b"a", "zeros": bytes(1000),
        "a PNG's first 8": png[:8], "GIF": b"GIF89a" + b"\xff" * 50, "BMP": b"BM" + b"\xff" * 60, "TIFF": b"II*\0" + b"\xff" * 60,
        "WebP": b"RIFF\xff\0\0\0WEBPVP8 " + b"\xff" * 40, "JPEG": b"\xff\xd8\xff\xe0" + b"\0" * 60,
        "a PNG with a broken sum": png[:40] + b"\0" + png[41:],
    }  # fmt: skip
    return [
        Row(47, "EPS, PDF, FITS, PSD, SVG, ICNS …", "415 by a list of what is taken",
            [_case(name, data, 415) for name, data in strangers.items()]),
        Row(48, "bytes that are no image", "a generic text", [_case(name, data, 400, 415) for name, data in junk.items()]),
        Row(49, "the same bytes in another mode, palette or size", "another answer", [
            Case("another palette", attempt=_compare(save(one, "PNG"), save(other, "PNG"), same=False)),
            Case("another shape", attempt=_compare(save(wide, "PNG"), save(high, "PNG"), same=False)),
            Case("another mode", attempt=_compare(save(one, "PNG"), save(Image.fromarray(255 - pixels), "PNG"), same=False)),
        ], "answers are never kept"),
        Row(50, "a colour profile or metadata of 50 MB", "400 or ignored", [
            Case("tEXt", attempt=_compare(add_chunk(png, b"tEXt", b"a\0" + b"b" * 50_000_000), png)),
            _case("iCCP", add_chunk(png, b"iCCP", b"a\0\0" + bytes(50_000_000)), 200, 400, extra=True),
            _case("eXIf", add_chunk(png, b"eXIf", b"MM\0*" + bytes(50_000_000)), 200, 400, extra=True),
        ], "text and profile are not read"),
    ]  # fmt: skip

