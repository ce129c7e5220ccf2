"""Llama 4's experts, opened: the same outputs, and only the tokens that are not zero where somebody listens or weights are stored."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Llama4ForCausalLM, Llama4TextConfig
from transformers.models.llama4.modeling_llama4 import Llama4TextExperts

from trimodal.layers import close_layers_, open_layers_, replace_weight_
from trimodal.layers.opened import OpenedLayer
from trimodal.maths.grid import fit_grid
from trimodal.models import generic

CONFIG = Llama4TextConfig(
    vocab_size=50, hidden_size=8, intermediate_size=12, intermediate_size_mlp=12, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, head_dim=4, num_local_experts=3, num_experts_per_tok=1, moe_layers=[0, 1], max_position_embeddings=32,
    pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip


def make_experts() -> Any:
    torch.manual_seed(0)
    experts = Llama4TextExperts(CONFIG)
    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.3)
    return experts.eval()


def make_rows() -> Tensor:
    """Five tokens for each of three experts: two come to the first, three to the second, none to the last."""
    rows = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    rows[0, 2:], rows[1, :2], rows[2] = 0, 0, 0
    return rows.view(15, 8)


def test_opened_experts_compute_the_same_whether_or_not_somebody_listens() -> None:
    experts = make_experts()
    opened: Any = open_layers_(copy.deepcopy(experts))
    assert isinstance(opened, OpenedLayer) and isinstance(opened, Llama4TextExperts)
    with torch.no_grad():
        expected = experts(make_rows())
        assert torch.allclose(opened(make_rows()), expected, atol=1e-6)
        calls: list[tuple[str, int, int]] = []
        for path, matrix in opened.matrices.items():
            matrix.register_forward_pre_hook(lambda _, args, path=path: calls.append((path, args[1], len(args[0]))))
        assert torch.allclose(opened(make_rows()), expected, atol=1e-6)
    assert calls == [("gate_up_proj", 0, 2), ("down_proj", 0, 2), ("gate_up_proj", 1, 3), ("down_proj", 1, 3)]


def test_rows_are_outputs_and_experts_close_copy_and_pickle() -> None:
    experts = make_experts()
    opened: Any = open_layers_(copy.deepcopy(experts))
    assert opened.matrices["gate_up_proj"].weight.equal(experts.gate_up_proj.transpose(1, 2).reshape(3 * 24, 8))
    assert opened.down_proj.equal(experts.down_proj)
    for one in (copy.deepcopy(opened), pickle.loads(pickle.dumps(opened))):
        with torch.no_grad():
            assert one(make_rows()).equal(opened(make_rows()))
    closed = close_layers_(opened)
    assert type(closed) is Llama4TextExperts
    assert all(tensor.equal(closed.state_dict()[key]) for key, tensor in experts.state_dict().items())


def test_stored_experts_compute_with_what_is_decoded() -> None:
    opened: Any = open_layers_(make_experts())
    expected = copy.deepcopy(opened)
    for path, matrix in list(opened.matrices.items()):
        weight = matrix.weight.detach()
        grid = fit_grid(weight, 4, "channel")
        codes = grid.encode(weight)
        options = {"shape": list(weight.shape), "dtype": "float32", **grid.storage_options()}
        replace_weight_(matrix, "quantized", options, grid.storage_tensors(codes), None)
        expected.matrices[path].weight.data = grid.decode(codes)
    with torch.no_grad():
        assert opened(make_rows()).equal(expected.run_experts(make_rows()))


def test_experts_and_router_of_a_whole_model_are_places() -> None:
    with torch.device("meta"):
        module = open_layers_(Llama4ForCausalLM(CONFIG))
    found = {site.name: site.kind for site in generic.describe(module).sites}
    assert found["text.1.feed_forward.experts.gate_up_proj.experts"] == "experts"
    assert found["text.1.feed_forward.router.router"] == "linear"
