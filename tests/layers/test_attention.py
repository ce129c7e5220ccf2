"""An opened `nn.MultiheadAttention` computes what PyTorch's does, through four layers that are called."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.layers import close_layers_, open_layers_
from trimodal.layers.attention import OpenedAttention
from trimodal.models.weighted import find_weighted_modules

SHAPES: list[dict[str, Any]] = [
    {}, {"batch_first": True}, {"bias": False}, {"kdim": 6, "vdim": 5, "batch_first": True}, {"add_bias_kv": True},
    {"add_zero_attn": True, "batch_first": True}, {"add_bias_kv": True, "add_zero_attn": True, "kdim": 6},
]  # fmt: skip
HIDDEN = torch.tensor([[False, False, True, False, False], [False, True, False, True, False]])
MASKS: list[dict[str, Any]] = [
    {}, {"need_weights": False}, {"key_padding_mask": HIDDEN}, {"attn_mask": torch.randn(3, 5)},
    {"attn_mask": torch.ones(3, 5).triu(1).bool(), "key_padding_mask": HIDDEN, "need_weights": False},
    {"attn_mask": torch.randn(8, 3, 5), "average_attn_weights": False},
]  # fmt: skip


def both(**options: Any) -> tuple[nn.MultiheadAttention, Any]:
    torch.manual_seed(0)
    original = nn.MultiheadAttention(8, 4, **options).eval()
    for parameter in original.parameters():
        nn.init.normal_(parameter, std=0.5)
    return original, open_layers_(copy.deepcopy(original))


def inputs(original: nn.MultiheadAttention) -> list[Tensor]:
    found = [torch.randn(2, n, width) for n, width in ((3, 8), (5, original.kdim), (5, original.vdim))]
    return found if original.batch_first else [x.transpose(0, 1) for x in found]


@pytest.mark.parametrize("masks", MASKS, ids=lambda masks: "-".join(masks) or "none")
@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_it_computes_the_same(options: dict[str, Any], masks: dict[str, Any]) -> None:
    original, opened = both(**options)
    assert isinstance(opened, OpenedAttention)
    given = inputs(original)
    with torch.no_grad():
        for expected, found in zip(original(*given, **masks), opened(*given, **masks), strict=True):
            assert (expected is None) == (found is None)
            assert expected is None or (found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5))


def test_without_a_batch_and_within_layers_of_pytorch() -> None:
    original, opened = both()
    x = torch.randn(4, 8)
    with torch.no_grad():
        for expected, found in zip(original(x, x, x), opened(x, x, x), strict=True):
            assert torch.allclose(found, expected, atol=1e-5)
        for first in (False, True):
            whole = nn.Transformer(8, 4, 2, 2, 16, batch_first=first).eval()
            copied = open_layers_(copy.deepcopy(whole))
            seen: list[str] = []
            for path, part in copied.named_modules():
                if isinstance(part, nn.Linear):
                    part.register_forward_hook(lambda *_, path=path, seen=seen: seen.append(path))
            a, b = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
            a, b = (a, b) if first else (a.transpose(0, 1), b.transpose(0, 1))
            assert torch.allclose(copied(a, b), whole(a, b), atol=1e-5)
            assert len(set(seen)) == 2 * 6 + 2 * 10 and set(seen) <= set(find_weighted_modules(copied))


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_it_closes(options: dict[str, Any]) -> None:
    original, opened = both(**options)
    closed = close_layers_(opened)
    assert type(closed) is nn.MultiheadAttention
    assert closed.state_dict().keys() == original.state_dict().keys()
    assert all(t.equal(closed.state_dict()[name]) for name, t in original.state_dict().items())
    given = inputs(original)
    with torch.no_grad():
        assert closed(*given)[0].equal(original(*given)[0])
