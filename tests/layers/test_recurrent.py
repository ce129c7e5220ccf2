"""An opened recurrent layer computes what PyTorch's own does, and lets others see and change its matrices."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from trimodal.layers import Recurrent, open_layers_
from trimodal.layers.recurrent import RecurrentCell
from trimodal.loading.load import build_model
from trimodal.models import generic
from trimodal.networks.tiny import make_miniature, make_miniature_batch

KINDS = (nn.LSTM, nn.GRU, nn.RNN, "relu", "projected")
SHAPES: list[dict[str, Any]] = [
    {}, {"bias": False}, {"batch_first": True}, {"num_layers": 3}, {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
]  # fmt: skip


def make_layer(kind: Any, **options: Any) -> Any:
    if kind == "relu":
        return nn.RNN(5, 7, nonlinearity="relu", **options)
    return nn.LSTM(5, 7, proj_size=3, **options) if kind == "projected" else kind(5, 7, **options)


def both(kind: Any, **options: Any) -> tuple[nn.Module, Recurrent]:
    original = make_layer(kind, **options).eval()
    opened = open_layers_(copy.deepcopy(original))
    assert isinstance(opened, Recurrent)
    return original, opened


def listened(layer: Recurrent) -> dict[str, list[Tensor]]:
    """Hooks on all matrices, which keep what they are given."""
    seen: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Callable[..., None]:
        return lambda _, args: seen.setdefault(name, []).append(args[0])  # type: ignore[func-returns-value]

    for name, part in layer.named_modules():
        if isinstance(part, nn.Linear):
            part.register_forward_pre_hook(hook(name))
    return seen


def flat(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result if part is not None for tensor in flat(part)]


def same(a: Any, b: Any, tolerance: float) -> None:
    found, expected = flat(a), flat(b)
    assert [t.shape for t in found] == [t.shape for t in expected]
    for x, y in zip(found, expected, strict=True):
        assert torch.allclose(x.double(), y.double(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_opened_equals_the_original(kind: Any, options: dict[str, Any]) -> None:
    original, opened = both(kind, **options)
    x = torch.randn(4, 6, 5)
    same(opened(x), original(x), 0.0)
    same(opened(x[0]), original(x[0]), 0.0)  # without a batch
    _, state = original(x)
    same(opened(x, state), original(x, state), 0.0)
    listened(opened)
    same(opened(x), original(x), 1e-5)
    same(opened(x, state), original(x, state), 1e-5)
    same(opened(x[0]), original(x[0]), 1e-5)


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [True, False])
def test_packed_sequences_too(kind: Any, options: dict[str, Any], order: bool) -> None:
    original, opened = both(kind, **options)
    x = pack_sequence([torch.randn(n, 5) for n in ((6, 4, 4, 1) if order else (4, 1, 6, 4))], enforce_sorted=order)
    _, state = original(x)
    same(opened(x), original(x), 0.0)
    same(opened(x, state), original(x, state), 0.0)
    seen = listened(opened)
    same(opened(x), original(x), 1e-5)
    same(opened(x, state), original(x, state), 1e-5)
    assert all(sum(len(rows) for rows in calls) == 2 * 15 for calls in seen.values())  # padding is never seen


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_see_the_inputs_of_both_matrices(kind: Any) -> None:
    original, opened = both(kind, batch_first=True)
    seen = listened(opened)
    x = torch.randn(3, 4, 5)
    y = original(x)[0]
    opened(x)
    assert len(seen["input.0"]) == 1 and seen["input.0"][0] is x
    before = torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], dim=1)
    assert torch.allclose(torch.stack(seen["hidden.0"], dim=1), before, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_flow_both_ways(kind: Any) -> None:
    original, opened = both(kind, num_layers=2, dropout=0.0)
    x = torch.randn(6, 2, 5)
    original(x)[0].square().sum().backward()
    opened(x)[0].square().sum().backward()
    assert torch.allclose(opened.input["1"].weight.grad, original.weight_ih_l1.grad, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type, union-attr]
    quick = opened.hidden["0"].weight.grad.clone()  # type: ignore[union-attr, operator]
    opened.zero_grad()
    listened(opened)
    opened(x)[0].square().sum().backward()
    assert torch.allclose(opened.hidden["0"].weight.grad, quick, atol=1e-5)  # type: ignore[arg-type]


def test_parameters_are_the_very_same_and_attributes_stay() -> None:
    original = nn.LSTM(5, 7, 2, bidirectional=True)
    opened = open_layers_(original)
    assert opened.hidden["1_reverse"].weight is original.weight_hh_l1_reverse  # type: ignore[union-attr, index]
    assert {id(p) for p in opened.parameters()} == {id(p) for p in original.parameters()}
    assert (opened.input_size, opened.hidden_size, opened.num_layers) == (5, 7, 2)
    opened.flatten_parameters()  # type: ignore[operator]


def test_what_cannot_be_opened_is_left_alone() -> None:
    class Own(nn.LSTM):
        pass

    own, heard = Own(5, 7), nn.GRU(5, 7)
    heard.register_forward_hook(lambda *_: None)
    module = nn.ModuleList([own, heard, nn.LSTM(5, 7)])
    assert open_layers_(module) is module
    assert [isinstance(part, Recurrent) for part in module] == [False, False, True]
    assert open_layers_(module) is module and len(list(module.modules())) == 8


def test_one_layer_at_two_places_stays_one() -> None:
    module = nn.Module()
    module.first = module.second = nn.GRU(5, 7)
    open_layers_(module)
    assert isinstance(module.first, Recurrent) and module.first is module.second


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_one_step_equals_that_of_a_cell(kind: Any, bias: bool) -> None:
    cell = kind(5, 7, bias=bias)
    opened: Any = open_layers_(copy.deepcopy(cell))
    assert isinstance(opened, RecurrentCell) and opened.hidden.weight.equal(cell.weight_hh)
    state = torch.randn(4, 7)
    given = (state, torch.randn(4, 7)) if kind is nn.LSTMCell else state
    x = torch.randn(4, 5)
    same(opened(x), cell(x), 1e-6)
    same(opened(x, given), cell(x, given), 1e-6)
    same(opened(x[0]), cell(x[0]), 1e-6)


def test_wrong_states_are_refused_with_the_shape() -> None:
    _, opened = both(nn.LSTM)
    with pytest.raises(RuntimeError, match=r"LSTM: expected a first state of shape \(1, 4, 7\), got \[\(1, 3, 7\)"):
        opened(torch.randn(6, 4, 5), (torch.zeros(1, 3, 7), torch.zeros(1, 3, 7)))
    with pytest.raises(ValueError, match="expected input to be 2D or 3D, got 1D"):
        opened(torch.randn(5))


def test_empty_parts_of_a_batch_run() -> None:
    original, opened = both(nn.GRU, batch_first=True)
    padded = pack_padded_sequence(torch.randn(2, 3, 5), torch.tensor([3, 1]), batch_first=True)
    result, expected = (pad_packed_sequence(layer(padded)[0])[0] for layer in (opened, original))
    assert torch.equal(result, expected)


def test_sites_have_sensible_names() -> None:
    layout = build_model(make_miniature("lstm"), "lstm").layout
    assert [site.name for site in layout.sites if "gru" in site.path] == ["audio.audio_gru.0.input", "audio.audio_gru.0.hidden"]
    names = [site.name for site in layout.sites]
    assert "audio.audio_lstm.1_reverse.hidden" in names and len(set(names)) == len(names)
    assert {site.kind for site in layout.sites if site.role in ("input", "hidden")} == {"linear"}
    module = make_miniature("lstm")
    assert generic.describe(module).sites  # a model that nobody opened is described too
    batch = make_miniature_batch("lstm", 2)
    assert torch.equal(build_model(make_miniature("lstm"), "lstm").module(**batch), module(**batch))


def test_a_matrix_in_fewer_bits_changes_the_result_as_it_should(compressed: Any) -> None:
    done = compressed("lstm", [{"quantize.rtn": {"where": "*.hidden", "bits": 3}}])
    closed, batch = make_miniature("lstm"), make_miniature_batch("lstm", 2)
    with torch.no_grad():
        for name, part in done.model.module.named_modules():
            if isinstance(part, Recurrent):
                for number in part.numbers:
                    getattr(closed.get_submodule(name), f"weight_hh_l{number}").copy_(part.hidden[number].weight)
        assert torch.equal(done.model.module(**batch), closed(**batch))
        assert not torch.equal(done.model.module(**batch), make_miniature("lstm")(**batch))
