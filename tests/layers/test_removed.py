"""The stub: nothing to store, a clear error when it is called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trimodal.errors import ModelError
from trimodal.layers import RemovedLayer


def test_holds_nothing_and_says_what_it_was() -> None:
    stub = RemovedLayer("text.head", nn.Linear(3, 5))
    assert not stub.state_dict() and not list(stub.parameters())
    assert (stub.in_features, stub.out_features) == (3, 5)
    assert "text.head, Linear" in repr(stub)
    with pytest.raises(ModelError, match=r"text\.head \(Linear\) was removed, since it never ran"):
        stub(torch.zeros(1, 3))
