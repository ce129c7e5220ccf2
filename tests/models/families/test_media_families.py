"""Families that see, hear, or see and write: declared in full and in running order, cut right, saved and reloaded, and writing the
same before and after."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from trimodal.core import Layout
from trimodal.core.site import is_width
from trimodal.edits.cut import cut_units_
from trimodal.edits.drop import DropBlocks
from trimodal.formats import open_model, write_artifact
from trimodal.formats.reload_check import collect_outputs
from trimodal.layers import open_layers_
from trimodal.models.families import FAMILIES, family_of
from trimodal.models.weighted import find_weighted_modules
from trimodal.networks import tiny, tiny_media, tiny_senses

NAMES = [*tiny_media.MEDIA, *(name for name in tiny_senses.SENSES if name != "multimodal")]  # that one has a file of its own
# What runs between the layers of one part, or between blocks of a tower that does not read it, is declared before or behind them.
OUT_OF_ORDER = {"qwen3-vl", "segformer", "wav2vec2-bert"}
# Weights that are added, looked up or handed to a function without calling the layer.
UNCALLED = {
    "qwen2-audio": "audio_tower.embed_positions",
    "qwen2.5-omni": "audio_tower.audio_bos_eos_token",
    "detr": "query_position_embeddings",
}
TOWERS = {
    **dict.fromkeys(tiny_media.MEDIA, "image fusion text"),
    "blip2": "image fusion text",
    "qwen2-audio": "audio fusion text",
    "qwen2.5-omni": "audio image fusion text",
    "owlvit": "text image",
    "detr": "image image_encoder image_decoder",
    **dict.fromkeys(("trocr", "donut"), "image text"),
    **dict.fromkeys(("wavlm", "wav2vec2-bert"), "audio"),
}
# Of every family what can be cut in its first blocks; further blocks are alike.
BOTH, WORDS = {"image.0.heads", "image.0.neurons"}, {"text.0.heads", "text.0.neurons"}
CUTS: dict[str, set[str]] = {
    **{name: {*BOTH, *WORDS, "fusion.neurons", "text.width"} for name in ("qwen2-vl", "qwen2.5-vl", "qwen3-vl")},
    "gemma3-vision": {*BOTH, *WORDS, "text.width"},
    "paligemma": {*BOTH, *WORDS, "image.width", "text.width"},
    **{name: {*BOTH, *WORDS, "text.width"} for name in ("idefics3", "smolvlm")},
    **{name: {*BOTH, *WORDS, "fusion.neurons", "image.width", "text.width"} for name in ("llava-next", "llava-onevision")},
    "qwen2-audio": {"audio.0.heads", "audio.0.neurons", *WORDS, "audio.width", "text.width"},
    "qwen2.5-omni": {*BOTH, "audio.0.heads", "audio.0.neurons", *WORDS, "fusion.neurons", "text.width"},
    **dict.fromkeys(("dinov3", "swin", "segformer"), BOTH),
    "convnext": {"image.0.neurons"},
    "convnextv2": set(),
    "detr": {f"image_{half}.0.{of}" for half in ("encoder", "decoder") for of in ("heads", "neurons")} | {"image_decoder.0.cross.heads"},
    "owlvit": {*BOTH, *WORDS},
    "blip2": {"image.0.neurons", "fusion.0.heads", "fusion.0.cross.heads", "fusion.0.neurons", *WORDS, "fusion.width", "text.width"},
    "wavlm": {"audio.0.neurons"},
    "wav2vec2-bert": {"audio.0.heads", "audio.0.first.neurons", "audio.0.second.neurons", "audio.width"},
    "trocr": {*BOTH, "text.0.neurons", "image.width"},
    "donut": {*BOTH, *WORDS, "text.0.cross.heads", "text.width"},
}
REASONS: dict[str, dict[str, str]] = {
    "qwen2-vl": {"image.width": "joined side by side"},
    "gemma3-vision": {"image.width": "bare matrix"},
    "idefics3": {"image.width": "squares of patches"},
    "qwen2.5-omni": {"audio.width": "waves", "image.width": "side by side"},
    "convnextv2": {"image.0.neurons": "GRN", "image.width": "stages"},
    "blip2": {"image.0.heads": "works out the width of a head"},
    "wavlm": {"audio.0.heads": "gates the positions", "audio.width": "groups of its dimensions"},
    "wav2vec2-bert": {"audio.0.channels": "a norm runs over"},
    "trocr": {"text.0.heads": "lays the heads out", "text.0.cross.heads": "lays the heads out"},
    "detr": {"image.width": "frozen"},
}
BLOCKS_KEPT = {
    "qwen2.5-vl": ("image", "fullatt_block_indexes"), "qwen3-vl": ("image", "deepstack_visual_indexes"),
    "qwen2.5-omni": ("image", "fullatt_block_indexes"), "blip2": ("fusion", "every second"), "wavlm": ("audio", "table of positions"),
    "swin": ("image", "shifts its windows"), "dinov3": ("image", "LayerScale"),
}  # fmt: skip
WRITES = [name for name in NAMES if isinstance(tiny.MEDIA[name].batch(1, torch.Generator()).get("input_ids"), Tensor) and name != "owlvit"]


@cache
def made(name: str) -> nn.Module:
    return tiny.make_miniature(name)


def miniature(name: str) -> nn.Module:
    """A copy that the test may change."""
    return copy.deepcopy(made(name))


def described(module: nn.Module) -> Layout:
    return family_of(module).describe(module)


def run(module: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    """The outputs that the family names."""
    with torch.no_grad():
        found = module(**batch)
    values = [output.select_tensor(found) for output in family_of(module).outputs(module)]
    assert all(value is not None for value in values)
    return [value for value in values if value is not None]


def write(module: Any, name: str, **options: Any) -> Tensor:
    """What the model writes after the prompt."""
    batch = tiny.make_miniature_batch(name, 1)
    found: Tensor = module.generate(**batch, max_new_tokens=6, do_sample=False, pad_token_id=0, **options)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_declared_in_running_order(name: str) -> None:
    module = open_layers_(miniature(name))
    layout = described(module)
    declared = [site.path for site in layout.sites]
    assert family_of(module).name in {family.name for family in FAMILIES}
    assert {path for site in layout.sites for path in (site.path, *site.tied)} == set(find_weighted_modules(module))
    assert not [site.path for site in layout.sites if site.block is None and site.branch == site.path], "left to the end as undeclared"
    assert len({site.name for site in layout.sites}) == len(layout.sites)
    assert {tower.name for tower in layout.towers} == set(TOWERS.get(name, "image").split())
    assert Layout.from_json(layout.to_json()) == layout
    fired: list[str] = []
    for path in declared:
        module.get_submodule(path).register_forward_hook(lambda *_, path=path: fired.append(path))
    run(module, tiny.make_miniature_batch(name, 2))
    assert all(UNCALLED.get(name, "?") in path for path in declared if path not in fired)
    called = [path for path in declared if path in fired]
    assert (list(dict.fromkeys(fired)) == called) is (name not in OUT_OF_ORDER)


@pytest.mark.parametrize("name", NAMES)
def test_attributes_hold_what_they_count_and_bare_models_are_described_alike(name: str) -> None:
    module = miniature(name)
    layout = described(module)
    for counter in layout.size_attributes:
        held = getattr(module.get_submodule(counter.path), counter.attribute)
        assert held == layout.count_units(counter.label) * counter.per_unit
    with torch.device("meta"):
        assert described(tiny.MEDIA[name].make()) == layout


@pytest.mark.parametrize("name", NAMES)
def test_cut_units_are_as_if_nobody_read_them(name: str) -> None:
    module, batch = miniature(name), tiny.make_miniature_batch(name, 2)
    layout, whole = described(module), run(module, batch)
    first = {label for label in layout.list_labels() if not any(part.isdigit() and part != "0" for part in label.split("."))}
    assert {label for label in first if not label.startswith("fusion.deep")} == CUTS[name]
    for label in (label for label in layout.list_labels() if not is_width(label)):
        consumers = [site for site in layout.sites if site.reads_label(label)]
        axes = [site.input_axis for site in consumers if site.input_axis is not None]
        kept = [unit for unit in range(axes[0].units_of(label)) if unit % 2 == 0]
        gone = [unit for unit in range(axes[0].units_of(label)) if unit % 2]
        zeroed, cut = copy.deepcopy(module), copy.deepcopy(module)
        with torch.no_grad():
            for site, axis in zip(consumers, axes, strict=True):
                zeroed.get_parameter(f"{site.path}.weight")[:, axis.entry_indices(gone, label)] = 0
        cut_units_(cut, layout, label, kept)
        for left, right in zip(run(zeroed, batch), run(cut, batch), strict=True):
            assert torch.allclose(left, right, atol=1e-5, rtol=1e-4), label
        again = described(cut)
        assert again.sites == layout.cut_units(label, kept).sites and again.list_labels() == layout.list_labels()
        unread = name == "llava-next" and label.startswith("image.1.")  # LLaVA reads the last vision block but one
        if gone and not unread:
            assert any(not torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, run(cut, batch), strict=True)), label


@pytest.mark.parametrize("name", NAMES)
def test_narrower_streams_and_fewer_blocks_still_run(name: str) -> None:
    module, batch = miniature(name), tiny.make_miniature_batch(name, 2)
    layout = described(module)
    for label in filter(is_width, layout.list_labels()):
        cut = copy.deepcopy(module)
        cut_units_(cut, layout, label, range(0, 32, 2))
        assert [value.shape for value in run(cut, batch)] == [value.shape for value in run(module, batch)]
        assert described(cut).sites == layout.cut_units(label, range(0, 32, 2)).sites
    for tower in (tower for tower in layout.towers if len(tower.blocks) > 1 and not tower.whole_blocks):
        cut, drop = copy.deepcopy(module), DropBlocks(tower.name, (1,))
        drop.check_fits(cut, layout)
        drop.apply_(cut, layout)
        assert all(bool(value.isfinite().all()) for value in run(cut, batch))
        assert described(cut).sites == drop.layout_after(layout).sites


@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_be_cut_has_a_reason(name: str) -> None:
    reasons = {units.label: units.reason for units in described(made(name)).uncuttable}
    assert all(word in reasons[label] for label, word in REASONS[name].items())


@pytest.mark.parametrize("name", BLOCKS_KEPT)
def test_blocks_that_stay_have_a_reason(name: str) -> None:
    tower, word = BLOCKS_KEPT[name]
    assert word in described(made(name)).get_tower(tower).whole_blocks


QUICK = ("qwen3-vl", "gemma3-vision", "qwen2.5-omni", "segformer", "blip2", "wav2vec2-bert", "donut")
CUTTABLE = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in NAMES if CUTS[name]]


@pytest.mark.parametrize("name", CUTTABLE)
def test_half_of_heads_and_neurons_gone_reloads_and_writes_the_same(compressed: Any, tmp_path: Path, name: str) -> None:
    held = {label.rpartition(".")[2] for label in described(made(name)).list_labels()} & {"heads", "neurons"}
    done = compressed(name, [{f"prune.{unit}": {"sparsity": 0.5, "score": "magnitude"}} for unit in sorted(held)], data=False)
    before, after = (sum(p.numel() for p in model.module.parameters()) for model in (done.original, done.model))
    assert after < before and done.model.layout == done.expected
    folder = tiny.write_miniature(name, tmp_path / "original")
    (tmp_path / "cut").mkdir()
    write_artifact(replace(done.model, folder=folder), done.plan, tmp_path / "cut", None)
    again = open_model(tmp_path / "cut")
    batch = tiny.make_miniature_batch(name, 2, seed=9)
    expected, found = (collect_outputs(model.module, copy.deepcopy(batch)) for model in (done.model, again))
    assert again.layout == done.model.layout and expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    if name in WRITES:
        assert torch.equal(write(done.model.module, name), write(again.module, name))
        assert torch.equal(write(again.module, name), write(again.module, name, use_cache=False))


def test_a_vision_tower_that_nobody_declared_makes_a_generic_model() -> None:
    sizes = {"model_type": "pixtral", **{key: value for key, value in tiny_media.CLIP.items() if key != "model_type"}}
    config = hf.LlavaConfig(vision_config=sizes, text_config={**tiny_media.WORDS, "model_type": "llama"}, image_token_index=4)
    with torch.device("meta"):
        module = hf.LlavaForConditionalGeneration(config)
    assert family_of(module).name not in {family.name for family in FAMILIES}
    assert len(described(module).sites) > 10
