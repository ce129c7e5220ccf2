"""Whisper's times of words after blocks or heads are gone: the same pairs of block and head, by their new numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trimodal.edits.alignment import GENERATION, remap_alignment_blocks_, remap_alignment_heads_, write_alignment_heads
from trimodal.formats import open_model, write_artifact
from trimodal.networks import tiny
from trimodal.networks.tiny import make_miniature_batch, write_miniature


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the miniature of Whisper tell times of words by these heads."""

    def change(*pairs: list[int]) -> None:
        plain = tiny._enlarge_weights_

        def enlarge_(module: Any) -> None:
            plain(module)
            config = module.generation_config
            config.alignment_heads, config.no_timestamps_token_id, config.is_multilingual = list(pairs), 40, False
            config._from_model_config = False  # as of one that was written by hand

        monkeypatch.setattr(tiny, "_enlarge_weights_", enlarge_)

    return change


def times(module: Any) -> torch.Tensor:
    sound = make_miniature_batch("whisper", 2, seed=3)["input_features"]
    found: torch.Tensor = module.generate(sound, return_token_timestamps=True, max_new_tokens=5)["token_timestamps"]
    return found


def test_pairs_follow_by_hand(tiny_model: Any, timed: Any) -> None:
    timed([0, 1], [1, 3], [1, 0])
    model = tiny_model("whisper")
    config = model.module.generation_config
    assert remap_alignment_heads_(model.module, model.layout, "text.1.heads", [2, 3]) == ""
    assert remap_alignment_heads_(model.module, model.layout, "audio.1.heads", [2, 3]) == ""
    assert "2 of 3 heads" in remap_alignment_heads_(model.module, model.layout, "text.1.cross.heads", [1, 3])
    assert config.alignment_heads == [[0, 1], [1, 1]]
    assert remap_alignment_blocks_(model.module, model.layout, "audio", [1]) == ""
    assert "1 of 2 heads" in remap_alignment_blocks_(model.module, model.layout, "text", [1])
    assert config.alignment_heads == [[0, 1]]
    assert "there are none any more" in remap_alignment_heads_(model.module, model.layout, "text.0.cross.heads", [0])
    assert not hasattr(config, "alignment_heads")


@pytest.mark.parametrize("odd", [None, "all", [1, 2], [[1]], [["a", 2]]])
def test_what_is_no_list_of_pairs_is_left_alone(tiny_model: Any, odd: Any) -> None:
    model = tiny_model("whisper")
    model.module.generation_config.alignment_heads = odd
    assert remap_alignment_blocks_(model.module, model.layout, "text", [1]) == ""
    assert model.module.generation_config.alignment_heads == odd


def test_other_models_have_none(tiny_model: Any, tmp_path: Path) -> None:
    for name in ("llama", "clip", "generic"):
        model = tiny_model(name)
        assert remap_alignment_blocks_(model.module, model.layout, "text", [0]) == ""
        write_alignment_heads(model.module, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("step", "pairs"), [
    ({"prune.layers": {"where": "text", "sparsity": 0.5}}, None),
    ({"prune.heads": {"where": "*cross*", "sparsity": 0.5}}, None),
    ({"prune.neurons": {"sparsity": 0.5}}, [[0, 0], [0, 1], [1, 2], [1, 3]]),
])  # fmt: skip
def test_times_of_words_after_reloading(
    compressed: Any, timed: Any, tmp_path: Path, step: dict[str, Any], pairs: list[list[int]] | None
) -> None:
    timed([0, 0], [0, 1], [1, 2], [1, 3])
    folder = write_miniature("whisper", tmp_path / "in")
    done = compressed("whisper", [step])
    left = done.model.module.generation_config.alignment_heads
    assert left == pairs or (pairs is None and len(left) < 4)
    assert any("times of words" in note for record in done.records for note in record.notes) == (pairs is None)
    (tmp_path / "out").mkdir()
    write_artifact(replace(done.model, folder=folder), done.plan, tmp_path / "out", None)
    assert json.loads((tmp_path / "out" / GENERATION).read_text())["alignment_heads"] == left
    again: Any = open_model(tmp_path / "out").module
    assert again.generation_config.alignment_heads == left
    assert torch.equal(times(again), times(done.model.module))


def test_a_decoder_that_lost_them_all_says_so(compressed: Any, timed: Any, tmp_path: Path) -> None:
    timed([0, 0], [0, 1])
    folder = write_miniature("whisper", tmp_path / "in")
    done = compressed("whisper", [{"prune.heads": {"where": "text.0.cross*", "sparsity": 0.75}}])
    assert not hasattr(done.model.module.generation_config, "alignment_heads")  # head 2 or 3 stays
    (tmp_path / "out").mkdir()
    write_artifact(replace(done.model, folder=folder), done.plan, tmp_path / "out", None)
    with pytest.raises(ValueError, match="has no `alignment_heads`"):
        times(open_model(tmp_path / "out").module)
