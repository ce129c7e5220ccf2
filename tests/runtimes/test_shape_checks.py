"""Arrays that do not fit a file are refused before it runs, and what is no answer to them afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import trimodal
from trimodal.errors import InputError, IntegrityError
from trimodal.networks.tiny import write_miniature
from trimodal.runtimes.model_limits import read_most_tokens
from trimodal.runtimes.shape_checks import check_ids, check_inputs, check_outputs

SHAPES = {"input_ids": ("batch", "length"), "attention_mask": ("batch", "length"), "pixel_values": ("batch", 3, 32, 32)}
IDS = np.ones((2, 5), np.int64)


def test_words_stand_for_one_length_each() -> None:
    assert check_inputs("model", SHAPES, {"input_ids": IDS, "attention_mask": IDS}) == {"batch": 2, "length": 5}


@pytest.mark.parametrize(("inputs", "said"), [
    ({"input_ids": IDS, "attention_mask": IDS[:, :4]}, r"attention_mask of shape \(2, 5\), not \(2, 4\)"),
    ({"input_ids": IDS[0]}, r"input_ids of shape \(batch, length\), not \(5\)"),
    ({"pixel_values": np.ones((1, 3, 48, 48))}, r"pixel_values of shape \(1, 3, 32, 32\), not \(1, 3, 48, 48\)"),
    ({"input_ids": np.ones((1, 9))}, "at most 8 tokens, input_ids has 9"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(inputs: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_inputs("model", SHAPES, inputs, 8)


@pytest.mark.parametrize(("ids", "wrong"), [(np.array([[3, 8]]), "8"), (np.array([[-1, 2]]), "-1")])
def test_words_that_the_model_does_not_know_are_refused(ids: np.ndarray, wrong: str) -> None:
    check_ids({"input_ids": np.array([[0, 7]])}, 8)
    check_ids({"input_ids": ids}, None)
    with pytest.raises(InputError, match=f"input_ids holds {wrong}; the model knows the words 0 to 7"):
        check_ids({"input_ids": ids}, 8)


def test_an_output_of_another_length_is_no_answer() -> None:
    check_outputs("model", {"y": ("batch", "length", 4)}, {"y": np.ones((2, 5, 4))}, {"batch": 2, "length": 5})
    with pytest.raises(IntegrityError, match=r"y of shape \(2, 4, 4\), expected \(2, 5, 4\)"):
        check_outputs("model", {"y": ("batch", "length", 4)}, {"y": np.ones((2, 4, 4))}, {"batch": 2, "length": 5})


def test_files_of_fixed_shapes_are_left_to_their_session() -> None:
    assert check_inputs("model", {"input_ids": (1, 8)}, {"input_ids": IDS}) == {}


@pytest.mark.parametrize(("config", "most"), [
    ({"max_position_embeddings": 512}, 512), ({"text_config": {"max_position_embeddings": 77}}, 77),
    ({"max_position_embeddings": 4096, "rope_theta": 1e4}, None), ({}, None),
])  # fmt: skip
def test_only_a_table_of_positions_has_an_end(config: dict[str, object], most: int | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_most_tokens(tmp_path) == most


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_a_text_longer_than_the_positions_is_refused_by_every_runtime(form: str, tmp_path: Path) -> None:
    trimodal.export(write_miniature("clip", tmp_path / "clip"), form, tmp_path / "out")
    most = json.loads((tmp_path / "clip" / "config.json").read_text())["text_config"]["max_position_embeddings"]
    model = trimodal.open_export(tmp_path / "out")
    fits = np.ones((2, most), np.int64)
    assert model.run("text_model", {"input_ids": fits, "attention_mask": fits})["text_embeds"].shape[0] == 2
    with pytest.raises(InputError, match="input_ids is of float64, expected whole numbers"):
        model.run("text_model", {"input_ids": fits + 0.5, "attention_mask": fits})
    with pytest.raises(InputError, match=r"cannot run the file on these inputs|of shape"):
        model.sessions["text_model"].run({"input_ids": fits, "attention_mask": fits[:, :2, None, None]})
    long = np.ones((1, most + 1), np.int64)
    with pytest.raises(InputError, match=f"at most {most} tokens"):
        model.run("text_model", {"input_ids": long, "attention_mask": long})
    with pytest.raises(InputError, match="has no component 'vison'"):
        trimodal.open_export(tmp_path / "out", only=["vison"])
    with pytest.raises(InputError, match="threads is 0; expected a whole number from 1"):
        trimodal.open_export(tmp_path / "out", threads=0)
