"""The ONNX exporter writes codes in the type that the targets of that format say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trimodal.core.stored_site import StoredSite, describe_weight
from trimodal.exporting.layer_codes import LayerCodes
from trimodal.exporting.onnx_graph.integer_tensors import scale_codes
from trimodal.layers import Affine, CodedWeight
from trimodal.maths.grid import Uniform, fit_grid
from trimodal.targets import read_target

TYPES = {"INT4": "s4", "UINT4": "u4", "INT8": "s8", "UINT8": "u8"}


@pytest.mark.parametrize("name", ["onnxruntime-avx2", "onnxruntime-vnni", "transformersjs", "openvino-vnni"])
@pytest.mark.parametrize("grid", ["positive", "symmetric", "asymmetric"])
@pytest.mark.parametrize(("bits", "group"), [(8, "channel"), (8, 32), (4, "channel"), (4, 32), (3, 32), (6, "tensor")])
def test_types_of_codes(name: str, grid: Uniform, bits: int, group: int | str) -> None:
    weight, target = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)), read_target(name)
    fitted = fit_grid(weight, bits, group, grid)
    options = {"shape": [32, 64], "dtype": "float32", **fitted.storage_options()}
    coded = CodedWeight("quantized", options, fitted.storage_tensors(fitted.encode(weight)))
    affine = coded.affine()
    assert isinstance(affine, Affine)
    written = scale_codes(LayerCodes("x", nn.Linear(64, 32), affine, None, None, coded), target.unsigned)
    stored = StoredSite("x", (32, 64), "float32", "quantized", 0, describe_weight("quantized", options))
    for layer in ("linear", "embedding"):
        answer = target.answer_site(layer, stored)  # type: ignore[arg-type]
        assert written is not None
        if answer.level == "native":
            assert answer.weight_type == TYPES[written.dtype.name]
