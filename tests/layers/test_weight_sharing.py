"""A layer that uses another's weight: one parameter, whatever is done with the module."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from trimodal.layers import has_shared_weight, share_weight_, tie_weight_


@pytest.fixture
def module() -> nn.Module:
    found = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    share_weight_(found[1], found[0])
    return found


def test_it_computes_with_the_lenders_weight_and_its_own_bias(module: nn.Module) -> None:
    lender, borrower = module.children()
    x = torch.randn(2, 3)
    assert torch.allclose(borrower(x), x @ lender.weight.T + borrower.bias, atol=1e-5)
    assert has_shared_weight(borrower) and not has_shared_weight(lender) and isinstance(borrower, nn.Linear)
    assert list(module.state_dict()) == ["0.weight", "0.bias", "1.bias"]
    assert len(list(module.parameters())) == 3 and len(list(module.modules())) == 3


def test_a_copy_borrows_from_the_copied_lender(module: nn.Module) -> None:
    again = copy.deepcopy(module)
    with torch.no_grad():
        again[0].weight.zero_()  # type: ignore[index]
    assert not again[1].weight.any() and module[1].weight.any()  # type: ignore[index]
    assert again.double()[1].weight.dtype is torch.float64  # type: ignore[operator]


def test_training_moves_both(module: nn.Module) -> None:
    lender, borrower = module.children()
    module(torch.randn(4, 3)).square().sum().backward()
    gradient = lender.weight.grad
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    before = borrower.weight.detach().clone()
    optimizer.step()
    assert gradient is not None and torch.allclose(borrower.weight, before - 0.1 * gradient)


def test_tied_it_is_a_plain_layer_again(module: nn.Module) -> None:
    lender, borrower = module.children()
    tie_weight_(borrower)
    assert type(borrower) is nn.Linear and borrower.weight is lender.weight and not has_shared_weight(borrower)
    assert set(module.state_dict()) == {"0.weight", "0.bias", "1.weight", "1.bias"}
