"""A family whose batches can be read by eye: the width of each image, the letters of each text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.models.model import Family, LoadedSample, Model, Output, Processors


def _encode(module: nn.Module, processors: Processors, samples: Sequence[LoadedSample]) -> dict[str, Tensor]:
    batch = {}
    if all(s.image is not None for s in samples):
        batch["pixels"] = torch.tensor([s.image.size[0] for s in samples if s.image is not None])
    if all(s.text is not None for s in samples):
        batch["letters"] = torch.tensor([len(s.text or "") for s in samples])
    assert all(s.audio is None for s in samples)
    return batch


def make_toy_model(*modalities: str) -> Model:
    outputs: tuple[Output, ...] = ()
    family = Family("toy", (), lambda module: Layout((), ()), lambda module: outputs, lambda module: modalities, _encode)
    return Model(nn.Linear(1, 1), Layout((), ()), family, name="toys/one")
