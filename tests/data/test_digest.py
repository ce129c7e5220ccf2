"""One sum for the samples: of their content, wherever it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datafiles import FULL, write
from PIL import Image

from trimodal.core import Sample
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


def test_digest_is_the_one_that_older_plans_hold(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    whole = Sample(
        1, image=tmp_path / "a", audio=tmp_path / "a", text="añ", label=3, labels={"image": 7}, target="t", group="g", split="test"
    )
    assert digest_samples([whole, Sample(2, text="b")]) == "bff2f78a8b4103444dd6a27d65941e2d5729750f16afdf02e347378a8f12158b"
