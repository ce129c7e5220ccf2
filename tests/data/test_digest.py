"""One sum for the samples: of their content, wherever it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datafiles import FULL, write
from PIL import Image

from trimodal.data import digest_samples, read_samples


def test_digest_depends_on_content_and_not_on_the_folder(folder: Path, tmp_path_factory: Any) -> None:
    other = tmp_path_factory.mktemp("other")
    for name in ("seven.png", "three.wav"):
        (other / name).write_bytes((folder / name).read_bytes())
    here, there = (read_samples(write(place, FULL, {"text": "b", "split": "train"})) for place in (folder, other))
    assert digest_samples(here) == digest_samples(there)
    assert digest_samples(here) != digest_samples(here[:1])
    assert digest_samples(here) != digest_samples(here[::-1])
    Image.new("RGB", (8, 6)).save(other / "seven.png")
    assert digest_samples(here) != digest_samples(there)
