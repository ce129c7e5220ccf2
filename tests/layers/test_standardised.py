"""What is left of a norm computes the norm without weight and bias."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trimodal.layers import standardised


@pytest.mark.parametrize("norm", [nn.LayerNorm(6, eps=1e-3), nn.RMSNorm(6, eps=1e-3), nn.RMSNorm(6)], ids=str)
def test_equals_the_norm_with_ones(norm: nn.Module) -> None:
    x = torch.randn(4, 5, 6)
    assert torch.equal(standardised(norm)(x), norm(x))
    assert not list(standardised(norm).parameters()) and "6" in str(standardised(norm))


def test_by_hand() -> None:
    x = torch.tensor([[1.0, 3.0]])
    assert standardised(nn.LayerNorm(2, eps=0.0))(x).tolist() == [[-1.0, 1.0]]
    norm = nn.RMSNorm(2, eps=1e-12)
    assert torch.allclose(standardised(norm)(x), x / 5.0**0.5)
