"""What is left of a norm computes the norm without weight and bias."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trimodal.layers import strip_norm_affine


@pytest.mark.parametrize("norm", [nn.LayerNorm(6, eps=1e-3), nn.RMSNorm(6, eps=1e-3), nn.RMSNorm(6)], ids=str)
def test_equals_the_norm_with_ones(norm: nn.Module) -> None:
    x = torch.randn(4, 5, 6)
    assert torch.equal(strip_norm_affine(norm)(x), norm(x))
    assert not list(strip_norm_affine(norm).parameters()) and "6" in str(strip_norm_affine(norm))


def test_by_hand() -> None:
    x = torch.tensor([[1.0, 3.0]])
    assert strip_norm_affine(nn.LayerNorm(2, eps=0.0))(x).tolist() == [[-1.0, 1.0]]
    norm = nn.RMSNorm(2, eps=1e-12)
    assert torch.allclose(strip_norm_affine(norm)(x), x / 5.0**0.5)
