"""Copies that share nothing with the original, and share among themselves what the original shares."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from trimodal.errors import ModelError
from trimodal.models.copying import copy_module, copy_to_meta


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.b(self.a(x).relu())
        return y


def test_one_object_stays_one_object() -> None:
    net = Net()
    net.alias = net.a
    net.tied = nn.Linear(4, 8)
    net.tied.weight = net.a.weight
    net.same_memory = nn.Linear(4, 8)
    net.same_memory.weight.data = net.a.weight.data
    made: Any = copy_module(net)
    assert made.alias is made.a and made.a is not net.a
    assert made.tied.weight is made.a.weight and made.same_memory.weight is made.a.weight
    assert made.a.weight.data_ptr() != net.a.weight.data_ptr() and torch.equal(made.a.weight, net.a.weight)


def test_flags_and_hooks_stay() -> None:
    net = Net().train()
    net.b.eval().requires_grad_(False)
    net.a.register_forward_hook(lambda _, args, output: 2 * output)
    made = copy_module(net)
    assert [part.training for part in made.modules()] == [True, True, False]
    assert [p.requires_grad for p in made.parameters()] == [True, True, False, False]
    x = torch.randn(3, 4)
    assert torch.equal(made(x), net(x))


def test_what_is_computed_and_kept_is_copied() -> None:
    """An old weight norm keeps its product as a plain attribute, which has a history."""
    net = Net()
    weight_norm(net.a)
    net.kept = [net.b.weight * 2, {"inside": (net.b.weight + 1,)}]
    with pytest.raises(RuntimeError):
        copy.deepcopy(net)
    x = torch.randn(3, 4)
    assert torch.equal(copy_module(net)(x), net(x))


def test_parametrizations_stay() -> None:
    net = Net()
    net.a = parametrizations.weight_norm(net.a)
    made: Any = copy_module(net)
    assert torch.equal(made.a.weight, net.a.weight) and made.a.parametrizations is not net.a.parametrizations


class Uncopied:
    def __deepcopy__(self, memo: object) -> None:
        raise BaseException("not me")


@pytest.mark.parametrize("what", [threading.Lock(), (i for i in range(3)), Uncopied()])
def test_what_cannot_be_copied_is_named(what: object) -> None:
    net = Net()
    net.b.thing = what  # type: ignore[assignment]
    with pytest.raises(ModelError, match=r"Net cannot be copied: its attribute b\.thing is a \w+ that does not allow it"):
        copy_module(net)


def test_without_values_leaves_the_original_alone() -> None:
    net = Net()
    net.alias = net.a
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made: Any = copy_to_meta(net)
    assert all(value.is_meta for value in made.state_dict().values()) and made.alias is made.a
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
