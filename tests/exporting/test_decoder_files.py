"""Decoders as one ONNX file with their past: the names that others know, torch's tokens, integers inside, nothing twice."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers as hf

import trimodal
from trimodal.errors import InputError
from trimodal.exporting import onnx as onnx_format
from trimodal.networks.tiny import write_miniature
from trimodal.runtimes import RUNTIMES
from trimodal.runtimes.exported_model import open_export
from trimodal.runtimes.generation import generate
from trimodal.runtimes.generation_settings import GenerationSettings
from trimodal.runtimes.part import Part

WEIGHTS = [{"quantize.rtn": {"where": "*", "bits": 8, "group": "channel"}}]
FULL = [
    {"quantize.rtn": {"where": "*embedding*", "bits": 8, "group": "channel"}},
    {"quantize.smooth": {"where": "*", "bits": 8, "mode": "static"}},
]
PROMPTS = {
    "input_ids": torch.tensor([[2, 9, 30, 17, 22, 41, 8], [0, 0, 0, 2, 33, 12, 25]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1]]),
}


@pytest.fixture(scope="module")
def llama(speak: Callable[..., Any]) -> Any:
    """Grouped queries, and one weight for words and head, all in 8 bits."""
    return speak("llama", 3, WEIGHTS)


@pytest.fixture(scope="module")
def qwen3(speak: Callable[..., Any]) -> Any:
    """Norms of queries and keys; weights and inputs in 8 bits."""
    return speak("qwen3", 6, FULL)


def test_inputs_and_outputs_are_called_as_others_call_them(llama: Any) -> None:
    (part,) = llama.result.components
    assert part.files == ("onnx/model_quantized.onnx",)
    past = {f"past_key_values.{n}.{what}": ["batch_size", 2, "past_sequence_length", 8] for n in (0, 1) for what in ("key", "value")}
    new, whole = ["batch_size", "sequence_length"], ["batch_size", "past_sequence_length + sequence_length"]
    assert part.inputs == {"input_ids": new, "attention_mask": whole, "position_ids": new, **past}
    assert list(part.outputs) == ["logits", *(name.replace("past_key_values", "present") for name in past)]


@pytest.mark.parametrize("rows", [1, 2])
def test_tokens_are_those_of_torch(llama: Any, rows: int) -> None:
    llama.check_tokens({name: value[:rows] for name, value in PROMPTS.items()}, new=12, tie=1e-3, at_least=8 * rows)


def test_tokens_are_those_of_the_simulation_where_inputs_are_rounded_too(qwen3: Any) -> None:
    qwen3.check_tokens(PROMPTS, new=12, tie=0.05, at_least=8)


def test_a_prompt_in_two_calls_is_a_prompt_in_one(qwen3: Any) -> None:
    part = qwen3.parts["model"]
    ids, positions = PROMPTS["input_ids"].numpy()[:1], np.arange(7)[None]
    ones, past = np.ones((1, 7), np.int64), part.make_empty_past(1)
    whole = part.session.run({"input_ids": ids, "attention_mask": ones, "position_ids": positions, **past})
    first = part.session.run({"input_ids": ids[:, :4], "attention_mask": ones[:, :4], "position_ids": positions[:, :4], **past})
    past = {name.replace("present", "past_key_values"): value for name, value in first.items() if name != "logits"}
    rest = part.session.run({"input_ids": ids[:, 4:], "attention_mask": ones, "position_ids": positions[:, 4:], **past})
    assert rest["logits"] == pytest.approx(whole["logits"][:, 4:], abs=1e-4)
    assert rest["present.1.value"] == pytest.approx(whole["present.1.value"], abs=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("llama", "MatMulNBits"), ("qwen3", "MatMulIntegerToFloat")])
def test_every_product_is_one_of_integers(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    nodes = request.getfixturevalue(name).parts["model"].session.list_integer_nodes()
    products = [node for node in nodes if node.split()[0] in ("MatMulNBits", "MatMulIntegerToFloat")]
    assert len(products) == 2 * 7 + 1 and sum(node.startswith(kind) for node in products) >= 2 * 7


def test_one_weight_for_words_and_head_is_stored_once(llama: Any) -> None:
    graph = llama.read_graph("model")
    large = [tensor for tensor in graph.initializer if np.prod(tensor.dims) == 49 * 32]
    assert [(tensor.name, tensor.data_type) for tensor in large] == [("model.embed_tokens.codes", onnx.TensorProto.INT8)]


def test_keys_and_values_are_not_copied_for_each_head_of_queries(llama: Any) -> None:
    kinds = [node.op_type for node in llama.read_graph("model").node]
    assert kinds.count("Softmax") == 2 and "GatherND" not in kinds and kinds.count("Expand") <= 2


def test_heads_removed_from_one_layer_only(speak: Callable[..., Any]) -> None:
    steps = [{"prune.heads": {"where": "text.0.heads", "sparsity": 0.5}}]
    pruned = speak("llama", 3, steps)
    (part,) = pruned.result.components
    assert part.inputs["past_key_values.0.key"][1] == 1 and part.inputs["past_key_values.1.key"][1] == 2
    pruned.check_tokens(PROMPTS, new=8, tie=1e-3, at_least=12)


def test_the_loop_that_the_docs_show(llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"<!-- tested: tests/exporting/test_decoder_files.py -->\n```python\n(.*?)```", text, re.DOTALL)
    shutil.copytree(llama.folder, tmp_path / "llama-int8" / "onnx")
    monkeypatch.chdir(tmp_path)
    said: dict[str, Any] = {}
    exec(compile(code, "export.md", "exec"), said)
    part = Part(RUNTIMES["onnxruntime"](Path("llama-int8/onnx/onnx/model_quantized.onnx"), 1), llama.parts["model"].shapes)
    ours = generate({"model": part}, {"input_ids": PROMPTS["input_ids"].numpy()[:1]}, GenerationSettings(max_new_tokens=12))
    assert said["tokens"][0].tolist() == [*PROMPTS["input_ids"][0].tolist(), *ours[0].tolist()]


def test_padding_on_the_right_is_refused(llama: Any) -> None:
    turned = {name: value.flip(1) for name, value in PROMPTS.items()}
    with pytest.raises(InputError, match="padded on the left"):
        llama.say(turned)


def test_a_model_in_bfloat16_whose_tensors_lie_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_format, "SINGLE_FILE_BYTES", 1000)
    hf.AutoModelForCausalLM.from_pretrained(write_miniature("llama", tmp_path / "llama")).bfloat16().save_pretrained(tmp_path / "llama")
    folder = trimodal.export(tmp_path / "llama", "onnx", tmp_path / "out").folder
    assert (folder / "onnx" / "model.onnx_data").stat().st_size > 80_000 and (folder / "onnx" / "model.onnx").stat().st_size < 80_000
    model = open_export(folder)
    said: Mapping[str, Any] = {name: value.numpy() for name, value in PROMPTS.items()}
    assert model.generate(said, max_new_tokens=3).shape == (2, 3)
    with pytest.raises(InputError, match="no component 'decoder'; it has model"):
        model.run("decoder", said)
    model.close()
