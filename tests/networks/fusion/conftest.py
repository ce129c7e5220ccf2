"""A small fused model and a batch for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trimodal.networks.fusion import FusionConfig, FusionModel


@pytest.fixture
def config() -> FusionConfig:
    """A miniature: one or two blocks of four heads."""
    return FusionConfig(
        vocabulary_size=12, text_tokens=8, image_width=32, audio_width=32, text_width=32, fusion_width=48,
        image_blocks=2, audio_blocks=1, text_blocks=1, fusion_blocks=2, head_dim=8, mlp_ratio=2, num_labels=7,
    )  # fmt: skip


@pytest.fixture
def model(config: FusionConfig) -> FusionModel:
    """The miniature with fixed random weights, large enough that every part matters."""
    torch.manual_seed(0)
    made = FusionModel(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return made


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Three samples; sound and text are padded to different lengths."""
    chance = torch.Generator().manual_seed(1)
    audio_mask = (torch.arange(100)[None] < torch.tensor([[100], [41], [8]])).long()
    attention_mask = (torch.arange(6)[None] < torch.tensor([[6], [2], [4]])).long()
    return {
        "pixel_values": torch.randn(3, 1, 16, 16, generator=chance),
        "input_features": torch.randn(3, 40, 100, generator=chance),
        "audio_mask": audio_mask,
        "input_ids": torch.randint(2, 12, (3, 6), generator=chance) * attention_mask,
        "attention_mask": attention_mask,
    }
