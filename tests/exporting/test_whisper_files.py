"""Whisper as encoder and one decoder for all steps: torch's tokens with cache, nothing computed or stored twice, settings honoured."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trimodal.errors import InputError

FULL = [
    {"quantize.rtn": {"where": "*embedding*", "bits": 8, "group": "channel"}},
    {"quantize.smooth": {"where": "*", "bits": 8, "mode": "static"}},
]


def make_sound(loudness: float = 1.0) -> dict[str, Tensor]:
    """Two sounds."""
    return {"input_features": loudness * torch.randn(2, 16, 100, generator=torch.Generator().manual_seed(1))}


@pytest.fixture(scope="module")
def whisper(speak: Callable[..., Any]) -> Any:
    """In floats."""
    return speak("whisper", 3)


@pytest.fixture(scope="module")
def whisper_int8(speak: Callable[..., Any]) -> Any:
    """Weights and inputs in 8 bits."""
    return speak("whisper", 3, FULL)


def test_inputs_and_outputs_are_called_as_others_call_them(whisper_int8: Any) -> None:
    encoder, decoder = whisper_int8.result.components
    assert (encoder.files, decoder.files) == (("onnx/encoder_model_quantized.onnx",), ("onnx/decoder_model_merged_quantized.onnx",))
    assert (list(encoder.inputs), list(encoder.outputs)) == (["input_features"], ["last_hidden_state"])
    states = [f"{n}.{part}.{what}" for n in (0, 1) for part in ("decoder", "encoder") for what in ("key", "value")]
    past = [f"past_key_values.{state}" for state in states]
    assert list(decoder.inputs) == ["input_ids", "encoder_hidden_states", *past, "use_cache_branch"]
    assert list(decoder.outputs) == ["logits", *(f"present.{state}" for state in states)]
    assert decoder.inputs["past_key_values.0.encoder.key"] == ["batch_size", 4, "past_encoder_sequence_length", 8]
    assert decoder.outputs["present.0.encoder.key"] == ["batch_size", 4, "encoder_sequence_length", 8]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("loudness", [1.0, 4.0])
def test_tokens_are_those_of_torch(whisper: Any, rows: int, loudness: float) -> None:
    """Row 0 of the softer sounds ends early, and is padded."""
    sound = {name: value[2 - rows :] for name, value in make_sound(loudness).items()}
    whisper.check_tokens(sound, new=12, tie=1e-3, at_least=12)


def test_tokens_are_those_of_the_simulation_where_inputs_are_rounded_too(whisper_int8: Any) -> None:
    whisper_int8.check_tokens(make_sound(4.0), new=12, tie=0.02, at_least=12)


@pytest.fixture
def multilingual(whisper: Any) -> Iterator[Any]:
    """The same with the settings of a model of many languages."""
    kept = copy.deepcopy(whisper.simulation.generation_config)
    settings = whisper.simulation.generation_config
    settings.lang_to_id, settings.task_to_id = {"<|en|>": 10, "<|de|>": 11}, {"transcribe": 12, "translate": 13}
    settings.no_timestamps_token_id, settings.is_multilingual = 47, True
    settings.suppress_tokens, settings.begin_suppress_tokens = [32, 24], [39, 12]
    settings.save_pretrained(whisper.folder)
    yield whisper
    whisper.simulation.generation_config = kept
    kept.save_pretrained(whisper.folder)


@pytest.mark.parametrize("options", [{}, {"language": "de"}, {"language": "en", "task": "translate"}])
def test_language_task_and_what_must_not_be_said(multilingual: Any, options: Mapping[str, str]) -> None:
    multilingual.check_tokens(make_sound(4.0), new=8, tie=1e-3, at_least=8, **options)
    assert not {32, 24} & set(multilingual.say(make_sound(4.0), max_new_tokens=8, **options).reshape(-1).tolist())


def test_an_unknown_language_is_refused(multilingual: Any) -> None:
    with pytest.raises(InputError, match="no language 'xx'"):
        multilingual.say(make_sound(), language="xx")


def test_a_prompt_beyond_the_positions_is_refused(whisper: Any) -> None:
    with pytest.raises(InputError, match="24 positions"):
        whisper.say({**make_sound(), "decoder_input_ids": torch.full((2, 24), 9)})


def test_what_was_heard_is_computed_once(whisper_int8: Any) -> None:
    decoder = whisper_int8.parts["decoder_model_merged"]
    states = whisper_int8.parts["encoder_model"].session.run({k: v.numpy() for k, v in make_sound().items()})["last_hidden_state"]
    run = decoder.session.run
    ids, off, on = np.array([[2, 9, 30]] * 2), np.array([False]), np.array([True])
    whole = run({"input_ids": ids, "encoder_hidden_states": states, "use_cache_branch": off, **decoder.make_empty_past(2)})
    first = run({"input_ids": ids[:, :2], "encoder_hidden_states": states, "use_cache_branch": off, **decoder.make_empty_past(2)})
    past = {name.replace("present", "past_key_values"): value for name, value in first.items() if name != "logits"}
    rest = run({"input_ids": ids[:, 2:], "encoder_hidden_states": 1e9 * states, "use_cache_branch": on, **past})
    assert first["present.1.encoder.value"].shape == (2, 4, 50, 8) and rest["present.1.encoder.value"].shape == (2, 4, 0, 8)
    assert rest["logits"] == pytest.approx(whole["logits"][:, 2:], abs=1e-4)


def test_every_product_is_one_of_integers_and_in_the_graph_itself(whisper_int8: Any) -> None:
    nodes = whisper_int8.parts["decoder_model_merged"].session.list_integer_nodes()
    assert sum(node.startswith("MatMulIntegerToFloat") for node in nodes) == 2 * 10
    assert not [node for node in whisper_int8.read_graph("decoder_model_merged").node if node.op_type == "If"]
    assert len(whisper_int8.parts["encoder_model"].session.list_integer_nodes()) == 2 * 6


def test_no_weight_is_in_two_files_or_twice_in_one(whisper_int8: Any) -> None:
    found = {name: whisper_int8.read_graph(name).initializer for name in ("encoder_model", "decoder_model_merged")}
    large = {name: [t.name for t in tensors if np.prod(t.dims) >= 24 * 32] for name, tensors in found.items()}
    assert len(large["decoder_model_merged"]) == 2 * 10 + 2 and all(name.endswith(".codes") for name in large["decoder_model_merged"])
    assert not set(large["encoder_model"]) & set(large["decoder_model_merged"])
