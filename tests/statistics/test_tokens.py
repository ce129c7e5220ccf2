"""Rows of tokens out of raw inputs: patches of convolutions, no padding, one heap per modality."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trimodal.core import MODALITIES
from trimodal.layers import close_layers_, open_layers_
from trimodal.statistics import split_rows_by_modality, unfold_input

CONVOLUTIONS = {
    "plain": {"kernel_size": 3},
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilation": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "patch": {"kernel_size": 4, "stride": 4},
    "pointwise": {"kernel_size": 1},
    "same": {"kernel_size": 3, "padding": "same"},
    "same, even": {"kernel_size": 4, "padding": "same", "dilation": 3},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    "reflect": {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
}


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_weight_times_patches_is_the_convolution(name: str, size: int) -> None:
    layer = (nn.Conv1d, nn.Conv2d)[size - 1](3, 5, **CONVOLUTIONS[name])  # type: ignore[arg-type]
    x = torch.randn(2, 3, *(12, 9)[:size])
    patches = unfold_input(layer, x)
    expected = layer(x)
    found = (patches @ layer.weight.flatten(1).T + layer.bias).transpose(1, 2)
    assert torch.allclose(found.reshape(expected.shape), expected, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"padding": 1, "padding_mode": "circular"}], ids=str)
def test_patches_of_three_dimensions(options: Any) -> None:
    layer = nn.Conv3d(3, 5, (3, 2, 1), **options)
    x = torch.randn(2, 3, 7, 6, 5)
    found = (unfold_input(layer, x) @ layer.weight.flatten(1).T + layer.bias).transpose(1, 2)
    assert torch.allclose(found.reshape(layer(x).shape), layer(x), atol=1e-5)


@pytest.mark.parametrize("options", [
    {}, {"stride": 3}, {"stride": 2, "padding": 1, "output_padding": 1}, {"dilation": 2, "padding": 3}, {"bias": False},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("size", [1, 2, 3])
def test_patches_of_a_transposed_convolution(size: int, options: Any) -> None:
    layer = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[size - 1](3, 4, (3, 2, 2)[:size], **options)
    x = torch.randn(2, 3, *(7, 6, 5)[:size])
    expected = layer(x)
    opened: Any = open_layers_(layer)
    assert opened.weight.shape == (4, 3, *(3, 2, 2)[:size]) and opened(x).equal(expected)
    found = unfold_input(opened, x) @ opened.weight.flatten(1).T + (0 if opened.bias is None else opened.bias)
    assert torch.allclose(found.transpose(1, 2).reshape(expected.shape), expected, atol=1e-5)
    closed = close_layers_(opened)
    assert type(closed) is type(layer) and closed(x).equal(expected)


def test_two_sizes_of_one_kernel_stay_apart() -> None:
    layer = nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1))
    x = torch.randn(2, 2, 9, 8)
    found = (unfold_input(layer, x) @ layer.weight.flatten(1).T + layer.bias).transpose(1, 2)
    assert torch.allclose(found.reshape(layer(x).shape), layer(x), atol=1e-5)


def test_input_of_a_linear_layer_stays_as_it_is() -> None:
    x = torch.randn(2, 3, 4)
    assert unfold_input(nn.Linear(4, 2), x) is x


def test_padding_is_left_out_and_modalities_are_kept_apart() -> None:
    x = torch.arange(12.0).view(2, 3, 2)
    image, text = MODALITIES.index("image"), MODALITIES.index("text")
    codes = torch.tensor([[image, text, -1], [text, -1, len(MODALITIES)]])
    found = split_rows_by_modality(x, codes, "fusion")
    assert set(found) == {"image", "text", "fusion"}
    assert torch.equal(found["image"], x[0, :1])
    assert torch.equal(found["text"], torch.stack((x[0, 1], x[1, 0])))
    assert torch.equal(found["fusion"], x[1, 2:])


def test_rows_of_another_length_count_for_the_tower() -> None:
    pooled = torch.randn(2, 4)
    assert torch.equal(split_rows_by_modality(pooled, torch.zeros(2, 3), "text")["text"], pooled)
    assert split_rows_by_modality(torch.randn(2, 5, 4), torch.zeros(2, 3), "text")["text"].shape == (10, 4)
    assert split_rows_by_modality(torch.randn(2, 5, 4), None, "image")["image"].shape == (10, 4)


def test_batch_of_nothing_but_padding_gives_no_rows() -> None:
    assert split_rows_by_modality(torch.randn(1, 2, 3), torch.full((1, 2), -1), "text") == {}


def test_rows_that_come_several_to_a_token_share_its_kind() -> None:
    x, codes = torch.randn(2, 6, 4), torch.tensor([[1, 1, -1], [1, -1, -1]])
    rows = split_rows_by_modality(x, codes, "audio")
    assert rows.keys() == {"audio"} and torch.equal(rows["audio"], torch.cat((x[0, :4], x[1, :2])))


def test_width_that_happens_to_be_the_number_of_tokens_is_no_row_of_tokens() -> None:
    pooled = torch.randn(2, 3)
    assert torch.equal(split_rows_by_modality(pooled, torch.zeros(2, 3, dtype=torch.long), "text")["text"], pooled)


def test_answers_are_a_kind_of_their_own() -> None:
    x = torch.randn(1, 3, 4)
    rows = split_rows_by_modality(x, torch.tensor([[0, 2, 4]]), "text")
    assert {name: len(part) for name, part in rows.items()} == {"image": 1, "text": 1, "answer": 1}


def test_rows_that_a_model_has_laid_flat_are_told_apart_too() -> None:
    """OPT and mixtures of experts hand (batch · tokens, n) on."""
    x, codes = torch.arange(12.0).view(6, 2), torch.tensor([[2, 2, -1], [2, -1, -1]])
    found = split_rows_by_modality(x, codes, "text")
    assert list(found) == ["text"] and found["text"].tolist() == [[0.0, 1.0], [2.0, 3.0], [6.0, 7.0]]
