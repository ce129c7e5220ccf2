"""Products of 8-bit numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trimodal.maths import integer_products


def test_by_hand() -> None:
    """The example of the file's docstring: codes 3 and 255 with zero-point 2, times 1 and -1."""
    codes, units = torch.tensor([[3, 255]]), torch.tensor([[1], [-1]], dtype=torch.int8)
    shifted = (codes - integer_products.SHIFT).to(torch.int8)
    assert integer_products.multiply_integers(shifted, units).item() == -252
    assert pytest.approx(((codes - 2) * 0.5 * torch.tensor([[0.1, -0.1]])).sum().item()) == -252 * 0.5 * 0.1


def test_products_that_saturate_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As processors without VNNI add: two neighbouring products in 16 bits, cut off."""

    def saturate(left: Tensor, right: Tensor) -> Tensor:
        pairs = (left.int()[:, :, None] + 128) * right.int()
        sums = pairs.view(len(left), -1, 2, right.shape[1]).sum(2).clamp(-(2**15), 2**15 - 1)
        return (sums.sum(1) - 128 * right.int().sum(0)).int()

    monkeypatch.setattr(integer_products, "_QUICK", set(integer_products.detect_processor()[1]) or {"none"})
    monkeypatch.setattr(integer_products, "multiply_integers", saturate)
    assert not integer_products.has_exact_integer_products.__wrapped__()


def test_exact_products_are_taken_where_they_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_products, "multiply_integers", lambda a, b: (a.double() @ b.double()).int())
    monkeypatch.setattr(integer_products, "detect_processor", lambda: ("a processor", ("avx2", "avx_vnni")))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert integer_products.has_exact_integer_products.__wrapped__()
    monkeypatch.setattr(integer_products, "detect_processor", lambda: ("a processor", ("avx2",)))
    assert not integer_products.has_exact_integer_products.__wrapped__()
