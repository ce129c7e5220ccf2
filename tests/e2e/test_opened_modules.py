"""Kinds of layers that keep their matrices in a form of their own: they are places like any other, and what is written reloads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

import trimodal
from trimodal.formats import open_model, write_artifact
from trimodal.formats.native_config import find_native_config
from trimodal.models.model import LoadedSample
from trimodal.models.tensors import tensor_bytes

ROWS = [{"text": str(number)} for number in range(24)]
RTN = {"steps": [{"quantize.rtn": {"bits": 8}}]}
GPTQ = {"steps": [{"quantize.gptq": {"bits": 3, "clip": "max"}}], "calibration": {"samples": 16}}


class Own(nn.Module):
    """Takes `x` (batch, 6, 16), which it makes of texts."""

    modalities = ("text",)

    def example(self) -> dict[str, Tensor]:
        return {"x": torch.zeros(1, 6, 16)}

    def encode(self, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
        noise = [torch.Generator().manual_seed(int(str(one.text))) for one in loaded]
        return {"x": torch.stack([torch.randn(6, 16, generator=one) for one in noise])}


class Turned(Own):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = Conv1D(48, 16), Conv1D(16, 48)

    def forward(self, x: Tensor) -> Any:
        return self.down(self.up(x).relu())


class Straight(Own):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16)

    def forward(self, x: Tensor) -> Any:
        return self.down(self.up(x).relu())


def seed(kind: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    found = kind()
    for parameter in found.parameters():
        nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return found.eval()


def error_of(folder: Path, factory: Callable[[], nn.Module]) -> float:
    """‖ŷ − y‖ / ‖y‖ of what is loaded again, on inputs that nobody has seen."""
    x = torch.randn(8, 6, 16, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        expected, found = (flat(module(x)) for module in (factory(), trimodal.load(folder, factory=factory)))
    return float((found - expected).norm() / expected.norm())


def flat(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]


def test_a_turned_weight_is_compressed_exactly_as_the_linear_layer_that_it_is(tmp_path: Path) -> None:
    turned = seed(Turned)
    straight = Straight()
    straight.load_state_dict({name: t.T if t.dim() == 2 else t for name, t in turned.state_dict().items()})
    for name, module in (("turned", turned), ("straight", straight)):
        trimodal.compress(lambda module=module: module, GPTQ, ROWS, tmp_path / name)
    loaded = [trimodal.load(tmp_path / "turned", factory=lambda: seed(Turned)), trimodal.load(tmp_path / "straight", factory=Straight)]
    for one, other in zip(*(module.state_dict().items() for module in loaded), strict=True):
        assert one[0] == other[0] and one[1].equal(other[1])
    assert 0.0 < error_of(tmp_path / "turned", lambda: seed(Turned)) < 0.3


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=200, n_embd=64, n_layer=2, n_head=4, n_positions=64, bos_token_id=2, eos_token_id=3)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_gpt2_is_covered_and_loads_through_every_door(gpt2: Path, tmp_path: Path) -> None:
    inventory = trimodal.inspect(gpt2)
    assert inventory.in_no_place.share == 0.0
    result = trimodal.compress(gpt2, "int8", None, tmp_path / "out")
    before = json.loads((gpt2 / "config.json").read_text())
    assert before["architectures"] == ["GPT2LMHeadModel"]
    ids = torch.randint(10, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    ours: Any = trimodal.load(result.folder)
    original: Any = GPT2LMHeadModel.from_pretrained(gpt2)
    stock: Any = GPT2LMHeadModel.from_pretrained(result.folder)
    plain: Any = trimodal.load(result.folder, dequantize=True)
    assert tensor_bytes(original.parameters()) / tensor_bytes(ours.state_dict().values()) >= 3.3
    assert isinstance(plain.transformer.h[0].mlp.c_fc, Conv1D)
    with torch.no_grad():
        logits = ours(input_ids=ids).logits
        assert stock(input_ids=ids).logits.equal(logits)
        assert torch.allclose(plain(input_ids=ids).logits, logits, atol=1e-5)
        assert (original(input_ids=ids).logits - logits).norm() / logits.norm() < 0.03
    plain.save_pretrained(tmp_path / "plain")
    again: Any = GPT2LMHeadModel.from_pretrained(tmp_path / "plain")
    with torch.no_grad():
        assert again(input_ids=ids).logits.equal(plain(input_ids=ids).logits)
    assert trimodal.load(gpt2).state_dict()["transformer.h.0.mlp.c_fc.weight"].shape == (64, 256)


def test_untouched_layers_are_written_as_their_own_class_has_them(gpt2: Path, tmp_path: Path) -> None:
    model = open_model(str(gpt2))
    found = find_native_config(json.loads((gpt2 / "config.json").read_text()), [], GPT2LMHeadModel)
    assert found.reason == ""
    whole = trimodal.plan(str(gpt2), RTN)
    stock = write_artifact(model, whole, tmp_path, None)
    assert stock.alone
    for name, tensor in load_file(gpt2 / "model.safetensors").items():
        assert load_file(tmp_path / "model.safetensors")[name].equal(tensor)
