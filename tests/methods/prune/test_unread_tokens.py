"""prune.tokens: what is planned, what it saves, and that it survives saving, loading and other steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import trimodal
from trimodal.core import Place, Tower
from trimodal.errors import RecipeError, TargetError
from trimodal.exporting.export import export
from trimodal.formats import open_model, write_artifact
from trimodal.formats.reload_check import collect_outputs
from trimodal.inventory import inspect
from trimodal.methods.prune.tokens import METHOD, TokensConfig
from trimodal.networks.tiny import make_miniature_batch, write_miniature
from trimodal.planning.target_fit import fit_target
from trimodal.reporting.advice import CommandNames, suggest_next_steps
from trimodal.targets import read_target

STEP = {"prune.tokens": {"where": "image", "share": 0.5}}
WAYS = ({}, {"by": "diversity", "rest": "join"}, {"by": "question", "block": 1})


@pytest.mark.parametrize(("changes", "options", "reason"), [
    ({}, {}, None), ({}, {"by": "diversity"}, None),
    ({"whole_reading": "all are needed"}, {}, "all are needed"),
    ({"handed": 0}, {"by": "question"}, None),
    ({"handed": 0}, {}, "how many tokens an image gives varies, so they can be chosen inside of the decoder alone; give by: question"),
    ({}, {"by": "question", "rest": "join"}, "by: question, the rest can only be discarded (join is asked for)"),
])  # fmt: skip
def test_reasons_to_leave_a_tower_alone(
    tiny_model: Callable[..., Any], changes: dict[str, Any], options: dict[str, Any], reason: str | None
) -> None:
    layout = tiny_model("llava").layout
    sites = tuple(site for site in layout.sites if site.tower == "image")
    place = Place("image", sites, whole_tower=replace(layout.get_tower("image"), **changes))
    assert METHOD.refuse(place, TokensConfig(**options)) == reason


def test_an_attention_that_nobody_declared_is_not_asked() -> None:
    place = Place("image", (), whole_tower=Tower("image", "image", whole_reading="", handed=16))
    assert "choose by diversity" in (METHOD.refuse(place, TokensConfig()) or "")


@pytest.mark.parametrize(("options", "said"), [
    ({}, "text reads 8 of 16 image tokens; they take its layers 0.000147 of 0.000295 GMACs"),
    ({"share": 0.75}, "text reads 4 of 16 image tokens; they take its layers 7.37e-05 of 0.000295 GMACs"),
    ({"by": "question"}, "text reads 8 of 16 image tokens behind 1 of its 2 blocks; they take its layers 0.000221 of 0.000295 GMACs"),
])  # fmt: skip
def test_the_plan_says_tokens_and_operations(compressed: Callable[..., Any], options: dict[str, Any], said: str) -> None:
    (edit,) = compressed("llava", [{"prune.tokens": {"where": "image", **options}}], data=False).plan.edits
    assert [(place.name, place.note) for place in edit.places] == [("image", said)]


@pytest.mark.parametrize("options", WAYS)
def test_no_weight_changes_and_macs_fall(compressed: Callable[..., Any], options: dict[str, Any]) -> None:
    done = compressed("llava", [{"prune.tokens": {"where": "image", "share": 0.75, **options}}], data=False)
    before, after = (m.module.state_dict() for m in (done.original, done.model))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    old, new = (inspect(model, make_miniature_batch("llava", 1)).towers for model in (done.original, done.model))
    macs = {tower.name: (tower.macs or 0, then.macs or 0) for tower, then in zip(old, new, strict=True)}
    assert macs["text"][1] < 0.85 * macs["text"][0] and macs["image"][0] <= macs["image"][1] < 1.01 * macs["image"][0]


def test_tokens_are_thinned_once_and_blocks_go_before(compressed: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match="image: a decoder reads fewer of its tokens already"):
        compressed("llava", [STEP, STEP])
    with pytest.raises(RecipeError, match="its attention chooses the tokens that are read; remove blocks before that"):
        compressed("llava", [STEP, {"prune.layers": {"where": "image", "sparsity": 0.5}}])
    with pytest.raises(RecipeError, match="remove blocks before that"):
        compressed("llava", [{"prune.tokens": {"by": "question"}}, {"prune.layers": {"where": "text", "sparsity": 0.5}}])
    done = compressed("llava", [STEP, {"prune.layers": {"where": "text", "sparsity": 0.5}}])
    assert len(done.model.layout.get_tower("text").blocks) == 1


@pytest.mark.parametrize("options", WAYS)
def test_words_and_patches_are_told_apart_in_statistics(compressed: Callable[..., Any], options: dict[str, Any]) -> None:
    """Of 8 texts of 28 tokens, 12 of them words, every other one has 3 of padding; of 16 patches 8 are read."""
    gptq = {"quantize.gptq": {"where": "text*", "bits": 4, "group": 16}}
    done = compressed("llava", [{"prune.tokens": {"where": "image", **options}}, gptq])
    seen = {record.place: record.tokens for record in done.records}
    assert seen["text.1.up"] == {"image": 64, "text": 84} and seen["text.head"] == {"image": 128, "text": 84}


CHAINS: list[list[Any]] = [
    [{"prune.heads": {}}, {"prune.neurons": {}}, STEP, {"quantize.gptq": {"where": "*", "bits": 4, "group": 16}}],
    [STEP, {"factorize.eigen": {"where": "image.*.key", "sparsity": 0.25}}, {"distill": {"steps": 1}}, "quantize.rtn"],
    [{"prune.layers": {"where": "image", "sparsity": 0.5}}, {"prune.tokens": {"by": "diversity", "rest": "context"}},
     {"prune.width": {"where": "text"}}],
    [{"prune.tokens": {"by": "question"}}, {"prune.heads": {"where": "text.*"}}, {"quantize.rtn": {"where": "*", "bits": 4}}],
]


@pytest.mark.parametrize("steps", CHAINS, ids=[0, 1, 2, 3])
def test_with_other_steps_it_reloads_to_the_same_outputs(compressed: Callable[..., Any], steps: list[Any], tmp_path: Path) -> None:
    done = compressed("llava", steps)
    assert done.model.layout == done.expected
    folder = write_miniature("llava", tmp_path / "source")
    (tmp_path / "out").mkdir()
    write_artifact(replace(done.model, folder=folder), done.plan, tmp_path / "out", None)
    again = open_model(tmp_path / "out")
    assert again.layout == done.model.layout
    batch = make_miniature_batch("llava", 3, seed=5)
    found, expected = (collect_outputs(model.module, batch) for model in (again, done.model))
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def say(module: Any, prompt: dict[str, Tensor], **how: Any) -> Tensor:
    found: Tensor = module.generate(**prompt, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0, **how)
    return found


def test_from_a_folder_to_an_answer(tmp_path: Path) -> None:
    """Python in and out: compressed, loaded by trimodal and by stock Transformers, asked through the stock processor; not exported."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    source = write_miniature("llava", tmp_path / "source")
    done = trimodal.compress(str(source), {"steps": [STEP, {"quantize.rtn": {"where": "*", "bits": 8}}]}, out=str(tmp_path / "out"))
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    picture = Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3))
    prompt = dict(processor(images=picture, text="<image>\nred dog", return_tensors="pt"))
    module = trimodal.load(str(tmp_path / "out"))
    asked = say(module, prompt)
    assert prompt["input_ids"].shape[1] == asked.shape[1] - 8
    assert torch.equal(asked, say(module, prompt, use_cache=False))
    assert torch.equal(asked, say(LlavaForConditionalGeneration.from_pretrained(tmp_path / "out"), prompt))
    for to in ("onnx", "openvino", "compressed-tensors"):
        with pytest.raises(TargetError, match="which no export format can say"):
            export(tmp_path / "out", to, tmp_path / to)
    advice = suggest_next_steps(done.plan, done.verdict, CommandNames("out"))
    assert not any("export" in step.command for step in advice)


def test_the_plan_says_that_no_target_takes_it(compressed: Callable[..., Any]) -> None:
    done = compressed("llava", [STEP])
    fit = fit_target(done.original, done.model.layout, read_target("onnxruntime-avx2"))
    assert fit.refused == 1 and "which no export format can say" in fit.cautions[0].reason
