"""Training with quantization in the loop: it recovers, begins where the quantizers left off, and is refused where nothing is coded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.core import FitRecord
from trimodal.errors import RecipeError
from trimodal.formats.stock_load_check import collect_outputs
from trimodal.layers import CodedWeight
from trimodal.methods.options import build_config
from trimodal.methods.train.quantized import METHOD, fit
from trimodal.models.model import Model
from trimodal.networks.tiny import make_miniature_batch
from trimodal.training.batch_norms import estimate_batch_norms_

INPUTS: dict[str, Any] = {"quantize.smooth": {"where": "*", "bits": 3, "clip": "max", "strength": 0.5}}
TWO_BITS: dict[str, Any] = {"quantize.rtn": {"where": "*", "bits": 2, "group": 16}}


def losses_of(done: Any) -> list[float]:
    return [record.losses["loss"] for record in done.records if isinstance(record, FitRecord)]


def codes_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if name.endswith("stored.codes")}


@pytest.mark.parametrize(("name", "quantizer", "options"), [
    ("fusion", INPUTS, {}), ("fusion", INPUTS, {"grid": "lsq+", "inputs": "pact"}), ("resnet", TWO_BITS, {}),
    ("llama", {"quantize.rtn": {"where": "*", "bits": 2, "grid": "kmeans"}}, {"codebook": "soft"}),
])  # fmt: skip
def test_what_rounding_lost_comes_back(compressed: Any, name: str, quantizer: Any, options: Any) -> None:
    done = compressed(name, [quantizer, {"train.quantized": {"steps": 30, "learning_rate": 2e-3, "batch": 4, **options}}])
    losses = losses_of(done)
    assert len(losses) == 30
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_first_step_sees_what_the_quantizers_left(compressed: Any) -> None:
    """The loss of the first step is that of the model before it, on the same batch."""
    done = compressed("fusion", [INPUTS])
    batch = make_miniature_batch("fusion", 4)
    kept = codes_of(copy.deepcopy(done.model.module))

    def first_loss(rate: float) -> float:
        student = Model(**{**vars(done.model), "module": copy.deepcopy(done.model.module)})
        config = build_config(METHOD.config, {"steps": 1, "learning_rate": rate, "batch": 4}, "here")
        (record,) = fit(student, done.original, lambda size: [batch], config, 0)
        after = codes_of(student.module)
        assert (rate > 1e-7) is any(not torch.equal(kept[name], after[name]) for name in kept)
        return record.losses["loss"]

    assert first_loss(1e-8) == first_loss(1e-1) > 0


def test_codes_scales_and_ranges_move_and_keep_their_kind(compressed: Any) -> None:
    before = compressed("fusion", [INPUTS]).model
    after = compressed("fusion", [INPUTS, {"train.quantized": {"steps": 5, "learning_rate": 1e-2, "batch": 4}}]).model
    assert before.layout == after.layout
    old, new = before.module.state_dict(), after.module.state_dict()
    assert {name: (t.shape, t.dtype) for name, t in old.items()} == {name: (t.shape, t.dtype) for name, t in new.items()}
    for ending in ("stored.codes", "stored.scale", "stored.input_scale", "norm.weight"):
        names = [name for name in old if name.endswith(ending)]
        assert any(not torch.equal(old[name], new[name]) for name in names), ending
    for part in after.module.modules():
        if isinstance(part, CodedWeight):
            assert bool((part.get_buffer("scale") > 0).all())


def test_nothing_but_weights_is_learned_where_that_is_asked(compressed: Any) -> None:
    options = {"steps": 5, "learning_rate": 1e-2, "batch": 4, "grid": "fixed", "inputs": "fixed"}
    before, after = compressed("fusion", [INPUTS]), compressed("fusion", [INPUTS, {"train.quantized": options}])
    old, new = before.model.module.state_dict(), after.model.module.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old if name.endswith(("stored.scale", "input_scale", "input_zero")))
    assert any(not torch.equal(old[name], new[name]) for name in old if name.endswith("stored.codes"))


@pytest.mark.parametrize("steps", [
    [], [{"prune.magnitude": {"sparsity": 0.5}}], [{"factorize.eigen": {"optional": True}}],
])  # fmt: skip
def test_a_model_that_nothing_quantized_is_refused(compressed: Any, steps: list[Any]) -> None:
    with pytest.raises(RecipeError, match="no step before it quantizes anything; put a quantizer"):
        compressed("fusion", [*steps, {"train.quantized": {}}])


def test_batch_norms_take_the_mean_of_their_batches(tiny_model: Callable[..., Model]) -> None:
    conv, norm = nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3)
    net = nn.Sequential(conv, norm).eval()
    batches = [{"input": torch.randn(4, 1, 5, 5) + shift} for shift in (0.0, 2.0)]
    assert estimate_batch_norms_(net, batches) == 1
    seen = [conv(batch["input"]) for batch in batches]
    assert norm.running_mean is not None and norm.running_var is not None
    assert torch.allclose(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0), atol=1e-6)
    assert torch.allclose(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0), atol=1e-6)
    assert not any(part.training for part in net.modules()) and norm.momentum == 0.1
    kept = norm.running_mean.clone()
    assert estimate_batch_norms_(net, [{"input": torch.randn(1, 1, 5, 5)}]) == 0
    assert torch.equal(norm.running_mean, kept)
    assert estimate_batch_norms_(tiny_model("bert").module, [make_miniature_batch("bert", 2)]) == 0


def test_same_seed_same_bytes(compressed: Any) -> None:
    steps = [INPUTS, {"train.quantized": {"steps": 3, "batch": 4}}]
    one, other = (compressed("fusion", steps).model.module for _ in range(2))
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in one.state_dict().items())
    batch = make_miniature_batch("fusion", 2)
    first, second = collect_outputs(one, batch), collect_outputs(other, batch)
    assert all(torch.equal(first[key], second[key]) for key in first)
