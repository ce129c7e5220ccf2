"""What a function returns: copied, unwrapped, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from trimodal.errors import ModelError
from trimodal.loading.load import load_source
from trimodal.models.factory import make_module


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.b(self.a(x).relu())
        return y


class Whole(Net):
    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


class Rounded(nn.Linear):
    """As other tools keep quantized weights: a linear layer whose weight is whole numbers."""

    def __init__(self) -> None:
        super().__init__(8, 4)
        self.weight = nn.Parameter(torch.zeros(4, 8, dtype=torch.uint8), requires_grad=False)


def _with(name: str, value: Any) -> Net:
    net = Net()
    setattr(net, name, value)
    return net


def _sparse() -> Net:
    net = Net()
    net.register_buffer("graph", torch.eye(4).to_sparse())
    return net


def _quantized_tensor() -> Net:
    net = Net()
    net.register_buffer("graph", torch.quantize_per_tensor(torch.eye(4), 0.1, 0, torch.qint8))
    return net


def _hollow() -> nn.Module:
    with torch.device("meta"):
        return Net()


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "scripted": (lambda: torch.jit.script(Net()), "it is a TorchScript module"),
    "scripted part": (lambda: _with("a", torch.jit.script(nn.Linear(4, 8))), "a is a TorchScript module"),
    "lazy": (lambda: _with("a", nn.LazyLinear(8)), r"a\.weight of its LazyLinear has no size yet"),
    "meta": (_hollow, r"a\.weight is on the device meta"),
    "sparse": (_sparse, "graph is a sparse_coo tensor"),
    "quantized tensor": (_quantized_tensor, "graph is a quantized tensor"),
    "quantized layer": (lambda: _with("b", Rounded()), r"b\.weight of its Rounded is uint8: it is quantized already"),
    "extra state": (Whole, "its state dict holds a dict under '_extra_state'"),
    "empty": (lambda: _with("a", nn.Linear(0, 4)), r"a\.weight of its Linear has the shape \[4, 0\] and holds no number"),
    "no module": (lambda: 5, "returned int, expected a torch.nn.Module"),
    "fails": (lambda: 1 // 0, r"calling it failed \(ZeroDivisionError"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence(name: str) -> None:
    factory, words = REFUSED[name]
    with pytest.raises(ModelError, match=words) as raised:
        make_module(factory, "it")
    assert "\n" not in str(raised.value) and "  " not in str(raised.value)


def test_a_module_in_place_of_a_function() -> None:
    net = Net()
    net.train()
    model = load_source(net)
    assert model.name == "Net" and model.module is not net and net.training and not model.module.training
    assert torch.equal(model.module.get_parameter("a.weight"), net.a.weight) and model.module.get_parameter("a.weight") is not net.a.weight


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: torch.compile(net, backend="eager")])
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    made = make_module(lambda: wrap(Net()), "it")
    assert type(made) is Net and "a.weight" in made.state_dict()


def test_a_compiled_part_is_taken_out_of_its_wrapper() -> None:
    net = _with("a", torch.compile(nn.Linear(4, 8), backend="eager"))
    made: Any = make_module(lambda: net, "it")
    assert type(made.a) is nn.Linear and type(net.a) is not nn.Linear


def test_layers_get_biases_of_their_own() -> None:
    net = Net()
    net.c = nn.Linear(4, 8)
    net.c.bias = net.a.bias
    made: Any = make_module(lambda: net, "it")
    assert made.c.bias is not made.a.bias and torch.equal(made.c.bias, made.a.bias) and net.c.bias is net.a.bias


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_types_of_numbers_are_kept(dtype: torch.dtype) -> None:
    assert {p.dtype for p in make_module(lambda: Net().to(dtype), "it").parameters()} == {dtype}


def test_a_function_without_a_name_is_called_like_the_class() -> None:
    assert load_source(lambda: Net()).name == "Net"


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_rows_are_as_short_as_a_look_up_makes_them(kind: type[nn.Embedding] | type[nn.EmbeddingBag]) -> None:
    torch.manual_seed(0)
    net, ids = kind(8, 4, max_norm=1.0), torch.arange(8)[None]
    before = net.weight.detach().clone()
    made: Any = make_module(lambda: net, "net")
    assert made.max_norm is None and torch.equal(net.weight, before)
    assert torch.equal(made(ids), net(ids)) and bool((made.weight.norm(dim=1) <= 1.0001).all())


def test_weights_that_are_worked_out_from_others_are_folded() -> None:
    torch.manual_seed(0)
    new, old = nn.utils.parametrizations, nn.utils
    makers = [
        lambda: new.weight_norm(nn.Conv1d(4, 6, 3)), lambda: new.spectral_norm(nn.Linear(4, 6)), lambda: new.orthogonal(nn.Linear(4, 4)),
        lambda: old.weight_norm(nn.Conv1d(4, 6, 3)), lambda: old.spectral_norm(nn.Linear(4, 6)),
    ]  # fmt: skip
    for make in makers:
        module = make().eval()
        names = list(module.state_dict())
        folded = make_module(lambda module=module: nn.Sequential(module), "it")
        assert list(folded.state_dict()) == ["0.bias", "0.weight"] or list(folded.state_dict()) == ["0.weight", "0.bias"]
        assert list(module.state_dict()) == names  # the user's stays
        x = torch.randn(2, 4, 7) if isinstance(module, nn.Conv1d) else torch.randn(2, 4)
        with torch.no_grad():
            assert torch.allclose(folded(x), module(x), atol=1e-6)
