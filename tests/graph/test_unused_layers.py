"""Layers that never run: what is tried before a layer is called dead, and what speaks against that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.core import Axis
from trimodal.graph.unused_layers import find_unused_layers
from trimodal.loading.load import build_model
from trimodal.networks.tiny import make_miniature_batch


class Spare(nn.Module):
    """One layer that runs, and `spare`, which does so or does not, depending on the `case`."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.case, self.used = case, nn.Linear(4, 4)
        if case == "expert":
            self.experts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        else:
            self.spare: nn.Module = nn.Bilinear(4, 4, 4) if case == "no site" else nn.Linear(4, 4)
        if case == "tied":
            self.other = nn.Bilinear(4, 1, 4)
            self.other.bias, self.spare.bias = nn.Parameter(torch.ones(4)), self.used.bias
        if case == "more":
            self.spare.register_parameter("gain", nn.Parameter(torch.ones(1)))

    def example(self) -> dict[str, Tensor]:
        """Two rows."""
        return {"x": torch.zeros(2, 4)}

    def encode(self, x: Tensor) -> Tensor:
        """(B, 4) -> (B, 4), by the spare layer."""
        if self.case != "encode":
            raise RuntimeError("nothing to encode")
        found: Tensor = self.spare(x)
        return found

    def get_text_features(self, x: Tensor) -> Tensor:
        """(B, 4) -> (B, 4), by the spare layer."""
        return x if self.case != "features" else self.spare(x)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, 4) -> (B, 4)."""
        spare: Any = getattr(self, "spare", None)
        if self.case == "labels" and labels is not None:
            x = spare(x)
        if self.case == "weight":
            x = x + spare.weight[0]
        if self.case == "asked":
            x = x.to(spare.weight.dtype)
        if self.case == "kind":
            assert isinstance(spare, nn.Linear)
        if self.case == "expert":
            x = self.experts[0](x)
        found: Tensor = self.used(x)
        return found


@pytest.mark.parametrize(("case", "paths", "reason"), [
    ("dead", ["spare"], ""), ("no site", ["spare"], ""),
    ("encode", [], ""), ("features", [], ""), ("labels", [], ""), ("weight", [], ""), ("asked", [], ""),
    ("expert", ["experts.1"], "experts.0, which is of the same kind, does"),
    ("kind", ["spare"], "without it the model does not run (AssertionError"),
    ("more", ["spare"], "it holds more than its weight and bias"),
    ("tied", ["other"], ""),
])  # fmt: skip
def test_what_counts_as_dead(case: str, paths: list[str], reason: str) -> None:
    model = build_model(Spare(case), case)
    held = sorted(model.module.state_dict())
    found = find_unused_layers(model, [model.module.example()])  # type: ignore[operator]
    assert [fold.path for fold in found] == paths
    assert all(reason in fold.reason and bool(reason) == bool(fold.reason) for fold in found)
    assert sorted(model.module.state_dict()) == held


def test_bytes_of_what_is_no_site() -> None:
    (fold,) = find_unused_layers(build_model(Spare("no site"), "s"), [{"x": torch.zeros(1, 4)}])
    assert fold.tensor_bytes == (4 * 4 * 4 + 4) * 4
    (fold,) = find_unused_layers(build_model(Spare("dead"), "s"), [{"x": torch.zeros(1, 4)}])
    assert fold.tensor_bytes == 0


@pytest.mark.parametrize("name", ["fusion", "whisper", "llava"])
@pytest.mark.parametrize("lacking", ["pixel_values", "input_features", "input_ids"])
def test_what_no_sample_used_is_not_dead(tiny_model: Any, name: str, lacking: str) -> None:
    """Of a model of several modalities the rest stays, for a reason each; its own example uses all of it."""
    model, whole = tiny_model(name), make_miniature_batch(name, 2)
    part = {key: value for key, value in whole.items() if key != lacking}
    found = find_unused_layers(model, [part])
    assert all(fold.reason for fold in found) and bool(found) == (lacking in whole)
    assert not find_unused_layers(model, [part], [whole])


def test_nothing_to_run_it_on() -> None:
    assert find_unused_layers(build_model(Spare("dead"), "s"), []) == []


def test_units_that_nobody_else_reads() -> None:
    """A layer that never runs stays where its neighbour does and would be cut by what it reads."""
    model = build_model(Spare("dead"), "s")
    axis = Axis("model.0.neurons", 4)
    used, spare = (model.layout.get_site(path) for path in ("used", "spare"))
    model.layout = replace(model.layout, sites=(replace(used, output_axis=axis), replace(spare, input_axis=axis)))
    (fold,) = find_unused_layers(model, [{"x": torch.zeros(1, 4)}])
    assert "nobody else reads the units of model.0.neurons" in fold.reason


def test_every_miniature_runs_as_a_whole(tiny_model: Any) -> None:
    for name in ("clip", "whisper", "llama", "lstm"):
        assert not find_unused_layers(tiny_model(name), [make_miniature_batch(name, 1)]), name
