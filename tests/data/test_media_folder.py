"""Folders of images or sounds: folders are labels, or splits and labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trimodal.data import digest_samples, open_data, read_samples
from trimodal.errors import DataError


def copy(folder: Path, *names: str, source: str = "seven.png") -> Path:
    for name in names:
        (folder / "media" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / source, folder / "media" / name)
    return folder / "media"


def test_sub_folders_are_labels(folder: Path) -> None:
    media = copy(folder, "dog/2.PNG", "cat/10.png", "cat/1.png", ".git/0.png", "cat/.hidden.png")
    (media / "cat" / "notes.txt").write_text("not a picture")
    samples = read_samples(media)
    assert [(s.image, s.label_name, s.label, s.split) for s in samples] == [
        (media / "cat/1.png", "cat", 0, ""), (media / "cat/10.png", "cat", 0, ""), (media / "dog/2.PNG", "dog", 1, ""),
    ]  # fmt: skip
    assert samples[2].where == f"{media}, file 3"
    assert [s.label for s in read_samples(open_data(media, map={"label": None}))] == [None] * 3


def test_numbers_are_labels_themselves_and_sounds_do_too(folder: Path) -> None:
    media = copy(folder, "7/a.wav", "3/b.wav", source="three.wav")
    assert [(s.audio, s.label) for s in read_samples(media)] == [(media / "3/b.wav", 3), (media / "7/a.wav", 7)]


@pytest.mark.parametrize(("names", "expected"), [
    (("train/cat/1.png", "test/cat/2.png"), [("cat", "test"), ("cat", "train")]),
    (("train/cat/1.png", "validation/dog/2.png"), [("cat", "train"), ("dog", "test")]),
    (("train/cat/1.png", "train/dog/2.png"), [("cat", ""), ("dog", "")]),
    (("train/1.png", "bus/2.png"), [("bus", ""), ("train", "")]), (("1.png", "2.png"), [(None, ""), (None, "")]),
])  # fmt: skip
def test_outermost_folders_may_be_splits(folder: Path, names: tuple[str, ...], expected: list[tuple[str, str]]) -> None:
    assert [(s.label_name, s.split) for s in read_samples(copy(folder, *names))] == expected


def test_it_is_the_data_of_a_file_that_names_the_same(folder: Path) -> None:
    media = copy(folder, "0/a.png", "1/b.png")
    (folder / "rows.csv").write_text("image,label\nmedia/0/a.png,0\nmedia/1/b.png,1\n")
    assert digest_samples(read_samples(media)) == digest_samples(read_samples(folder / "rows.csv"))


def test_what_is_unclear_is_told(folder: Path) -> None:
    media = copy(folder, "a/b/1.png")
    with pytest.raises(DataError, match=r"lies 2 folders deep, and nothing says which of a, b is its label"):
        read_samples(media)
    (media / "metadata.csv").write_text("file_name,text\na/b/1.png,a red bus\n")
    with pytest.raises(DataError, match=r"metadata\.csv beside them; give .*metadata\.csv if that says"):
        read_samples(media)
    (sample,) = read_samples(open_data(media / "metadata.csv", map={"image": "file_name"}))
    assert (sample.image, sample.text) == (media / "a/b/1.png", "a red bus")
    (media / "metadata.csv").unlink()
    copy(folder, "a/2.wav", source="three.wav")
    with pytest.raises(DataError, match=r"holds images \(a/b/1\.png\) and sounds \(a/2\.wav\)"):
        read_samples(media)
    copy(folder, "1/a.png", "cat/a.png")
    shutil.rmtree(media / "a")
    with pytest.raises(DataError, match="file 1: label is 1, while others have names such as 'cat'"):
        read_samples(media)
