"""LLaVA as three files: what sees, what embeds words, and the decoder of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from trimodal.errors import InputError

STEPS = [{"quantize.rtn": {"where": "*", "bits": 8, "group": "channel"}}]
IDS = torch.tensor([[2, 9, *[4] * 16, 30, 17, 22], [0, 2, *[4] * 16, 33, 12, 25]])
ASKED = {
    "input_ids": IDS, "attention_mask": (IDS != 0).long(),
    "pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)),
}  # fmt: skip


@pytest.fixture(scope="module")
def llava(speak: Callable[..., Any]) -> Any:
    """Weights in 8 bits."""
    return speak("llava", 1, STEPS)


def test_files_and_names_are_those_of_transformers_js(llava: Any) -> None:
    found = {part.name: (list(part.inputs), list(part.outputs)) for part in llava.result.components}
    assert found["vision_encoder"] == (["pixel_values"], ["image_features"])
    assert found["embed_tokens"] == (["input_ids"], ["inputs_embeds"])
    past = [f"{n}.{what}" for n in (0, 1) for what in ("key", "value")]
    assert found["decoder_model_merged"] == (
        ["inputs_embeds", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in past)],
        ["logits", *(f"present.{name}" for name in past)],
    )
    assert {part.name: part.outputs[found[part.name][1][0]] for part in llava.result.components} == {
        "vision_encoder": ["batch_size", 16, 32], "embed_tokens": ["batch_size", "sequence_length", 32],
        "decoder_model_merged": ["batch_size", "sequence_length", 49],
    }  # fmt: skip


@pytest.mark.parametrize("rows", [1, 2])
def test_tokens_are_those_of_torch(llava: Any, rows: int) -> None:
    llava.check_tokens({name: value[:rows] for name, value in ASKED.items()}, new=12, tie=1e-3, at_least=12 * rows)


def test_words_are_looked_up_as_codes(llava: Any) -> None:
    graph = llava.read_graph("embed_tokens")
    (table,) = [tensor for tensor in graph.initializer if np.prod(tensor.dims) == 49 * 32]
    assert table.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    found = llava.parts["embed_tokens"].session.run({"input_ids": np.array([[9, 30]])})["inputs_embeds"]
    with torch.no_grad():
        wanted = llava.simulation.get_input_embeddings()(torch.tensor([[9, 30]]))
    assert found == pytest.approx(wanted.numpy(), abs=1e-6)


def test_images_that_do_not_fit_their_places_are_refused(llava: Any) -> None:
    with pytest.raises(InputError, match="32 image tokens and the images 16 features"):
        llava.say({**ASKED, "pixel_values": ASKED["pixel_values"][:1]})
