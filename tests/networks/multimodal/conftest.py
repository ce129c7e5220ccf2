"""A model of five small streams of all kinds, and a batch for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trimodal.networks.multimodal import MultimodalConfig, MultimodalModel

OWN: dict[str, Any] = {"width": 16, "blocks": 1}
STREAMS: dict[str, Any] = {
    "image": {"modality": "image", "channels": 3, "length": 8, "patch": 4, **OWN},
    "caption": {"modality": "text", "channels": 20, "length": 9, **OWN},
    "audio": {"modality": "audio", "channels": 6, "length": 12, "patch": 4, **OWN},
    "vitals": {"modality": "signal", "channels": 3, "length": 10, "patch": 3, **OWN},
    "table": {"modality": "signal", "channels": 1, "length": 5, "width": 16, "blocks": 0},
}


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """Builds the model with a fusion and other settings, in evaluation, with weights large enough to be seen."""

    def make(fusion: str, **settings: Any) -> Any:
        torch.manual_seed(0)
        settings = {"num_labels": 4, **settings}
        sizes = {"fusion_width": 16, "head_dim": 8, "fusion_blocks": 3, "mlp_ratio": 2, "initializer_range": 0.3}
        return MultimodalModel(MultimodalConfig(streams=STREAMS, fusion=fusion, **{**sizes, **settings})).eval()

    return make


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Four samples; every other one has a shorter text, sound and time series."""
    chance = torch.Generator().manual_seed(1)
    found = {
        "pixel_values": torch.randn(4, 3, 8, 8, generator=chance), "caption": torch.randint(1, 20, (4, 7), generator=chance),
        "input_features": torch.randn(4, 6, 12, generator=chance), "vitals": torch.randn(4, 10, 3, generator=chance),
        "table": torch.randn(4, 5, generator=chance),
    }  # fmt: skip
    for name, length, real in (("caption_mask", 7, 4), ("audio_mask", 12, 5), ("vitals_mask", 10, 4)):
        mask = torch.ones(4, length, dtype=torch.long)
        mask[1::2, real:] = 0
        found[name] = mask
    return found
