"""What neighbours are known from watching: each way in which a fold would be wrong is seen and refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimodal.core import Fold
from trimodal.graph.fusion_discovery import discover_folds, norm_offset_of
from trimodal.loading.load import build_model


class Small(nn.Module):
    """A convolution and its batch norm, two linear layers in a row, a norm and what reads it; `flaw` says what is odd."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.flaw = flaw
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.normalization = nn.BatchNorm2d(8)
        self.passing = nn.Sequential(nn.Identity(), nn.Dropout(0.5))
        self.first = nn.Linear(8, 6)
        self.second = nn.Linear(6, 6, bias=False)
        self.norm = nn.LayerNorm(6)
        self.query = nn.Linear(6, 6, bias=False)
        self.key = nn.Linear(6, 6)
        self.act = nn.ReLU(inplace=True)
        for tensor in (self.normalization.weight, self.normalization.running_mean, self.norm.weight, self.norm.bias):
            nn.init.normal_(tensor)  # type: ignore[arg-type]
        if flaw == "tied":
            self.other = nn.Linear(6, 6, bias=False)
            self.other.weight = self.query.weight

    def example(self) -> dict[str, Tensor]:
        """One picture."""
        return {"pixels": torch.zeros(1, 3, 6, 6)}

    def forward(self, pixels: Tensor) -> Any:
        """(B, 3, 6, 6) -> (B, 16, 6)."""
        hidden = self.conv(pixels)
        read = hidden.mean() if self.flaw == "read" else 0.0
        if self.flaw == "in place":
            hidden = self.act(hidden)
        hidden = self.act(self.normalization(hidden) + read)
        if self.flaw == "twice":
            hidden = hidden + self.normalization(self.conv(pixels))
        tokens = hidden.flatten(2).transpose(1, 2)
        between = self.first(tokens)
        if self.flaw == "changed":
            tokens.add_(1.0)
        made = self.second(self.passing(between))
        normed = self.norm(made)
        if self.flaw == "residual":
            normed = normed + 0.0
        if self.flaw == "weight":
            made = made + F.linear(made, self.query.weight)
        if self.flaw == "type":
            made = made.to(self.norm.weight.dtype)
        result = self.query(normed) + self.key(normed) + made
        return (result, normed) if self.flaw == "returned" else result


def folds(flaw: str = "", **changes: Any) -> dict[str, Fold]:
    """By path what was found of the module with this flaw."""
    module = Small(flaw)
    module.normalization.train(changes.get("learning", False))
    model = build_model(module, "small") if not changes.get("half") else build_model(module.to(torch.bfloat16), "small")
    batches = [{"pixels": torch.randn(2, 3, 6, 6).to(next(module.parameters()))} for _ in range(2)]
    return {fold.path: fold for fold in discover_folds(model, batches).folds}


def test_finds_all_three() -> None:
    found = folds()
    assert {(f.what, f.path, f.into) for f in found.values()} == {
        ("norm", "normalization", ("conv",)), ("linear", "first", ("second",)), ("affine", "norm", ("query", "key")),
    }  # fmt: skip
    assert all(not fold.reason and 0 < fold.error < 1e-6 for fold in found.values())
    assert found["normalization"].epsilon == 1e-5
    assert list(found) == ["normalization", "first", "norm"]


def test_without_data_the_example_is_filled_with_noise() -> None:
    found = discover_folds(build_model(Small(), "small"), []).folds
    assert [fold.reason for fold in found] == ["", "", ""] and min(fold.error for fold in found) > 0


@pytest.mark.parametrize(("flaw", "path", "reason"), [
    ("read", "normalization", "others read what conv writes too"),
    ("in place", "normalization", "was not written by a convolution|others read"),
    ("twice", "normalization", "runs 2 times|others read"),
    ("residual", "norm", "not only linear layers read it: add"),
    ("returned", "norm", "not only linear layers read it: output"),
    ("weight", "norm", "the weight of query is used elsewhere"),
    ("tied", "norm", "the weight of query is used elsewhere"),
    ("type", "norm", "the model asks for the weight of norm"),
])  # fmt: skip
def test_refused(flaw: str, path: str, reason: str) -> None:
    found = folds(flaw)
    assert any(part in found[path].reason for part in reason.split("|")), found[path]
    assert not found["normalization" if path == "norm" else "norm"].reason


def test_what_was_changed_in_between_is_not_read_again() -> None:
    assert "first" not in folds("changed")


def test_inner_models_hand_out_what_they_return(tiny_model: Any) -> None:
    found = {f.path: f for f in discover_folds(tiny_model("qwen3"), []).folds}
    assert found["model.norm"].reason == "not only linear layers read it: output"
    assert not found["model.layers.0.input_layernorm"].reason


def test_what_never_runs_is_found() -> None:
    class Spare(Small):
        def __init__(self) -> None:
            super().__init__()
            self.spare, self.table = nn.Linear(5, 5), nn.Embedding(6, 6)

        def forward(self, pixels: Tensor) -> Any:
            """With a table that is used but not called."""
            return super().forward(pixels) + self.table.weight[0]

    found = {f.path: f for f in discover_folds(build_model(Spare(), "spare"), []).folds if f.what == "idle"}
    assert {path: fold.reason for path, fold in found.items()} == {"spare": ""}


def test_rounding_to_half_precision_is_an_error() -> None:
    assert all("makes an error of" in f.reason for f in folds(half=True).values() if f.what != "linear")


def test_another_input_takes_another_way() -> None:
    class Ways(Small):
        def forward(self, pixels: Tensor) -> Any:
            """Larger pictures skip the norm."""
            return super().forward(pixels) if len(pixels) == 1 else self.conv(pixels)

    model = build_model(Ways(), "ways")
    pictures = [{"pixels": torch.randn(n, 3, 6, 6)} for n in (1, 2)]
    found = {f.path: f for f in discover_folds(model, pictures).folds}
    assert found["normalization"].reason == "another input takes another way through it"
    assert not found["norm"].reason


class Gemma(nn.Module):
    """A norm that multiplies by one more than its weight, as Gemma's does."""

    def __init__(self, added: float) -> None:
        super().__init__()
        self.weight, self.eps, self.added = nn.Parameter(0.1 * torch.randn(8)), 1e-6, added

    def forward(self, x: Tensor) -> Tensor:
        """(…, 8) -> (…, 8)."""
        return F.rms_norm(x, (8,), eps=self.eps) * (self.added + self.weight)


def test_what_a_norm_multiplies_by_is_tried_out() -> None:
    assert norm_offset_of(Gemma(0.0)) == 0.0
    assert norm_offset_of(Gemma(1.0)) == 1.0
    assert norm_offset_of(Gemma(2.0)) is None
    assert norm_offset_of(nn.LayerNorm(8)) == norm_offset_of(nn.RMSNorm(8)) == 0.0
    assert norm_offset_of(nn.GroupNorm(1, 8)) is None


def test_equal_tensors_are_twins_but_not_norms_biases_or_what_is_cut() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4, bias=biased) for biased in (True, False, True))
            for other in (self.b, self.c):
                other.weight.data.copy_(self.a.weight.data)
            self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(2))
            self.place = nn.ParameterList(nn.Parameter(torch.arange(4.0)) for _ in range(2))
            self.register_buffer("one", torch.arange(6))
            self.register_buffer("two", torch.arange(6))
            self.register_buffer("three", torch.arange(6), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x).relu()).relu())  # type: ignore[no-any-return]

    found = {f.path: f for f in discover_folds(build_model(Doubled(), "doubled"), []).folds}
    assert {path: fold.into for path, fold in found.items()} == {"two": ("one",), "place.1": ("place.0",)}
    assert [fold.tensor_bytes for fold in found.values()] == [16, 48]
    doubled = Doubled()
    doubled.a = copy.deepcopy(doubled.b)
    found = {f.path: f for f in discover_folds(build_model(doubled, "doubled"), []).folds if "weight" in f.path}
    assert {path: fold.into for path, fold in found.items()} == {"b.weight": ("a.weight",)}


def test_a_scale_per_channel() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lambda1 = nn.Parameter(torch.randn(6))

        def forward(self, hidden_state: Tensor) -> Tensor:
            return hidden_state * self.lambda1

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.scale = nn.Linear(4, 6), Scale()

        def forward(self, x: Tensor) -> Tensor:
            return self.scale(self.down(x)) + 1.0  # type: ignore[no-any-return]

    (fold,) = discover_folds(build_model(Scaled(), "scaled"), [{"x": torch.randn(3, 4)}]).folds
    assert (fold.what, fold.path, fold.into, fold.reason, fold.tensor_bytes) == ("scale", "scale", ("down",), "", 24)
