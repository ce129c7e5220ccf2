"""The multimodal model as one file: in any number of samples, of which each may lack a stream, it says what the model says."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import onnxruntime
import pytest
import torch

from trimodal.exporting.components import split_components
from trimodal.exporting.onnx_graph.float_graph import trace_component
from trimodal.loading.load import build_model
from trimodal.networks.multimodal import MultimodalConfig, MultimodalModel

STREAMS: dict[str, Any] = {
    "image": {"modality": "image", "channels": 1, "length": 8, "patch": 4, "width": 16, "blocks": 0},
    "note": {"modality": "text", "channels": 20, "length": 12, "width": 16, "blocks": 0},
    "vitals": {"modality": "signal", "channels": 3, "length": 10, "patch": 3, "width": 16, "blocks": 1},
}


SLOW = pytest.mark.slow


@pytest.mark.parametrize("fusion", ["hybrid", pytest.param("layerwise", marks=SLOW), pytest.param("late", marks=SLOW)])
def test_streams_can_be_missing_where_the_file_runs(fusion: str) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"fusion_width": 16, "head_dim": 8, "fusion_blocks": 2, "mlp_ratio": 2, "initializer_range": 0.3}
    module = MultimodalModel(MultimodalConfig(streams=STREAMS, fusion=fusion, num_labels=3, **sizes)).eval()
    (component,) = split_components(build_model(module, "streams"))
    session = onnxruntime.InferenceSession(ir.to_proto(trace_component(component)).SerializeToString())
    assert [item.name for item in session.get_inputs()] == [
        "pixel_values", "image_present", "note", "note_mask", "note_present", "vitals", "vitals_mask", "vitals_present",
    ]  # fmt: skip
    steps = torch.ones(3, 10).long()
    steps[2, 4:] = 0
    batch = {
        "pixel_values": torch.randn(3, 1, 8, 8), "image_present": torch.tensor([1, 1, 0]), "note": torch.randint(1, 20, (3, 5)),
        "note_mask": torch.ones(3, 5).long(), "note_present": torch.ones(3).long(), "vitals": torch.randn(3, 10, 3), "vitals_mask": steps,
        "vitals_present": torch.tensor([1, 0, 1]),
    }  # fmt: skip
    (found,) = session.run(["logits"], {name: value.numpy() for name, value in batch.items()})
    with torch.no_grad():
        expected = module(**batch).logits
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)
