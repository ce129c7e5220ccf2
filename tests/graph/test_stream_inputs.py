"""What layers read from a stream, as the model runs, and as a narrower copy of it does."""

from __future__ import annotations

import copy

import pytest
import torch

from trimodal.core import Place
from trimodal.graph.stream_inputs import collect_paired_moments, collect_stream_inputs, copy_narrowed
from trimodal.loading.load import build_model
from trimodal.methods.prune.unit_consumers import predict_errors
from trimodal.networks.tiny import make_miniature, make_miniature_batch


def test_layers_that_share_an_input_make_one_reading() -> None:
    model = build_model(make_miniature("llama"), "llama")
    place = Place.for_label(model.layout, "text.width")
    with torch.no_grad():
        readings = collect_stream_inputs(model, place, [make_miniature_batch("llama", 2)])
    names = [[site.name for site in reading.sites] for reading in readings]
    block = [["text.{}.query", "text.{}.key", "text.{}.value"], ["text.{}.gate", "text.{}.up"]]
    assert names == [[n.format(i) for n in part] for i in (0, 1) for part in block] + [["text.embedding"]]
    assert all(reading.moments["text"].tokens == 21 for reading in readings)  # 24, of which three are padding
    assert predict_errors(model, readings, range(32)) == {"text": 0.0}
    assert predict_errors(model, readings, [])["text"] == pytest.approx(1.0)


def test_a_narrowed_copy_leaves_the_model_and_is_seen_beside_it() -> None:
    model, batches = build_model(make_miniature("llama"), "llama"), [make_miniature_batch("llama", 2)]
    place, kept = Place.for_label(model.layout, "text.width"), list(range(0, 32, 2))
    before = copy.deepcopy(model.module.state_dict())
    norm = "model.layers.0.input_layernorm.weight"
    with torch.no_grad():
        group = collect_stream_inputs(model, place, batches)[0]
        narrow = copy_narrowed(model, place, kept, {norm: torch.full((16,), 2.0)})
        seen = collect_paired_moments(model, narrow, place, group, kept, batches)["text"]
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert narrow.get_parameter(norm).tolist() == [2.0] * 16 and narrow.get_parameter("model.norm.weight").shape == (16,)
    gone = [i for i in range(32) if i not in kept]
    assert seen.tokens == 21 and not seen.second[gone].any() and float(seen.second[32, 32]) == pytest.approx(1.0)
    assert torch.allclose(seen.mean[kept], seen.second[32, kept], atol=1e-6)
