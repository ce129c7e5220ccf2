"""The search itself, with files that are made up: what is said, what must not be, and where it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from trimodal.errors import InputError
from trimodal.runtimes.generation import adjust_scores, generate
from trimodal.runtimes.generation_settings import GenerationSettings, read_settings
from trimodal.runtimes.part import Part
from trimodal.runtimes.whisper_prompt import make_whisper_prompt

WORDS = 8


class Counter:
    """A decoder whose next token is the last one's successor, and which remembers what it was called with."""

    input_names: Sequence[str] = ("input_ids", "attention_mask", "position_ids", "past_key_values.0.key")
    output_names: Sequence[str] = ("logits", "present.0.key")

    def __init__(self) -> None:
        self.calls: list[dict[str, NDArray[Any]]] = []

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.calls.append(dict(inputs))
        ids = inputs["input_ids"]
        logits = np.eye(WORDS, dtype=np.float32)[(ids + 1) % WORDS]
        new = np.zeros((len(ids), 1, ids.shape[1], 2), np.float32)
        return {"logits": logits, "present.0.key": np.concatenate([inputs["past_key_values.0.key"], new], axis=2)}

    def list_integer_nodes(self) -> Sequence[str]:
        return ()

    def close(self) -> None:
        """Nothing to let go of."""


@pytest.fixture
def counter() -> Counter:
    return Counter()


def parts_of(session: Counter) -> dict[str, Part]:
    return {"model": Part(session, {"input_ids": ("batch_size", "n"), "past_key_values.0.key": ("batch_size", 1, "past", 2)})}


def test_each_row_ends_for_itself_and_is_padded(counter: Counter) -> None:
    found = generate(parts_of(counter), {"input_ids": np.array([[1, 2], [0, 4]])}, GenerationSettings(end=(6, 7), pad=0, max_new_tokens=9))
    assert found.tolist() == [[3, 4, 5, 6], [5, 6, 0, 0]]


def test_only_the_new_token_goes_in_and_positions_skip_the_padding(counter: Counter) -> None:
    inputs = {"input_ids": np.array([[1, 2, 3], [0, 0, 3]]), "attention_mask": np.array([[1, 1, 1], [0, 0, 1]])}
    generate(parts_of(counter), inputs, GenerationSettings(max_new_tokens=3))
    first, second, third = counter.calls
    assert first["position_ids"].tolist() == [[0, 1, 2], [0, 0, 0]] and first["past_key_values.0.key"].shape == (2, 1, 0, 2)
    assert second["input_ids"].tolist() == [[4], [4]] and second["position_ids"].tolist() == [[3], [1]]
    assert third["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert third["past_key_values.0.key"].shape == (2, 1, 4, 2)


def test_scores_that_must_not_win() -> None:
    settings = GenerationSettings(suppressed=(1,), suppressed_first=(2,), end=(3,), min_new_tokens=1, repetition_penalty=2.0)
    logits = np.array([[4.0, 9.0, 9.0, 9.0, -4.0, 1.0]])
    first = adjust_scores(logits, np.array([[0, 4]]), 2, settings)
    assert first.tolist() == [[2.0, -np.inf, -np.inf, -np.inf, -8.0, 1.0]]
    later = adjust_scores(logits, np.array([[0, 4, 5]]), 2, settings)
    assert later.tolist() == [[2.0, -np.inf, 9.0, 9.0, -8.0, 0.5]]


def test_settings_come_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({
        "text_config": {"eos_token_id": 9, "pad_token_id": 1}, "image_token_index": 32, "bos_token_id": 5, "max_target_positions": 448,
    }))  # fmt: skip
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3], "max_length": 30, "suppress_tokens": [7]}))
    found = read_settings(tmp_path)
    assert (found.end, found.pad, found.image_token, found.suppressed, found.start) == ((2, 3), 1, 32, (7,), 5)
    assert found.count_new_tokens(4) == 26 and found.with_changes(max_new_tokens=3).count_new_tokens(4) == 3
    assert found.with_changes(max_new_tokens=500).count_new_tokens(4) == 444
    with pytest.raises(InputError, match="no setting 'max_tokens'"):
        found.with_changes(max_tokens=3)


def test_another_search_is_refused(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"num_beams": 4}))
    with pytest.raises(InputError, match="num_beams 4, expected 1"):
        read_settings(tmp_path)


def test_files_that_do_not_generate_are_refused(counter: Counter) -> None:
    with pytest.raises(InputError, match="text_model, vision_model do not generate"):
        generate({"text_model": Part(counter, {}), "vision_model": Part(counter, {})}, {}, GenerationSettings())
    with pytest.raises(InputError, match="input_ids is missing"):
        generate(parts_of(counter), {"ids": np.zeros((1, 1))}, GenerationSettings())


def test_the_older_way_of_telling_whisper() -> None:
    def hear(tokens: NDArray[np.int64]) -> NDArray[Any]:
        assert tokens.tolist() == [[50], [50]]
        return np.array([[0, 0, 3, 9, 0], [0, 0, 5, 4, 9]])

    settings = GenerationSettings(start=50, forced=((1, None), (2, 8)), languages={"<|a|>": 2, "<|b|>": 3}, no_timestamps=9)
    assert make_whisper_prompt(settings, 2, hear).tolist() == [[50, 3, 8, 9], [50, 2, 8, 9]]
    assert make_whisper_prompt(settings.with_changes(forced=((1, 2), (2, 8))), 1, hear).tolist() == [[50, 2, 8, 9]]
    with pytest.raises(InputError, match="decoder_start_token_id"):
        make_whisper_prompt(GenerationSettings(), 1, hear)


def test_torch_is_not_needed() -> None:
    """Neither to run what was exported, nor in the process that checks it."""
    modules = "import sys, trimodal.runtimes.exported_model, trimodal.runtimes.check_process"
    program = f"{modules}; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(("inputs", "said"), [
    ({"input_ids": np.array([1, 2])}, r"input_ids has the shape \(2,\); expected \(batch, tokens\)"),
    ({"input_ids": np.zeros((1, 0), np.int64)}, "at least one token"),
    ({"input_ids": np.array([[1, 2]]), "attention_mask": np.array([[1]])}, r"attention_mask has the shape \(1, 1\) and input_ids \(1, 2\)"),
    ({}, "input_ids is missing"),
])  # fmt: skip
def test_prompts_that_are_none_are_refused(counter: Counter, inputs: dict[str, NDArray[Any]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        generate(parts_of(counter), inputs, GenerationSettings())


@pytest.mark.parametrize(("changed", "said"), [
    ({"max_new_tokens": 0}, "max_new_tokens is 0; expected a whole number from 1"),
    ({"max_new_tokens": -1}, "from 1"),
    ({"max_new_tokens": 2.5}, r"2\.5; expected a whole number"),
    ({"min_new_tokens": -1}, "from 0"),
    ({"repetition_penalty": 0}, "repetition_penalty is 0; expected a number above 0"),
    ({"num_beams": 4}, "num_beams belongs to another search"),
    ({"language": "en"}, "language is 'en', and this model has no tokens for it"),
    ({"lenght": 4}, "no setting 'lenght'"),
])  # fmt: skip
def test_settings_that_cannot_be_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        GenerationSettings().with_changes(**changed)
