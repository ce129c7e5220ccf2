"""JSONL files: what is accepted, and every kind of bad line with the file and line it names."""

from __future__ import annotations

from pathlib import Path

import pytest
from datafiles import FULL, write

from trimodal.core import Sample
from trimodal.data import check_media, read_samples
from trimodal.errors import DataError


def test_reads_every_field(folder: Path) -> None:
    (sample,) = read_samples(write(folder, FULL))
    assert sample == Sample(
        line=1, image=folder / "seven.png", audio=folder / "three.wav", text="add them", label=10,
        labels={"image": 7, "audio": 3}, target="ten", group="w1", split="test",
    )  # fmt: skip


def test_accepts_a_folder_blank_lines_nulls_a_byte_order_mark_and_no_final_newline(folder: Path) -> None:
    lines = '\ufeff{"text": "a", "image": null}\n\n  \n{"text": "b", "labels": {"image": null}}'
    (folder / "data.jsonl").write_text(lines, encoding="utf-8")
    samples = read_samples(folder)
    assert [(s.line, s.text, s.image) for s in samples] == [(1, "a", None), (4, "b", None)]


BAD_LINES = [
    ("{not json", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("[1, 2]", "JSON list"),
    ('"text"', "JSON string"),
    ("3", "JSON number"),
    ("null", "JSON null"),
    ({"label": 3}, "no image, audio, text or signal"),
    ({}, "no image, audio, text or signal"),
    ({"text": None}, "no image, audio, text or signal"),
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
        check_media(read_samples(file))
    assert found in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert caught.value.exit_code == 2


def test_refuses_what_is_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        read_samples(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"holds no data\.jsonl"):
        read_samples(tmp_path)
    for content in (b"", b"\n \n"):
        (tmp_path / "data.jsonl").write_bytes(content)
        with pytest.raises(DataError, match="holds no lines"):
            read_samples(tmp_path)


def test_refuses_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(DataError, match="line 2: is not UTF-8"):
        read_samples(tmp_path)
