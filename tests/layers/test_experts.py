"""Fused experts, opened: a layer per tensor, the same outputs, and expert by expert where somebody listens or weights are stored."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AriaTextConfig, GptOssConfig, MixtralConfig, NemotronHConfig
from transformers.models.aria.modeling_aria import AriaExperts
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHExperts

from trimodal.layers import ExpertMatrix, close_layers_, open_layers_, replace_weight_, set_dequantize_policy_
from trimodal.layers.opened import OpenedLayer
from trimodal.maths.grid import fit_grid
from trimodal.models.weighted import find_weighted_modules, is_router, make_site

SIZES = {"hidden_size": 8, "intermediate_size": 12}
KINDS: dict[str, tuple[Any, Any]] = {
    "mixtral": (MixtralExperts, MixtralConfig(**SIZES, num_local_experts=4)),
    "gpt_oss": (GptOssExperts, GptOssConfig(**SIZES, num_local_experts=4)),
    "aria": (AriaExperts, AriaTextConfig(**SIZES, moe_num_experts=4, num_attention_heads=2, num_key_value_heads=2)),
    "without gate": (NemotronHExperts, NemotronHConfig(hidden_size=8, moe_intermediate_size=12, n_routed_experts=4)),
}


def make_experts(name: str, way: str = "eager") -> Any:
    kind, config = KINDS[name]
    config = copy.deepcopy(config)
    config._experts_implementation = way
    torch.manual_seed(0)
    experts = kind(config)
    for parameter in experts.parameters():
        nn.init.normal_(parameter, std=0.3)
    return experts.eval()


def make_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """10 tokens, of which none goes to expert 2."""
    random = torch.Generator().manual_seed(1)
    index = torch.stack([torch.randperm(3, generator=random)[:2] for _ in range(10)])
    index[index == 2] = 3
    return torch.randn(10, 8, generator=random), index, torch.rand(10, 2, generator=random)


@pytest.mark.parametrize("way", ["eager", "grouped_mm", "batched_mm"])
@pytest.mark.parametrize("name", KINDS)
def test_opened_experts_compute_the_same_whether_or_not_somebody_listens(name: str, way: str) -> None:
    experts = make_experts(name, way)
    opened: Any = open_layers_(copy.deepcopy(experts))
    assert isinstance(opened, OpenedLayer) and isinstance(opened, type(experts))
    with torch.no_grad():
        expected = experts(*make_inputs())
        assert torch.allclose(opened(*make_inputs()), expected, atol=1e-6)
        calls: list[tuple[str, int]] = []
        for path, matrix in opened.matrices.items():
            matrix.register_forward_pre_hook(lambda _, args, path=path: calls.append((path, args[1])))
        assert torch.allclose(opened(*make_inputs()), expected, atol=1e-6)
    up = "up_proj" if name == "without gate" else "gate_up_proj"
    assert calls == [(path, expert) for expert in (0, 1, 3) for path in (up, "down_proj")]


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_outputs_and_the_old_names_read_the_old_form(name: str) -> None:
    experts = make_experts(name)
    opened: Any = open_layers_(copy.deepcopy(experts))
    turned = experts.is_transposed
    for path, matrix in opened.matrices.items():
        fused = getattr(experts, path)
        assert getattr(opened, path).equal(fused)
        rows = fused.transpose(1, 2) if turned else fused
        assert isinstance(matrix, ExpertMatrix) and matrix.weight.equal(rows.reshape(-1, rows.shape[2]))
        site = make_site(opened, f"matrices.{path}", "text", 0, "experts")
        assert (site.kind, site.groups, site.shape) == ("experts", 4, tuple(matrix.weight.shape))


@pytest.mark.parametrize("name", KINDS)
def test_experts_close_copy_and_pickle(name: str) -> None:
    experts = make_experts(name)
    opened = open_layers_(copy.deepcopy(experts))
    for one in (copy.deepcopy(opened), pickle.loads(pickle.dumps(opened))):
        with torch.no_grad():
            assert one(*make_inputs()).equal(opened(*make_inputs()))
    closed = close_layers_(opened)
    assert type(closed) is type(experts)
    assert closed.state_dict().keys() == experts.state_dict().keys()
    assert all(tensor.equal(closed.state_dict()[key]) for key, tensor in experts.state_dict().items())


@pytest.mark.parametrize("name", KINDS)
def test_stored_experts_compute_with_what_is_decoded(name: str) -> None:
    opened: Any = open_layers_(make_experts(name))
    expected = copy.deepcopy(opened)
    for path, matrix in list(opened.matrices.items()):
        weight = matrix.weight.detach()
        grid = fit_grid(weight, 4, "channel")
        codes = grid.encode(weight)
        options = {"shape": list(weight.shape), "dtype": "float32", **grid.storage_options()}
        replace_weight_(matrix, "quantized", options, grid.storage_tensors(codes), None)
        expected.matrices[path].weight.data = grid.decode(codes)
    with torch.no_grad():
        wanted = expected.run_experts(*make_inputs())
        for policy in ("memory", "speed"):
            set_dequantize_policy_(opened, policy)
            assert opened(*make_inputs()).equal(wanted)
    assert close_layers_(opened) is opened


def test_a_router_is_what_gives_a_number_for_each_expert_beside_it() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(8, 4), make_experts("mixtral")
            self.shared, self.shared_gate = nn.Linear(8, 8), nn.Linear(8, 1)

    block = open_layers_(Block())
    assert [path for path in find_weighted_modules(block) if is_router(block, path)] == ["gate"]
