"""What both formats for phones do to a model before another environment converts it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from trimodal.errors import IntegrityError, ModelError
from trimodal.exporting.component import Component, call_forward
from trimodal.exporting.layer_codes import take_layer_codes_
from trimodal.exporting.litert import find_input_factors
from trimodal.exporting.mobile_graph.coded_layers import place_codes_
from trimodal.exporting.mobile_graph.fixed_inputs import fix_shapes
from trimodal.exporting.mobile_graph.integer_weights import IntegerWeight, list_layouts
from trimodal.exporting.mobile_graph.prepare import check_codes, check_scales
from trimodal.loading.load import build_model


def test_kernels_of_one_channel_may_have_their_outputs_last() -> None:
    codes = torch.arange(2 * 1 * 2 * 2, dtype=torch.int8).view(2, 1, 2, 2)
    layouts = list_layouts(IntegerWeight(codes, torch.ones(2), 8), signed=True)
    assert bytes([0, 4, 1, 5, 2, 6, 3, 7]) in layouts and bytes(range(8)) in layouts


def test_other_codes_and_other_scales_are_found_out(tmp_path: Path) -> None:
    weight = IntegerWeight(torch.tensor([[3, -5], [7, 9]], dtype=torch.int8), torch.tensor([0.25, 0.75]), 8)
    file = tmp_path / "model"
    file.write_bytes(b"head" + weight.codes.numpy().tobytes() + b"between" + weight.scale.numpy().tobytes())
    check_codes(file, {"fc": weight}, signed=True)
    assert check_scales(file, {"fc": weight}) == 1
    swapped = replace(weight, scale=weight.scale.flip(0))
    with pytest.raises(IntegrityError, match=r"1 layers have other scales in model .*first fc"):
        check_scales(file, {"fc": swapped})
    assert check_scales(file, {"fc": swapped}, changed=["fc"]) == 0
    with pytest.raises(IntegrityError, match="other codes"):
        check_codes(file, {"fc": replace(weight, codes=weight.codes.flip(0))}, signed=True)


class _OneChannel(nn.Module):
    modalities = ("image",)

    def __init__(self) -> None:
        super().__init__()
        self.image_patches = nn.Conv2d(1, 4, (3, 2), stride=(2, 1), padding=(1, 0))
        self.image_head = nn.Linear(4, 2)

    def example(self) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.zeros(1, 1, 8, 8)}

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.image_head(self.image_patches(pixel_values).mean(dim=(2, 3)))
        return found


def test_a_convolution_of_one_channel_is_a_product_of_its_patches(compressed) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    pictures = torch.randn(8, 1, 8, 8)
    step = {"quantize.smooth": {"mode": "token", "strength": 0.0}}
    module = compressed(build_model(_OneChannel(), "one"), [step], given=[{"pixel_values": pictures}]).model.module
    layers = take_layer_codes_(module)
    wanted = module.image_patches(pictures[:1])
    placed = place_codes_(module, layers.values(), "integer")
    assert set(placed.coded) == {"image_patches", "image_head"}
    found = module.image_patches(pictures[:1])
    assert found.shape == wanted.shape == (1, 4, 4, 7)
    assert module.image_patches.codes.shape == (4, 6)  # what the kernel reads is a constant of two dimensions
    assert torch.equal(module.image_patches.weight, layers["image_patches"].affine.decode())
    assert 0 < (found - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_factors_of_inputs_are_named_and_those_of_outputs_are_not() -> None:
    module = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.Conv1d(1, 1, 1), nn.BatchNorm1d(1))
    assert find_input_factors(module) == {"0.weight", "0.bias"}
    module[1].register_buffer("columns", torch.ones(4))
    assert find_input_factors(module) == {"0.weight", "0.bias", "1.columns"}


def test_sounds_keep_their_length_and_growing_pasts_are_refused() -> None:
    sound = {"input_values": torch.zeros(2, 500)}
    component = Component("model", nn.Identity(), sound, call_forward, ("y",), {"input_values": {0: "batch_size", 1: "sequence_length"}})
    assert fix_shapes(component).inputs["input_values"].shape == (1, 500)
    growing = replace(component, inputs={"past_key_values.0.key": torch.zeros(2, 1, 5, 4)})
    with pytest.raises(ModelError, match="generates word by word"):
        fix_shapes(growing)
