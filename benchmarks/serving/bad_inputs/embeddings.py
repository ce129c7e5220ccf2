"""Rows 33 to 37: OpenAI's dialect."""

from __future__ import annotations

import base64
import io
import pickle
from typing import Any

import numpy as np

from benchmarks.serving.bad_inputs.cases import Case, Row, post_file, post_json
from benchmarks.serving.bad_inputs.files import as_base64, as_uri, make_png, make_wav

PATH = "/v1/embeddings"


def list_rows() -> list[Row]:
    """The rows."""
    return [*_list_words(), *_list_files()]


def _case(label: str, *allowed: int, **sent: Any) -> Case:
    return Case(label, post_json(PATH, {"model": "clip", "input": "a cat", **sent}), allowed or (400,))


def _list_words() -> list[Row]:
    return [
        Row(33, "an empty text or list, 10^6 items, arrays of tokens", "400", [
            _case("empty text", input=""), _case("blank text", input="  \n"), _case("empty list", input=[]),
            _case("tokens", input=[1, 2, 3]),
            _case("arrays of tokens", input=[[1, 2], [3]]), _case("null", input=None), _case("a number", input=7),
            _case("one of two is empty", input=["a cat", ""]),
            Case("10^6 items", post_json(PATH, {"model": "clip", "input": ["a"] * 10**6}), (400, 413), extra=True),
            _case("257 items", 400, 413, input=["a"] * 257),
        ], "413 for more items than are taken"),
        Row(34, "an unknown model or modality; dimensions", "404 / 400", [
            _case("model", 404, model="nobody"), _case("model ..", 404, model="../clip"), _case("modality", modality="video"),
            _case("modality a list", modality=["text"]), _case("dimensions", dimensions=7), _case("dimensions 0", dimensions=0),
            _case("dimensions 2^63", dimensions=2**63), _case("encoding", encoding_format="hex"), _case("unknown field", what=1),
            _case("a model that does something else", model="whisper"), _case("tensors only", model="tensors"),
        ]),
    ]  # fmt: skip


def _list_files() -> list[Row]:
    png, wav = make_png(), make_wav()
    plain = as_base64(png)

    def image(label: str, uri: Any, *allowed: int) -> Case:
        return _case(label, *allowed, input=[uri], modality="image")

    def bare(label: str, text: str) -> Case:
        return Case(label, post_json("/embed", {"model": "clip", "image": text}))

    sparse = b"PK\x03\x04" + b"\0" * 200
    saved = io.BytesIO()
    np.save(saved, np.array([{}], dtype=object), allow_pickle=True)
    tensors = {"pickle": pickle.dumps({"a": 1}), "torch.save": sparse, "npy of objects": saved.getvalue(),
        "old pickle": pickle.dumps([1], 2)}
    return [
        Row(35, "base64 with junk, bad padding, spaces, another alphabet", "400", [
            bare("junk", "!" + plain), bare("junk inside", plain[:40] + "*" + plain[40:]), bare("no padding", plain.rstrip("=") + "A"),
            bare("too much padding", plain.rstrip("=") + "==="), bare("a line break", plain[:76] + "\n" + plain[76:]),
            bare("spaces", " " + plain),
            bare("URL-safe", base64.urlsafe_b64encode(b"\xff\xfe\xfb" * 9).decode()), bare("empty", ""),
            image("junk in a URI", "data:image/png;base64,@@@@"), image("padding in a URI", "data:image/png;base64,abc"),
        ]),
        Row(36, "data: URI with a wrong or no type, another content, a huge name", "400 / 415", [
            image("no type", "data:;base64," + plain), image("no base64", "data:image/png," + plain),
            image("text", as_uri(png, "text/plain"), 415),
            image("a sound", as_uri(wav, "audio/wav"), 415), image("says png, is wav", as_uri(wav, "image/png"), 415),
            image("a charset of 1 MB", f"data:image/png;charset={'a' * (1 << 20)};base64,{plain}"),
            image("a name of 10 kB", f"data:image/png;name={'a' * 10_000};base64,{plain}"),
            image("a hundred fields", f"data:image/png{';a=b' * 100};base64,{plain}"),
            image("a type of 1 MB", f"data:image/{'a' * (1 << 20)};base64,a"),
            _case("says wav, is png", 400, 415, input=[as_uri(png, "audio/wav")], modality="audio", model="whisper"),
        ]),
        Row(37, "a serialised tensor as input", "415, never loaded", [
            *(Case(f"{label} as {kind}", post_file("/embed?model=clip", data, kind), (415,))
              for label, data in tensors.items() for kind in ("application/octet-stream", "application/x-pickle", "image/png")),
            *(image(f"{label} in a URI", as_uri(data, "image/png"), 415) for label, data in tensors.items()),
        ]),
    ]  # fmt: skip
