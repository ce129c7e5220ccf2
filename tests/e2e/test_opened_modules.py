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
from transformers import GPT2Config, GPT2LMHeadModel, GptOssForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.integrations.moe import grouped_mm_experts_forward
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
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


def make_moe_config(experts: str = "eager") -> Any:
    config = MixtralConfig(hidden_size=16, intermediate_size=24, num_local_experts=4)
    config._experts_implementation = experts
    return config


class Mixture(Own):
    """Two of four experts for each token; nothing of what calibration has goes to number 3."""

    kind: Any = MixtralExperts

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.gate, self.experts = nn.Linear(16, 16), nn.Linear(16, 4), self.kind(make_moe_config())

    def forward(self, x: Tensor) -> Any:
        hidden = self.inp(x).flatten(0, 1)
        scores = self.gate(hidden)
        scores = torch.cat([scores[:, :3], scores[:, 3:] - 100], dim=1).softmax(-1)
        weights, index = scores.topk(2)
        return x + self.experts(hidden, index, weights).view_as(x)


class TurnedMixture(Mixture):
    """The same with weights (experts, in, out)."""

    class kind(MixtralExperts):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.gate_up_proj = nn.Parameter(self.gate_up_proj.detach().transpose(1, 2).contiguous())
            self.down_proj = nn.Parameter(self.down_proj.detach().transpose(1, 2).contiguous())
            self.is_transposed = True

        def forward(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
            return grouped_mm_experts_forward(self, hidden, index, weights)


def test_fused_experts_are_rounded_by_the_statistics_of_each_and_unseen_ones_are_named(tmp_path: Path) -> None:
    made = {}
    for name, recipe in (("rtn", {"steps": [{"quantize.rtn": {"bits": 3, "clip": "max"}}]}), ("gptq", GPTQ)):
        made[name] = trimodal.compress(lambda: seed(Mixture), recipe, ROWS, tmp_path / name)
    records = {record.place: record for record in made["gptq"].records if hasattr(record, "place")}
    up = records["model.experts.gate_up_proj.experts"]
    assert any("expert 3 of 4 was reached by no calibration token and rounded to the nearest" in note for note in up.notes)
    assert any("the least and the most of 4: expert 3: 0 (0.0%)" in note for note in up.notes)
    assert up.tokens == {"all": 2 * 6 * 16}
    assert up.experts[3] == 0 and sum(up.experts) == 2 * 6 * 16 and len(up.experts) == 4  # every token chooses two
    page = (tmp_path / "gptq" / "report.html").read_text()
    assert "Which experts were asked" in page and page.count("<code>model.experts</code></th>") == 1
    for record in made["rtn"].records:
        if record.place.endswith(".experts"):
            assert records[record.place].error["all"] < 0.9 * record.error["all"]
    assert error_of(tmp_path / "gptq", lambda: seed(Mixture)) < 0.3
    rounded, fed = (trimodal.load(tmp_path / name, factory=lambda: seed(Mixture)) for name in ("rtn", "gptq"))
    for name in ("gate_up_proj", "down_proj"):
        one, other = (getattr(module.experts, name) for module in (rounded, fed))
        assert one[3].equal(other[3]) and not one[0].equal(other[0])  # the unseen one is rounded to the nearest


def test_a_router_stays_in_float_unless_it_is_named() -> None:
    found = trimodal.plan(lambda: seed(Mixture), RTN)
    alone = {one.name: one.reason for edit in found.edits for one in edit.left_alone}
    assert alone["model.gate.router"].startswith("a router: small errors send tokens to other experts")
    named = trimodal.plan(lambda: seed(Mixture), {"steps": [{"quantize.rtn": {"where": "*.router"}}]})
    assert [place.name for place in named.edits[0].places] == ["model.gate.router"]


def test_experts_the_other_way_round_are_compressed_alike(tmp_path: Path) -> None:
    straight = seed(Mixture)
    turned = TurnedMixture().eval()
    state = {name: t.transpose(1, 2).contiguous() if t.dim() == 3 else t for name, t in straight.state_dict().items()}
    turned.load_state_dict(state)
    for name, module in (("straight", straight), ("turned", turned)):
        trimodal.compress(lambda module=module: module, GPTQ, ROWS, tmp_path / name)
    one, other = (
        trimodal.load(tmp_path / name, factory=factory).state_dict()
        for name, factory in (("straight", Mixture), ("turned", TurnedMixture))
    )
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_stock_experts_are_covered_and_load_through_every_door(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: Any = {
        "vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 128, "max_position_embeddings": 64, "num_local_experts": 4, "num_experts_per_tok": 2,
    }  # fmt: skip
    kind: Any = {"mixtral": MixtralForCausalLM, "gpt_oss": GptOssForCausalLM}[name]
    more = {} if name == "mixtral" else {"head_dim": 16, "sliding_window": 8}
    kind(kind.config_class(**sizes, **more)).save_pretrained(tmp_path / "in")
    result = trimodal.compress(tmp_path / "in", "int8", None, tmp_path / "out")
    ids = torch.randint(10, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    original, stock = (kind.from_pretrained(folder) for folder in (tmp_path / "in", result.folder))
    ours: Any = trimodal.load(result.folder)
    plain: Any = trimodal.load(result.folder, dequantize=True)
    assert tensor_bytes(original.parameters()) / tensor_bytes(ours.state_dict().values()) >= 3.3
    assert type(plain.model.layers[0].mlp.experts) is type(original.model.layers[0].mlp.experts)
    with torch.no_grad():
        logits = ours(input_ids=ids).logits
        assert stock(input_ids=ids).logits.equal(logits)
        assert torch.allclose(plain(input_ids=ids).logits, logits, atol=1e-5)
        assert (original(input_ids=ids).logits - logits).norm() / logits.norm() < 0.06
        cached, plain_way = (stock.generate(ids, max_new_tokens=4, do_sample=False, use_cache=use) for use in (True, False))
    assert cached.equal(plain_way)


@pytest.mark.parametrize("kind", [Turned, Mixture])
def test_what_was_opened_is_exported(kind: Any, tmp_path: Path) -> None:
    def factory() -> nn.Module:
        return seed(kind)

    result = trimodal.compress(factory, RTN, None, tmp_path / "out")
    found = trimodal.export(result.folder, "onnx", tmp_path / "onnx", factory=factory)
    assert all(check.status == "passed" for check in found.result.checks)


class Attending(Own):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.cross = nn.MultiheadAttention(16, 2, kdim=8, vdim=8, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        return y + self.cross(y, x[..., :8], x[..., :8], need_weights=False)[0]


class Stepping(Own):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.cell = nn.RNN(16, 24, batch_first=True), nn.LSTMCell(24, 16)
        self.lstm = nn.LSTM(16, 24, batch_first=True, proj_size=8, bidirectional=True)

    def forward(self, x: Tensor) -> Any:
        y, state = self.rnn(x)[0], None
        for step in y.unbind(1):
            state = self.cell(step, state)
        return self.lstm(x + state[0][:, None])[0]  # type: ignore[index]


class Volume(Own):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv3d(1, 12, (2, 2, 2), stride=2), nn.ConvTranspose3d(12, 1, 2, stride=2)
        self.line = nn.ConvTranspose1d(6, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        volume = x.view(len(x), 1, 6, 4, 4)
        return self.line(self.up(self.down(volume).relu()).view_as(x))


class Grouped(Own):
    """A convolution in groups, whose groups gptq rounds by the inputs of each."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.depthwise = nn.Conv1d(6, 12, 3, padding=1, groups=3), nn.Conv1d(12, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return self.depthwise(self.mix(x).relu())


class Bags(Own):
    def __init__(self) -> None:
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(40, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Any:
        ids = (x.flatten(0, 1).abs() * 13).long() % 40
        return self.out(self.bag(ids)).view_as(x)


@pytest.mark.parametrize("kind", [Attending, Stepping, Volume, Grouped, Bags])
def test_every_kind_is_covered_observed_and_reloads(kind: Any, tmp_path: Path) -> None:
    def factory() -> nn.Module:
        return seed(kind)

    assert trimodal.inspect(factory).in_no_place.share == 0.0
    rest = {"quantize.gptq": {"bits": 4, "clip": "max", "where": "*"}}
    recipe = {**GPTQ, "steps": [{"quantize.rtn": {"bits": 4, "clip": "max", "where": "*bag*"}}, rest]} if kind is Bags else {
        **GPTQ, "steps": [rest]
    }  # fmt: skip
    fed = trimodal.compress(factory, recipe, ROWS, tmp_path / "fed")
    rounded = trimodal.compress(factory, {"steps": [{"quantize.rtn": {"bits": 4, "clip": "max"}}]}, ROWS, tmp_path / "rounded")
    errors = {record.place: record.error for record in fed.records}
    others = {record.place: record.error for record in rounded.records}
    assert errors.keys() == others.keys() and all(error for error in errors.values())
    assert sum(errors[place]["all"] for place in errors) < sum(others[place]["all"] for place in others) or kind is Bags
    assert 0.0 < error_of(fed.folder, factory) < 0.4
    x = torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        once, again = (flat(trimodal.load(fed.folder, factory=factory, dequantize=how)(x)) for how in ("speed", "memory"))
        assert once.equal(again)
        plain = trimodal.load(fed.folder, factory=factory, dequantize=True)
        assert torch.allclose(flat(plain(x)), once, atol=1e-5)


def test_a_stock_format_refuses_layers_that_its_class_has_in_another_form(gpt2: Path, tmp_path: Path) -> None:
    trimodal.compress(gpt2, RTN, None, tmp_path / "out")
    with pytest.raises(trimodal.InputError, match="its class keeps the weight in a form of its own"):
        trimodal.export(tmp_path / "out", "compressed-tensors", tmp_path / "stock")
