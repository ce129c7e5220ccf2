"""The built-in data: nothing of the test is met in training, answers are right, the folder is ordinary."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from trimodal.demo.seehearread import (
    ANSWERS,
    OPERATIONS,
    SPLITS,
    answer_class_of,
    draw_questions,
    list_texts,
    load_handwriting,
    load_speech,
    write_dataset,
)

PAIRS = list(combinations(SPLITS, 2))


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_splits_share_no_writer_voice_or_wording(one: str, other: str) -> None:
    first, second = load_handwriting(one), load_handwriting(other)
    assert not set(first.writers.tolist()) & set(second.writers.tolist())
    assert not set(first.indices.tolist()) & set(second.indices.tolist())
    voices = [{clip.voice for clip in load_speech(split)} for split in (one, other)]
    assert not voices[0] & voices[1]
    variants = [{voice.split("+")[1] for voice in known} for known in voices]
    assert not variants[0] & variants[1]
    for operation in range(len(OPERATIONS)):
        assert not set(list_texts(operation, one)) & set(list_texts(operation, other))


def test_writers_of_a_split_are_one_contiguous_block() -> None:
    for split in SPLITS:
        indices = load_handwriting(split).indices
        assert np.array_equal(indices, np.arange(indices[0], indices[-1] + 1))


def test_every_writer_starts_with_runs_of_all_digits() -> None:
    runs = np.tile(np.arange(10), 2)[:17]
    for split in SPLITS:
        part = load_handwriting(split)
        for writer in set(part.writers.tolist()):
            assert int((part.digits[part.writers == writer][:17] == runs).sum()) >= 16


def test_every_voice_speaks_every_digit_once() -> None:
    for split in SPLITS:
        counts = Counter((clip.voice, clip.digit) for clip in load_speech(split))
        assert set(counts.values()) == {1}
        assert len(counts) == 10 * len({voice for voice, _ in counts})


def test_clips_are_sound_and_fit_in_a_second() -> None:
    for clip in load_speech("test"):
        assert 1000 < len(clip.samples) <= 8000
        assert 0.2 < float(np.abs(clip.samples).max()) < 1.5


@pytest.mark.parametrize(
    ("name", "seen", "heard", "answer"),
    [
        ("add", 7, 8, 15),
        ("difference", 3, 9, 6),
        ("larger", 2, 5, 5),
        ("smaller", 2, 5, 2),
        ("multiply", 6, 9, 54),
    ],
)
def test_answers(name: str, seen: int, heard: int, answer: int) -> None:
    operation = [o.name for o in OPERATIONS].index(name)
    assert ANSWERS[answer_class_of(operation, seen, heard)] == answer


def test_every_500_questions_are_balanced() -> None:
    counts = Counter((item.operation, item.seen, item.clip.digit) for item in draw_questions("test", 1500, seed=4))
    assert len(counts) == 500
    assert set(counts.values()) == {3}


def test_the_folder_holds_what_its_lines_say(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", train=30, test=20, seed=1)
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    assert Counter(row["split"] for row in rows) == {"train": 30, "test": 20}
    for row in rows:
        with Image.open(folder / row["image"]) as image:
            assert (image.mode, image.size) == ("L", (8, 8))
        sound = soundfile.info(folder / row["audio"])
        assert (sound.samplerate, sound.channels, sound.subtype) == (8000, 1, "PCM_16")
        labels = row["labels"]
        assert row["label"] == answer_class_of(labels["text"], labels["image"], labels["audio"])
        assert row["text"] in list_texts(labels["text"], row["split"])
        assert row["audio"].split("/")[1].startswith(row["group"].split("/")[1])
    named = {row["image"] for row in rows} | {row["audio"] for row in rows}
    assert {str(path.relative_to(folder)) for path in folder.glob("*/*")} == named


def test_the_same_seed_writes_the_same_folder(tmp_path: Path) -> None:
    folders = [write_dataset(tmp_path / str(n), train=8, test=8, seed=seed) for n, seed in enumerate((5, 5, 6))]
    contents = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    ]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


@pytest.mark.parametrize("counts", [{"train": 0, "test": 0}, {"train": -1, "test": 5}])
def test_an_impossible_number_of_questions_is_refused(counts: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one question"):
        write_dataset(tmp_path, seed=0, **counts)


def test_the_packaged_speech_is_small() -> None:
    import trimodal.demo.seehearread as package

    folder = Path(package.__file__).parent
    assert sum((folder / name).stat().st_size for name in ("clips.ogg", "clips.json")) <= 3_000_000
