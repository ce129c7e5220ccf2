"""Large data start like small data: what is opened, listed, decoded and held, counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from datafiles import write
from PIL import Image
from torch import Tensor, nn

from trimodal.core import Layout, Sample
from trimodal.data import batch_samples, check_media, digest_samples, load_sample, read_samples
from trimodal.errors import DataError
from trimodal.models.model import Family, LoadedSample, Model, Processors

FILES, LINES = 40, 600


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often files are decoded, bytes of files read, folders listed, and paths asked whether they are files."""
    found: Counter[str] = Counter()

    def count(owner: Any, name: str, what: str) -> None:
        original = getattr(owner, name)

        def seen(*given: Any, **rest: Any) -> Any:
            found[what] += 1
            return original(*given, **rest)

        monkeypatch.setattr(owner, name, seen)

    count(soundfile, "SoundFile", "decoded")
    count(Image, "open", "decoded")
    count(Path, "open", "opened")
    count(Path, "is_file", "asked")
    count(os, "scandir", "listed")
    return found


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A data file whose lines share a few sounds."""
    (tmp_path / "clips").mkdir()
    for number in range(FILES):
        soundfile.write(tmp_path / "clips" / f"{number}.wav", np.full(80, number / FILES, dtype=np.float32), 8000)
    return write(tmp_path, *({"audio": f"clips/{i % FILES}.wav", "label": i % 3} for i in range(LINES)))


def encode(module: nn.Module, processors: Processors, samples: Sequence[LoadedSample]) -> dict[str, Tensor]:
    return {"wave": torch.stack([torch.from_numpy(s.audio) for s in samples if s.audio is not None])}


def listener() -> Model:
    family = Family("toy", (), lambda module: Layout((), ()), lambda module: (), lambda module: ("audio",), encode)
    return Model(nn.Linear(1, 1), Layout((), ()), family, name="toys/ear")


def test_reading_lists_a_folder_once_and_opens_no_sound(clips: Path, counted: Counter[str]) -> None:
    samples = read_samples(clips)
    assert len(samples) == LINES
    assert counted == {"asked": 1, "opened": 1, "listed": 1}  # the data file itself, and its one folder
    assert len({id(sample.audio) for sample in samples}) == FILES


def test_a_batch_decodes_its_own_lines_and_no_others(clips: Path, counted: Counter[str]) -> None:
    found = batch_samples(listener(), read_samples(clips), 16)
    assert counted["decoded"] == 0 and len(found) == -(-LINES // 16)
    assert found[1]["wave"][:, 0].tolist() == pytest.approx([i / FILES for i in range(16, 32)], abs=1e-4)
    assert counted["decoded"] == 16
    assert found[1] is found[1] and counted["decoded"] == 16


def test_each_sound_is_read_once_for_a_digest_and_decoded_once_to_check_it(clips: Path, counted: Counter[str]) -> None:
    samples = read_samples(clips)
    counted.clear()
    digest_samples(samples)
    assert counted == {"opened": FILES}
    check_media(samples)
    assert counted["decoded"] == FILES
    check_media(samples, most=7)
    assert counted["decoded"] == FILES + 7


def test_a_broken_sound_is_told_by_its_line_when_it_is_used(clips: Path) -> None:
    (clips.parent / "clips" / "30.wav").write_bytes(b"RIFF")
    samples = read_samples(clips)
    check_media(samples, most=30)
    wrong = rf"{clips}, line 31: audio .*30\.wav cannot be decoded"
    for use in (lambda: check_media(samples), lambda: load_sample(samples[30]), lambda: batch_samples(listener(), samples, 8)[3]):
        with pytest.raises(DataError, match=wrong):
            use()


def test_a_sound_that_is_gone_by_then_is_told_by_its_line(clips: Path) -> None:
    samples = read_samples(clips)
    (clips.parent / "clips" / "3.wav").unlink()
    for use in (digest_samples, check_media):
        with pytest.raises(DataError, match=r"line 4: .*3\.wav cannot be"):
            use(samples)


def test_what_a_model_does_not_take_is_not_read(clips: Path) -> None:
    sample = Sample(1, audio=clips, text="a")
    assert load_sample(sample, ["text"]) == LoadedSample(text="a")
    with pytest.raises(DataError):
        load_sample(sample)
