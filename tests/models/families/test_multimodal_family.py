"""The multimodal network as a family: labels of every kind of fusion can be cut, tokens are told by stream, and methods work on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from trimodal.core import TOKEN_KINDS
from trimodal.core.site import is_width
from trimodal.edits.cut import cut_units_
from trimodal.loading.load import build_model
from trimodal.models.families import family_of
from trimodal.models.weighted import find_weighted_modules
from trimodal.networks.multimodal import MultimodalConfig, MultimodalModel
from trimodal.networks.tiny import make_miniature, make_miniature_batch

STREAMS: dict[str, Any] = {
    "front": {"modality": "image", "channels": 1, "length": 8, "patch": 4, "width": 16, "blocks": 1},
    "note": {"modality": "text", "channels": 20, "length": 9, "width": 16, "blocks": 0},
    "vitals": {"modality": "signal", "channels": 3, "length": 10, "patch": 3, "width": 16, "blocks": 1},
}


def make(fusion: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"fusion_width": 16, "head_dim": 8, "fusion_blocks": 2, "mlp_ratio": 2, "initializer_range": 0.3}
    return MultimodalModel(MultimodalConfig(streams=STREAMS, fusion=fusion, **{"num_labels": 3, **sizes, **settings})).eval()


def make_batch(count: int = 2) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(1)
    mask = torch.ones(count, 10).long()
    mask[1::2, 4:] = 0
    return {
        "front": torch.randn(count, 1, 8, 8, generator=chance), "note": torch.randint(1, 20, (count, 6), generator=chance),
        "vitals": torch.randn(count, 10, 3, generator=chance), "vitals_mask": mask,
    }  # fmt: skip


@pytest.mark.parametrize("fusion", ["early", "late", "hybrid", "layerwise"])
def test_what_is_cut_is_what_nobody_reads(fusion: str) -> None:
    module, batch = make(fusion), make_batch()
    layout = family_of(module).describe(module)
    assert {path for site in layout.sites for path in (site.path, *site.tied)} == set(find_weighted_modules(module))
    for label in (label for label in layout.list_labels() if not is_width(label)):
        zeroed, cut = copy.deepcopy(module), copy.deepcopy(module)
        with torch.no_grad():
            for site in layout.sites:
                if site.reads_label(label) and site.input_axis is not None:
                    zeroed.get_parameter(f"{site.path}.weight")[:, site.input_axis.entry_indices([1], label)] = 0
        cut_units_(cut, layout, label, [i for i in range(layout.count_units(label)) if i != 1])
        torch.testing.assert_close(cut(**batch).logits, zeroed(**batch).logits, atol=1e-5, rtol=1e-5)
        assert family_of(cut).describe(cut).list_labels() == layout.list_labels()


@pytest.mark.parametrize(
    ("fusion", "label"), [("early", "fusion"), ("late", "fusion"), ("layerwise", "fusion_front"), ("hybrid", "vitals")]
)
def test_the_width_of_a_fusion_can_be_cut(fusion: str, label: str) -> None:
    """Heads of the blocks stay, and the model runs with half of its stream."""
    module = make(fusion)
    layout = family_of(module).describe(module)
    cut_units_(module, layout, f"{label}.width", range(8))
    assert module(**make_batch()).logits.shape == (2, 3)
    assert family_of(module).describe(module).count_units(f"{label}.width") == 8


def test_embeddings_that_are_handed_out_stay_as_wide_as_they_are() -> None:
    module = make("late", contrast=["front", "note"])
    layout = family_of(module).describe(module)
    assert [(units.label, units.reason) for units in layout.uncuttable] == [
        ("fusion.width", "the model hands out the embeddings of its streams, which must stay as wide as they are")
    ]
    assert [(o.field, o.modality, o.kind) for o in family_of(module).outputs(module)] == [
        ("front_embeds", "image", "embedding"), ("note_embeds", "text", "embedding"),
    ]  # fmt: skip


def test_tokens_are_told_by_stream_and_padding_is_left_out() -> None:
    kinds = {kind: number for number, kind in enumerate(TOKEN_KINDS)}
    batch = {**make_batch(), "note_present": torch.tensor([1, 0])}
    module = make("early")
    found = family_of(module).tokens(module, batch)
    assert found["vitals"].tolist() == [[kinds["signal"]] * 4, [kinds["signal"]] * 2 + [-1] * 2]
    image, text, signal = kinds["image"], kinds["text"], kinds["signal"]
    assert found["fusion"].tolist() == [
        [kinds["fusion"], *[image] * 4, *[text] * 6, *[signal] * 4], [kinds["fusion"], *[image] * 4, *[-1] * 6, *[signal] * 2, -1, -1],
    ]  # fmt: skip
    module = make("layerwise", bottleneck_tokens=2)
    assert family_of(module).tokens(module, batch)["fusion_vitals"].tolist()[1] == [kinds["fusion"]] * 2 + [signal] * 2 + [-1] * 2


def test_tokens_of_a_pretrained_tower_are_counted() -> None:
    module, batch = make_miniature("multimodal"), make_miniature_batch("multimodal", 2)
    found = family_of(module).tokens(module, batch)
    assert {name: codes.shape for name, codes in found.items()} == {
        "image": (2, 17), "text": (2, 12), "vitals": (2, 5), "fusion": (2, 35),
    }  # fmt: skip


STEPS: Mapping[str, list[dict[str, Any]]] = {
    "quantized": [{"quantize.gptq": {"where": "*", "bits": 4, "group": 16, "clip": "max"}}],
    "pruned and distilled": [{"prune.neurons": {"sparsity": 0.5}}, {"prune.heads": {"sparsity": 0.5}}, {"distill": {"steps": 2}}],
    "narrower": [{"prune.width": {"sparsity": 0.5}}],
}


@pytest.mark.parametrize("fusion", ["pretrained", "layerwise"])
@pytest.mark.parametrize("steps", STEPS)
def test_methods_work_on_it(steps: str, fusion: str, compressed: Callable[..., Any]) -> None:
    """Of each tower something is done, and what is said after it is still finite."""
    given = [make_miniature_batch("multimodal", 4, seed) for seed in (1, 2)] if fusion == "pretrained" else [make_batch(4)] * 2
    module = make_miniature("multimodal") if fusion == "pretrained" else make(fusion)
    case = compressed(build_model(module, "streams"), STEPS[steps], given=given)
    assert case.model.layout == case.expected
    changed = {site.tower for site in case.model.layout.sites if site not in case.original.layout.sites}
    wanted = {tower.name for tower in case.original.layout.towers if tower.blocks}
    assert changed >= (wanted - {"image", "text"} if steps == "narrower" else wanted)
    with torch.no_grad():
        found, was = (part.module(**given[0]).logits for part in (case.model, case.original))
    assert found.isfinite().all() and not torch.equal(found, was)
