"""Modules that keep their matrices out of reach are opened, and closed again where nothing was compressed."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from trimodal.core.storage import tensor_specs_of
from trimodal.layers import close_layers_, close_tensors, open_layers_, replace_weight_
from trimodal.layers.chain import merge_factor_chain
from trimodal.layers.transposed import TransposedLinear


def make_conv1d(rows: int = 6, columns: int = 4) -> Any:
    torch.manual_seed(0)
    layer = Conv1D(rows, columns)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


def test_conv1d_becomes_a_linear_layer_with_rows_as_outputs() -> None:
    layer, x = make_conv1d(), torch.randn(2, 3, 4)
    opened: Any = open_layers_(copy.deepcopy(layer))
    assert type(opened) is TransposedLinear and isinstance(opened, nn.Linear)
    assert opened.weight.equal(layer.weight.T) and opened.weight.is_contiguous()
    assert (opened.in_features, opened.out_features) == (4, 6)
    assert torch.allclose(opened(x), layer(x), atol=1e-6)


def test_what_was_opened_closes_to_the_same_class_names_and_numbers() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2, n_positions=8)).eval()
    model.transformer.h[0].mlp.c_fc.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kinds = [type(part) for part in model.modules()]
    open_layers_(model)
    assert not any(isinstance(part, Conv1D) for part in model.modules())
    assert list(model.state_dict()) == list(before)
    closed = close_tensors(model, model.state_dict())
    assert closed.keys() == before.keys() and all(closed[name].equal(before[name]) for name in before)
    close_layers_(model)
    assert [type(part) for part in model.modules()] == kinds
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert model.lm_head.weight is model.transformer.wte.weight
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["transformer.h.0.mlp.c_fc.weight"]


def test_a_layer_with_hooks_or_of_another_class_stays() -> None:
    class Own(Conv1D):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x) * 2

    listened = make_conv1d()
    listened.register_forward_hook(lambda *_: None)
    for layer in (Own(3, 4), listened):
        assert open_layers_(layer) is layer


def test_a_layer_that_was_factorised_and_put_together_again_closes() -> None:
    opened: Any = open_layers_(make_conv1d())
    options = {"shape": [6, 4], "dtype": "float32", "rank": 2, "embedding": False}
    tensors = {name: torch.randn(spec.shape) for name, spec in tensor_specs_of("low_rank", options).items()}
    chain: Any = replace_weight_(opened, "low_rank", options, tensors, None)
    merged = merge_factor_chain(chain)
    x = torch.randn(5, 4)
    closed = close_layers_(merged)
    assert type(closed) is Conv1D
    assert torch.allclose(closed(x), x @ (tensors["second"] @ tensors["first"]).T + opened.bias, atol=1e-5)


def test_coded_layers_do_not_close() -> None:
    opened: Any = open_layers_(make_conv1d())
    options = {"shape": [6, 4], "dtype": "float32", "bits": 8, "group": 4, "exponent": 0, "zero": None, "shared": False}
    tensors = {"codes": torch.randint(0, 255, (6, 8), dtype=torch.uint8), "scale": torch.ones(6, 1).half()}
    coded = replace_weight_(opened, "quantized", options, tensors, None)
    assert close_layers_(coded) is coded
