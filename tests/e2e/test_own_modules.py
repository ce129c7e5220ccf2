"""Modules that people write and hold in memory: they stay as they are, and what is shared in them stays shared."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import trimodal
from trimodal.errors import ModelError
from trimodal.models.model import LoadedSample


class Own(nn.Module):
    """Takes `x` (batch, 6, 16), which it makes of texts."""

    modalities = ("text",)

    def example(self) -> dict[str, Tensor]:
        return {"x": torch.zeros(1, 6, 16)}

    def encode(self, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
        noise = [torch.Generator().manual_seed(int(str(one.text))) for one in loaded]
        return {"x": torch.stack([torch.randn(6, 16, generator=one) for one in noise])}


class Alias(Own):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.mid, self.out = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(32, 16)
        self.alias = self.inp

    def forward(self, x: Tensor) -> Any:
        return self.out(self.alias(self.mid(self.inp(x).relu())).relu())


class Repeated(Own):
    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
        self.layers, self.out = nn.ModuleList([block] * 3), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = x + layer(x)
        return self.out(x)


class Tied(Own):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 64), nn.Linear(64, 16), nn.Linear(16, 64)
        self.c.weight, self.c.bias = self.a.weight, self.a.bias

    def forward(self, x: Tensor) -> Any:
        return self.c(self.b(self.a(x).relu()))


class SameMemory(Tied):
    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Linear(16, 64)
        self.c.weight.data = self.a.weight.data


class Recurring(Own):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.again, self.out = self.lstm, nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Any:
        return self.out(self.again(self.lstm(x)[0])[0])


class Learning(Own):
    """In train mode, half frozen, with a hook, a batch norm that counts, a norm of weights, and a table that is renormed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Linear(16, 32))
        self.norm, self.second = nn.BatchNorm1d(6), nn.Linear(32, 16)
        self.table = nn.Embedding(6, 16, max_norm=0.1)
        self.second.requires_grad_(False)
        self.second.register_forward_hook(lambda _, args, output: 2 * output)
        self.train()
        self.norm.eval()

    def forward(self, x: Tensor) -> Any:
        return self.second(self.norm(self.first(x + self.table(torch.arange(6, device=x.device)))).relu())


NETS: dict[str, Callable[[], nn.Module]] = {
    net.__name__: net for net in (Alias, Repeated, Tied, SameMemory, Recurring, Learning)
}
STEPS: dict[str, list[dict[str, Any]]] = {
    "rounding": [{"quantize.rtn": {"bits": 8}}],
    "gptq": [{"quantize.gptq": {"bits": 8}}],
    "inputs": [{"quantize.smooth": {"bits": 8}}],
    "factors": [{"factorize.svd": {"rank": 6, "optional": True}}, {"quantize.rtn": {"bits": 8}}],
    "cut": [{"prune.neurons": {"sparsity": 0.25, "optional": True}}, {"quantize.rtn": {"bits": 8}}],
}


def _state(net: nn.Module) -> list[Any]:
    return [
        {name: value.clone() for name, value in net.state_dict().items()}, [type(part) for part in net.modules()],
        [part.training for part in net.modules()], [p.requires_grad for p in net.parameters()],
        [list(part._forward_hooks) for part in net.modules()], [id(part) for part in net.modules()],
    ]  # fmt: skip


def _alike(one: list[Any], other: list[Any]) -> bool:
    same = all(torch.equal(value, other[0][name]) for name, value in one[0].items())
    return same and one[0].keys() == other[0].keys() and one[1:] == other[1:]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "data.jsonl"
    file.write_text("".join(json.dumps({"text": str(number)}) + "\n" for number in range(20)))
    return file


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", NETS)
def test_the_users_module_stays_and_the_result_is_right(name: str, steps: str, data: Path, tmp_path: Path) -> None:
    net, out = NETS[name](), tmp_path / "out"
    before = _state(net)
    trimodal.inspect(lambda: net)
    trimodal.plan(lambda: net, {"steps": STEPS[steps]}, data)
    result = trimodal.compress(lambda: net, {"steps": STEPS[steps]}, data, out)
    assert not [check for check in result.verdict.checks if check.failed]
    loaded = trimodal.load(out, factory=lambda: net)
    assert _alike(before, _state(net))
    x = net.encode([LoadedSample(text="99")])["x"]  # type: ignore[operator]
    with torch.no_grad():
        plain, made = copy.deepcopy(net).eval()(x), loaded(x)
    error = float((made - plain).norm() / plain.norm())
    assert error < (0.1 if steps not in ("cut", "factors") else 1.0)
    trimodal.compress(lambda: net, {"steps": STEPS[steps]}, data, out, force=True)  # a second time


@pytest.mark.parametrize("name", ["Alias", "Repeated", "Tied", "SameMemory", "Recurring"])
def test_what_is_shared_is_stored_once_and_shared_after_loading(name: str, tmp_path: Path) -> None:
    trimodal.compress(NETS[name], "int8", None, tmp_path / "out")
    loaded: Any = trimodal.load(tmp_path / "out", factory=NETS[name])
    with safe_open(next((tmp_path / "out").glob("*.safetensors")), "pt") as file:
        stored = sum(file.get_tensor(key).numel() for key in file.keys() if file.get_tensor(key).dim() == 2)  # noqa: SIM118
    shared = {"Alias": 16 * 32 * 3, "Repeated": 2 * 16 * 64 + 16 * 16, "Tied": 2 * 16 * 64, "SameMemory": 2 * 16 * 64,
              "Recurring": 2 * 16 * 64 + 16 * 16}[name]  # fmt: skip
    assert shared <= stored < 1.2 * shared  # codes, and a scale for each row
    same = {"Alias": lambda m: m.alias is m.inp, "Repeated": lambda m: m.layers[0] is m.layers[2],
            "Tied": lambda m: m.a.stored is m.c.stored, "SameMemory": lambda m: m.a.stored is m.c.stored,
            "Recurring": lambda m: m.again is m.lstm}[name]  # fmt: skip
    assert same(loaded)


def test_a_factorised_layer_under_two_names_is_replaced_under_both(tmp_path: Path) -> None:
    trimodal.compress(Alias, {"steps": [{"factorize.svd": {"where": "path:inp", "rank": 4}}]}, None, tmp_path / "out")
    for dequantize in (False, True):
        loaded: Any = trimodal.load(tmp_path / "out", factory=Alias, dequantize=dequantize)
        assert loaded.alias is loaded.inp and isinstance(loaded.inp, nn.Linear) == dequantize


def test_a_function_without_a_name(tmp_path: Path) -> None:
    net = Alias()
    result = trimodal.compress(lambda: net, "int8", None, tmp_path / "out")
    (check,) = [check for check in result.verdict.checks if check.name == "reloads in a fresh process"]
    assert check.status == "not run" and "no name that another process could import" in check.detail
    assert result.plan.source.name == "Alias"
    with pytest.raises(ModelError, match=r"came from a function without a name, .*give it as factory=\.\.\."):
        trimodal.load(tmp_path / "out")


class Failing(Own):
    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.a, self.error = nn.Linear(16, 8), error

    def forward(self, x: Tensor) -> Any:
        raise self.error("first line\nthe cause")


class Odd(BaseException):
    """No `Exception`."""


@pytest.mark.parametrize("error", [KeyError, NotImplementedError, StopIteration, Odd, SystemExit])
def test_a_forward_that_fails(error: type[BaseException], data: Path, tmp_path: Path) -> None:
    found = trimodal.inspect(lambda: Failing(error))
    assert found.macs is None and error.__name__ in found.macs_note and found.parameters == 136
    trimodal.compress(lambda: Failing(error), "int8", None, tmp_path / "out")
    for steps in ([{"quantize.gptq": {}}], [{"fold.exact": {}}], [{"distill": {"steps": 1}}]):
        with pytest.raises(ModelError, match=rf"the forward pass of Failing on x .* failed \({error.__name__}.*; check that the data"):
            trimodal.compress(lambda: Failing(error), {"steps": steps}, data, tmp_path / "other")


def test_an_example_that_fails() -> None:
    class Without(Failing):
        def example(self) -> dict[str, Tensor]:
            raise ZeroDivisionError("none")

    found = trimodal.inspect(lambda: Without(KeyError))
    assert found.macs is None and found.macs_note == "Without.example() failed (ZeroDivisionError: none)"
