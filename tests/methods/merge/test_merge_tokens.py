"""merge.tokens: what is planned, what it saves, and that it survives saving and export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trimodal.core import Place, Tower
from trimodal.errors import RecipeError
from trimodal.formats import open_model, write_artifact
from trimodal.formats.reload_check import collect_outputs
from trimodal.inventory import inspect
from trimodal.methods.merge.tokens import METHOD, TokensConfig, last_merging_block
from trimodal.networks.tiny import make_miniature_batch, write_miniature


def place(**changes: Any) -> Place:
    """A tower of twelve blocks."""
    tower = Tower("image", "image", tuple(f"layers.{i}" for i in range(12)), whole_tokens="", protected=1)
    return Place("image", (), whole_tower=replace(tower, **changes))


@pytest.mark.parametrize(("options", "blocks"), [
    ({}, (0, 10)), ({"first": 3}, (3, 10)), ({"first": 2, "blocks": 4}, (2, 5)), ({"kind": "strided", "first": 5}, (5, 5)),
])  # fmt: skip
def test_where_it_merges(options: dict[str, Any], blocks: tuple[int, int]) -> None:
    config = TokensConfig(**options)
    assert METHOD.refuse(place(), config) is None
    assert METHOD.solve is not None
    merge = METHOD.solve(place(), {}, None, config).merge
    assert merge is not None and (merge.first, merge.last) == blocks == (config.first, last_merging_block(12, config))


@pytest.mark.parametrize(("changes", "options", "reason"), [
    ({"blocks": ()}, {}, "with blocks"),
    ({"whole_tokens": "they are counted"}, {}, "they are counted"),
    ({}, {"first": 11}, "12 blocks and merging would go from 11 to 11"),
    ({}, {"first": 6, "blocks": 6}, "from 6 to 11, counted from 0, but must end before the last"),
    ({}, {"share": 0.75, "blocks": 1}, "one block cannot remove 0.75"),
    ({"blocks": ("a",)}, {}, "1 blocks and merging"),
])  # fmt: skip
def test_reasons_to_leave_a_tower_alone(changes: Any, options: Any, reason: str) -> None:
    assert reason in (METHOD.refuse(place(**changes), TokensConfig(**options)) or "")


def test_strided_says_what_it_really_removes() -> None:
    assert METHOD.solve is not None
    config = TokensConfig(share=0.6, kind="strided")
    assert METHOD.solve(place(), {}, None, config).notes == ("every 2 neighbours are merged, which removes 0.5 of the tokens",)
    assert METHOD.solve(place(), {}, None, TokensConfig(share=0.75, kind="strided")).notes == ()


def test_needs_no_data_and_leaves_every_weight(compressed: Callable[..., Any]) -> None:
    done = compressed("fusion", [{"merge.tokens": {"where": ["image", "audio.*"]}}], data=False)
    (edit,) = done.plan.edits
    assert [p.name for p in edit.places] == ["image", "audio"]
    assert all(p.bytes_before == p.bytes_after for p in edit.places)
    before, after = (m.module.state_dict() for m in (done.original, done.model))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert all(record.error == {} and record.weight_error == 0.0 for record in done.records)


def test_a_tower_is_merged_once(compressed: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match="image: its tokens are merged already"):
        compressed("vit", [{"merge.tokens": {"share": 0.2}}, "merge.tokens"])


@pytest.mark.parametrize("kind", ["matching", "strided"])
@pytest.mark.parametrize("name", ["clip", "siglip", "vit", "dinov2", "ast", "whisper", "wav2vec2", "fusion"])
def test_macs_fall(compressed: Callable[..., Any], name: str, kind: str) -> None:
    done = compressed(name, [{"merge.tokens": {"kind": kind}}])
    before, after = (inspect(model, make_miniature_batch(name, 1)) for model in (done.original, done.model))
    merged = {place.name for edit in done.plan.edits for place in edit.places}
    for old, new in zip(before.towers, after.towers):
        assert old.macs and new.macs
        if old.name in merged:
            assert new.macs < 0.9 * old.macs
        else:
            assert new.macs <= old.macs
        assert new.parameters == old.parameters


CHAINS: Mapping[str, list[Any]] = {
    "clip": [{"merge.tokens": {}}, {"quantize.gptq": {"bits": 4, "group": 16}}],
    "whisper": [{"factorize.eigen": {"where": "audio.*.key", "sparsity": 0.25}}, {"merge.tokens": {"kind": "strided"}},
                {"quantize.rtn": {"where": "*.key*", "bits": 8}}],
    "fusion": [{"merge.tokens": {"share": 0.3}}, {"prune.heads": {}}, {"distill": {"steps": 1}}, "quantize.rtn"],
    "wav2vec2": [{"prune.neurons": {}}, {"merge.tokens": {"proportional": False}}],
    "vit": [{"quantize.gptq": {"where": "image.[01].*"}}, {"merge.tokens": {}}],
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_with_other_steps_it_reloads_to_the_same_outputs(
    compressed: Callable[..., Any], name: str, tmp_path: Path
) -> None:
    done = compressed(name, CHAINS[name])
    assert done.model.layout == done.expected
    folder = write_miniature(name, tmp_path / "source")
    (tmp_path / "out").mkdir()
    write_artifact(replace(done.model, folder=folder), done.plan, tmp_path / "out", None)
    again = open_model(tmp_path / "out")
    assert again.layout == done.model.layout
    assert [step for step in done.model.steps if step in again.steps] == again.steps  # the configuration says the others
    batch = make_miniature_batch(name, 3, seed=5)
    found, expected = (collect_outputs(model.module, batch) for model in (again, done.model))
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def test_stock_transformers_loads_the_tower_alone(compressed: Callable[..., Any], tmp_path: Path) -> None:
    from transformers import CLIPModel

    done = compressed("clip", [{"merge.tokens": {}}])
    folder = write_miniature("clip", tmp_path / "source")
    (tmp_path / "out").mkdir()
    write_artifact(replace(done.model, folder=folder), done.plan, tmp_path / "out", None)
    pixels = make_miniature_batch("clip", 2)["pixel_values"]
    with torch.no_grad():
        found = CLIPModel.from_pretrained(tmp_path / "out").vision_model(pixel_values=pixels)
        expected = done.model.module.vision_model(pixel_values=pixels)
    assert found.last_hidden_state.shape == (2, 9, 32)
    assert torch.equal(found.pooler_output, expected.pooler_output)


@pytest.mark.parametrize("kind", ["matching", "strided"])
def test_exports(compressed: Callable[..., Any], kind: str) -> None:
    """The exported tower decides anew for every input, and gives the same outputs."""
    vision = compressed("clip", [{"merge.tokens": {"where": "image", "kind": kind}}]).model.module.vision_model
    first, other = (make_miniature_batch("clip", 2, seed)["pixel_values"] for seed in (1, 2))
    with torch.no_grad():
        exported = torch.export.export(vision, (first,)).module()
        for pixels in (first, other):
            found: Tensor = exported(pixels).pooler_output
            assert torch.allclose(found, vision(pixels).pooler_output, atol=1e-6)
