"""WavLM's attention opened: the same numbers through layers that are called, and the class given back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trimodal.layers import close_layers_, open_layers_
from trimodal.layers.handed_attention import OpenedHandedAttention
from trimodal.networks.tiny import make_miniature, make_miniature_batch


def run(module: nn.Module, masked: bool) -> Tensor:
    batch = make_miniature_batch("wavlm", 2)
    if masked:
        batch["attention_mask"] = torch.ones(2, 1600, dtype=torch.long)
        batch["attention_mask"][1, 800:] = 0
    with torch.no_grad():
        found: Tensor = module(**batch).logits
    return found


@pytest.mark.parametrize("masked", [False, True])
def test_the_same_numbers_come_out(masked: bool) -> None:
    expected = run(make_miniature("wavlm"), masked)
    opened = open_layers_(make_miniature("wavlm"))
    assert torch.allclose(run(opened, masked), expected, atol=1e-6)


def test_every_layer_is_called_with_samples_first() -> None:
    opened, seen = open_layers_(make_miniature("wavlm")), dict[str, tuple[int, ...]]()
    for path, part in opened.named_modules():
        if ".attention." in path and path.endswith("_proj"):
            part.register_forward_hook(lambda _, args, out, path=path: seen.update({path: tuple(args[0].shape)}))
    run(opened, False)
    assert len(seen) == 8 and {shape[0] for shape in seen.values()} == {2}


def test_closing_gives_the_class_and_its_tensors_back() -> None:
    original, opened = make_miniature("wavlm"), open_layers_(make_miniature("wavlm"))
    assert sum(isinstance(part, OpenedHandedAttention) for part in opened.modules()) == 2
    closed = close_layers_(opened)
    assert [type(part).__name__ for part in closed.modules()] == [type(part).__name__ for part in original.modules()]
    expected = original.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in closed.state_dict().items())
    assert torch.equal(run(closed, False), run(original, False))


def test_an_attention_with_another_kind_of_layer_stays_open() -> None:
    opened = open_layers_(make_miniature("wavlm"))
    attention = next(part for part in opened.modules() if isinstance(part, OpenedHandedAttention))
    attention.q_proj = nn.Sequential(attention.q_proj)
    assert attention.close() is None


def test_a_trained_opened_attention_learns() -> None:
    opened = open_layers_(make_miniature("wavlm")).train()
    opened(**make_miniature_batch("wavlm", 2)).logits.sum().backward()
    attention = next(part for part in opened.modules() if isinstance(part, OpenedHandedAttention))
    assert attention.q_proj.weight.grad is not None and bool(attention.q_proj.weight.grad.abs().sum() > 0)
