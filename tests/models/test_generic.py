"""Modules of no known family."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trimodal.errors import DataError, ModelError
from trimodal.graph.layout import find_layout
from trimodal.models import generic
from trimodal.models.model import LoadedSample, Output, Processors
from trimodal.networks.tiny import Mixture, make_miniature


def test_sites_are_found_by_type_and_towers_by_name() -> None:
    layout = find_layout(make_miniature("generic"))
    assert [site.name for site in layout.sites] == [
        "image.0.conv", "image.1.norm", "image.3.conv", "text.text_embedding.embedding",
        "model.0.linear", "model.1.norm", "model.3.linear",
    ]  # fmt: skip
    assert [(tower.name, tower.modality, len(tower.blocks)) for tower in layout.towers] == [
        ("image", "image", 4), ("text", "text", 0), ("model", "all", 4),
    ]  # fmt: skip
    assert layout.list_labels() == ("image.0.channels", "image.3.channels")


def test_block_is_where_the_path_leads_through() -> None:
    module = nn.Module()
    module.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(3))
    layout = generic.describe(module)
    assert layout.towers[0].blocks == ("layers.0", "layers.1", "layers.2")
    assert [(s.block, s.branch) for s in layout.sites] == [(b, str(i)) for b in range(3) for i in range(2)]


def test_tied_weights_count_once() -> None:
    module = nn.Module()
    module.words, module.scores = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
    module.scores.weight = module.words.weight
    (site,) = generic.describe(module).sites
    assert (site.path, site.tied, site.stored_bytes) == ("words", ("scores",), 9 * 4 * 4)


def test_module_without_any_weight_has_an_empty_layout() -> None:
    layout = generic.describe(nn.ReLU())
    assert layout.sites == () and [tower.name for tower in layout.towers] == ["model"]


def test_parts_that_nobody_can_observe_are_no_sites() -> None:
    assert generic.describe(nn.MultiheadAttention(8, 2)).sites == ()
    normalised = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 3))
    assert generic.describe(nn.Sequential(normalised)).sites == ()


def test_encode_needs_the_module_to_say_how() -> None:
    with pytest.raises(DataError, match=r"Mixture is of no family .* give it a method encode"):
        generic.encode(Mixture(), Processors(), [LoadedSample(text="a")])


def test_encode_uses_the_modules_own_and_checks_it() -> None:
    class Reader(nn.Module):
        modalities = ("text",)
        outputs = (Output("output", "text", "logits", label="label"),)

        def encode(self, samples: list[LoadedSample]) -> dict[str, Tensor]:
            return {"x": torch.tensor([float(len(sample.text or "")) for sample in samples])}

    class Wrong(nn.Module):
        def encode(self, samples: list[LoadedSample]) -> list[int]:
            return [len(samples)]

    batch = generic.encode(Reader(), Processors(), [LoadedSample(text="ab"), LoadedSample(text="c")])
    assert batch["x"].tolist() == [2.0, 1.0]
    assert generic.modalities(Reader()) == ("text",)
    assert generic.outputs(Reader()) == Reader.outputs
    assert generic.outputs(Mixture()) == (Output("output", "all", "embedding"),)
    with pytest.raises(DataError, match=r"Wrong.encode returned list, expected a dict of tensors"):
        generic.encode(Wrong(), Processors(), [LoadedSample()])


@pytest.mark.parametrize("name", ["outputs", "modalities", "example", "encode"])
def test_what_a_module_says_of_itself_may_fail(name: str) -> None:
    def fail(self: nn.Module) -> None:
        raise KeyError("missing")

    module = type("Odd", (nn.Module,), {name: property(fail)})()
    with pytest.raises(ModelError, match=rf"Odd\.{name} failed \(KeyError: 'missing'\)"):
        {"outputs": generic.outputs, "modalities": generic.modalities, "example": generic.example,
         "encode": lambda module: generic.encode(module, Processors(), ())}[name](module)  # fmt: skip
    generic.describe(module)
