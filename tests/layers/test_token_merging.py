"""Blocks that merge tokens, inside the models that they belong to."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.edits import MergeTokens
from trimodal.errors import TrimodalError
from trimodal.layers import has_token_merging
from trimodal.models.families import family_of
from trimodal.networks.tiny import make_miniature


def encoder(name: str = "clip", **changes: Any) -> tuple[Any, Any]:
    """The vision encoder of the CLIP miniature, and the same with tokens merged after its first block."""
    plain: Any = make_miniature(name)
    merging = copy.deepcopy(plain)
    how = {"kind": "matching", "share": 8 / 17, "first": 0, "last": 0, "proportional": True, **changes}
    MergeTokens("image", **how).apply_(merging, family_of(merging).describe(merging))
    return plain.vision_model.encoder, merging.vision_model.encoder


def copies(batch: int = 3, seed: int = 0) -> Tensor:
    """A class token, and eight tokens that each stand there twice, side by side: (batch, 17, 32)."""
    random = torch.Generator().manual_seed(seed)
    pairs = torch.randn(batch, 8, 32, generator=random).repeat_interleave(2, dim=1)
    return torch.cat([torch.randn(batch, 1, 32, generator=random), pairs], dim=1)


def run(encoder: nn.Module, hidden: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = encoder(inputs_embeds=hidden).last_hidden_state
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_copies_merge_without_loss(attention: str) -> None:
    """All that is left computes what it did with every copy there, if attention counts the copies."""
    plain, merging = encoder()
    plain.config._attn_implementation = merging.config._attn_implementation = attention
    hidden = copies()
    found, expected = run(merging, hidden), run(plain, hidden)
    assert found.shape == (3, 9, 32)
    assert torch.allclose(found, expected[:, [0, *range(1, 17, 2)]], atol=1e-5)
    unfair = run(encoder(proportional=False)[1], hidden)
    assert not torch.allclose(unfair[:, 0], expected[:, 0], atol=1e-3)


@pytest.mark.parametrize("kind", ["matching", "strided"])
def test_merging_nothing_is_the_identity(kind: str) -> None:
    plain, merging = encoder(kind=kind, share=0.0)
    assert all(has_token_merging(block) for block in merging.layers) and not any(has_token_merging(block) for block in plain.layers)
    assert torch.equal(run(merging, copies()), run(plain, copies()))


def test_the_class_token_stays_what_it_is() -> None:
    """It comes out of the merging block bit by bit as it would have, even with a twin among the others."""
    plain, merging = encoder()
    hidden = copies()
    hidden[:, 1:3] = hidden[:, :1]
    with torch.no_grad():
        assert torch.equal(merging.layers[0](hidden, None)[:, 0], plain.layers[0](hidden, None)[:, 0])


def test_attention_pooling_gets_every_token_back() -> None:
    """SigLIP's head looks at all tokens alike; copies that were merged stand there again."""
    plain, merging = encoder("siglip", share=0.5)
    hidden = copies()[:, 1:]
    assert torch.allclose(run(merging, hidden), run(plain, hidden), atol=1e-5)


def test_every_copy_of_the_model_and_every_thread_by_itself() -> None:
    _, merging = encoder()
    other = copy.deepcopy(merging)
    inputs = [torch.randn(2, 17, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    expected = [run(merging, hidden) for hidden in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            if not torch.equal(run(other if number == 2 else merging, inputs[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_one_sample_is_merged_as_in_a_batch() -> None:
    _, merging = encoder()
    hidden = torch.randn(4, 17, 32)
    assert torch.allclose(run(merging, hidden)[2:3], run(merging, hidden[2:3]), atol=1e-5)


def test_a_block_by_itself_says_what_it_misses() -> None:
    _, merging = encoder()
    with pytest.raises(TrimodalError, match="must be called one after another"):
        merging.layers[1](torch.randn(1, 17, 32), None)


@pytest.mark.parametrize("form", ["bool", "two-dimensional", "additive"])
@pytest.mark.parametrize("proportional", [True, False])
def test_what_padding_holds_changes_nothing(form: str, proportional: bool) -> None:
    _, merging = encoder("siglip", share=0.5, proportional=proportional)
    real = torch.arange(16)[None] < torch.tensor([[16], [9]])
    mask = real[:, None, None, :]
    if form == "additive":
        mask = torch.zeros(2, 1, 16, 16).masked_fill(~mask, torch.finfo(torch.float32).min)
    if form == "bool":
        mask = mask.expand(-1, -1, 16, -1)
    hidden = torch.randn(2, 16, 32)
    other = torch.where(real[:, :, None], hidden, 100.0)
    with torch.no_grad():
        one, two = (merging(inputs_embeds=x, attention_mask=mask).last_hidden_state for x in (hidden, other))
    assert one.isfinite().all() and torch.allclose(one[real], two[real], atol=1e-5)


def test_gradients_flow_through_means() -> None:
    _, merging = encoder()
    hidden = torch.randn(1, 17, 32, requires_grad=True)
    merging(inputs_embeds=hidden).last_hidden_state.square().sum().backward()
    assert hidden.grad is not None and bool((hidden.grad.abs().sum(-1) > 0).all())
