"""Whether samples suffice and fit the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from toyfamily import make_toy_model as model

from trimodal.core import Sample
from trimodal.data import check_modalities, require_samples
from trimodal.errors import DataError


def test_require_says_how_many_there_are() -> None:
    require_samples([Sample(1, text="a"), Sample(2, text="b")], 2, "calibration samples")
    with pytest.raises(DataError, match="2 calibration samples, and 3 are needed"):
        require_samples([Sample(1, text="a"), Sample(2, text="b")], 3, "calibration samples")


def test_check_modalities_names_both_sides_and_the_line() -> None:
    both = [Sample(line=4, image=Path("a.png"), text="a"), Sample(line=5, text="b")]
    check_modalities(model("image", "text"), both)
    check_modalities(model("text"), both)
    check_modalities(model("image", "text"), [])
    with pytest.raises(DataError, match=r"line 6 has only audio, but toys/one \(toy\) takes image and text"):
        check_modalities(model("image", "text"), [*both, Sample(line=6, audio=Path("a.wav"))])
    with pytest.raises(DataError, match=r"no line has audio, .* takes audio and text; line 4 has image and text"):
        check_modalities(model("audio", "text"), both)
    with pytest.raises(DataError, match=r"line 1 and all others have audio, but .* takes text"):
        check_modalities(model("text"), [Sample(line=1, text="a", audio=Path("a.wav"))])


def test_a_target_counts_as_text() -> None:
    check_modalities(model("audio", "text"), [Sample(line=1, audio=Path("a.wav"), target="hello")])
