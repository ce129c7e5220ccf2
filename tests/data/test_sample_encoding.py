"""From samples to tensors: what is not finite is refused by line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datafiles import write
from toyfamily import make_toy_model as model

from trimodal.data import encode_samples, read_samples
from trimodal.errors import DataError
from trimodal.models.model import Family


@pytest.mark.parametrize(("name", "bad", "refused"), [
    ("pixel_values", torch.nan, True), ("pixel_values", -torch.inf, True), ("mask", torch.nan, True), ("mask", -torch.inf, False),
])  # fmt: skip
def test_inputs_that_are_not_finite_are_refused_by_line(folder: Path, name: str, bad: float, refused: bool) -> None:
    samples = read_samples(write(folder, {"text": "a"}, {"text": "b"}))
    values = torch.zeros(2, 3)
    values[1, 2] = bad
    odd = model("text")
    family = Family("toy", (), odd.family.describe, odd.family.outputs, odd.family.modalities, lambda *_: {name: values})
    odd.family = family
    if not refused:
        assert encode_samples(odd, samples)[name].equal(values)
        return
    with pytest.raises(DataError, match=rf"line 2: {name} holds 1 numbers that are not finite"):
        encode_samples(odd, samples)
