"""What a block's sites see is what they would see in a plain run of the whole model as it is now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trimodal.compression.activations import Activations
from trimodal.core import Site
from trimodal.loading.load import build_model
from trimodal.models.model import Model
from trimodal.networks.tiny import make_miniature_batch
from trimodal.statistics import Moment, split_rows_by_modality, unfold_input

NAMES = [
    "clip", "siglip", "bert", "whisper", "llama", "qwen3", "llava", "clap", "wav2vec2", "resnet", "resnet-basic",
    "fusion", "generic", "lstm",
]  # fmt: skip


def observable(model: Model) -> list[Site]:
    return [s for s in model.layout.sites if s.kind in ("linear", "conv") and s.groups == 1]


def plain_run(
    model: Model, sites: Sequence[Site], batches: Sequence[Mapping[str, Tensor]]
) -> dict[str, dict[str, Moment]]:
    """Statistics by hooks on a full forward pass, batch by batch, with no shortcut."""
    found: dict[str, dict[str, Moment]] = {site.path: {} for site in sites}
    codes: dict[str, Tensor] = {}

    def see(site: Site) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...]) -> None:
            crossing = site.branch == "cross" and site.role in ("key", "value")
            own = codes.get(f"{site.tower}.cross" if crossing else site.tower)
            rows = split_rows_by_modality(unfold_input(layer, args[0]), own, model.layout.get_tower(site.tower).modality)
            for name, part in rows.items():
                found[site.path].setdefault(name, Moment(part.shape[-1])).update(part)

        return hook

    handles = [model.module.get_submodule(s.path).register_forward_pre_hook(see(s)) for s in sites]
    with torch.no_grad():
        for batch in batches:
            codes = dict(model.family.tokens(model.module, batch))
            model.module(**batch)
    for handle in handles:
        handle.remove()
    return found


def same(found: Mapping[str, Mapping[str, Any]], expected: Mapping[str, Mapping[str, Moment]]) -> None:
    assert found.keys() == {path for path, parts in expected.items() if parts}
    for path, parts in found.items():
        assert parts.keys() == expected[path].keys(), path
        for name, part in parts.items():
            other = expected[path][name]
            assert part.tokens == other.tokens, (path, name)
            scale = float(other.second.abs().max())
            assert torch.allclose(part.second, other.second, atol=1e-4 * scale, rtol=1e-3), (path, name)
            assert torch.allclose(part.mean, other.mean, atol=1e-3 * scale**0.5, rtol=1e-3), (path, name)


@pytest.mark.parametrize("name", NAMES)
def test_each_block_sees_what_a_plain_run_shows_as_the_model_changes(
    tiny_model: Callable[..., Model], name: str
) -> None:
    model = tiny_model(name)
    batches = [make_miniature_batch(name, n, seed) for seed, n in enumerate((3, 2))]
    activations = Activations(model, batches)
    for _, group in groupby(observable(model), key=lambda s: (s.tower, s.block)):
        sites = list(group)
        found = activations.collect_statistics(sites, {s.path: "moment" for s in sites})
        same(found, plain_run(model, sites, batches))
        with torch.no_grad():  # as if this block had just been compressed
            for site in sites:
                layer = model.module.get_submodule(site.path)
                layer.weight.mul_(1 + 0.3 * torch.randn_like(layer.weight))  # type: ignore[union-attr, operator, arg-type]


@pytest.mark.parametrize("name", ["clip", "whisper", "llava", "fusion"])
def test_one_block_alone_and_blocks_out_of_order(tiny_model: Callable[..., Model], name: str) -> None:
    model = tiny_model(name)
    batches = [make_miniature_batch(name, 2)]
    activations = Activations(model, batches)
    groups = [list(g) for _, g in groupby(observable(model), key=lambda s: (s.tower, s.block))]
    for sites in (groups[-1], groups[0], groups[len(groups) // 2], groups[-1]):
        same(activations.collect_statistics(sites, {s.path: "moment" for s in sites}), plain_run(model, sites, batches))


@pytest.mark.parametrize(("name", "ids", "mask"), [
    ("clip", "input_ids", "attention_mask"), ("bert", "input_ids", "attention_mask"),
    ("llama", "input_ids", "attention_mask"), ("llava", "input_ids", "attention_mask"),
    ("whisper", "decoder_input_ids", "decoder_attention_mask"), ("fusion", "input_ids", "attention_mask"),
])  # fmt: skip
def test_padding_never_counts(tiny_model: Callable[..., Model], name: str, ids: str, mask: str) -> None:
    model = tiny_model(name)
    batch = make_miniature_batch(name, 4)
    other = {**batch, ids: batch[ids].masked_fill(batch[mask] == 0, 11)}
    assert not torch.equal(other[ids], batch[ids])
    sites = [s for s in observable(model) if s.tower == "text" and s.block is not None and s.role in ("query", "down")]
    for site in sites:
        found, again = (
            Activations(model, [b]).collect_statistics([site], {site.path: "moment"})[site.path] for b in (batch, other)
        )
        expected = int((batch[mask] > 0).sum())
        assert sum(part.tokens for part in found.values()) == expected
        for modality, part in found.items():
            assert torch.allclose(part.second, again[modality].second, atol=1e-4)  # type: ignore[union-attr]


def test_modalities_of_a_joint_stream_are_kept_apart(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("llava")
    batch = make_miniature_batch("llava", 2)
    (site,) = [s for s in model.layout.sites if s.name == "text.1.up"]
    found = Activations(model, [batch]).collect_statistics([site], {site.path: "moment"})[site.path]
    image = int((batch["input_ids"] == model.module.config.image_token_id).sum())  # type: ignore[union-attr]
    assert {name: part.tokens for name, part in found.items()} == {
        "image": image, "text": int(batch["attention_mask"].sum()) - image,
    }  # fmt: skip
    fusion = tiny_model("fusion")
    (site,) = [s for s in fusion.layout.sites if s.name == "fusion.0.query"]
    found = Activations(fusion, [make_miniature_batch("fusion", 2)]).collect_statistics([site], {site.path: "moment"})[site.path]
    assert {"image", "audio", "text"} <= set(found)


def test_keys_of_cross_attention_are_the_other_modality(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("whisper")
    sites = [s for s in model.layout.sites if s.tower == "text" and s.block == 1 and s.branch == "cross"]
    sites = [s for s in sites if s.kind == "linear"]
    batch = make_miniature_batch("whisper", 2)
    found = Activations(model, [batch]).collect_statistics(sites, {s.path: "moment" for s in sites})
    read = {s.role: found[s.path] for s in sites}
    assert {role: set(parts) for role, parts in read.items()} == {
        "query": {"text"}, "key": {"audio"}, "value": {"audio"}, "output": {"text"},
    }  # fmt: skip
    assert read["key"]["audio"].tokens == 2 * 50


@pytest.mark.parametrize("name", ["clip", "bert", "whisper", "llama", "fusion"])
def test_query_key_and_value_share_one_statistic(tiny_model: Callable[..., Model], name: str) -> None:
    model = tiny_model(name)
    sites = [s for s in observable(model) if s.block == 0 and s.tower == "text" and not s.branch]
    found = Activations(model, [make_miniature_batch(name, 2)]).collect_statistics(sites, {s.path: "moment" for s in sites})
    by_role = {s.role: found[s.path]["text"] for s in sites}
    assert by_role["query"] is by_role["key"] is by_role["value"]
    assert by_role["query"] is not by_role["output"] and by_role["query"] is not by_role["up"]


def test_convolutions_of_other_windows_do_not_share(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("resnet-basic")
    sites = [s for s in observable(model) if s.block == 2]
    found = Activations(model, [make_miniature_batch("resnet-basic", 2)]).collect_statistics(sites, {s.path: "moment" for s in sites})
    assert len({id(parts["image"]) for parts in found.values()}) == len(sites)
    assert all(parts["image"].columns == s.columns for s, parts in ((s, found[s.path]) for s in sites))  # type: ignore[union-attr]


def test_column_norms_where_no_more_is_wanted(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("bert")
    site = next(s for s in observable(model) if s.role == "up")
    activations = Activations(model, [make_miniature_batch("bert", 3)])
    norm, moment = (activations.collect_statistics([site], {site.path: kind})[site.path]["text"] for kind in ("norm", "moment"))  # type: ignore[dict-item]
    assert type(norm).__name__ == "ColumnNorm"
    assert torch.allclose(norm.square, moment.square, atol=1e-5)


def test_later_blocks_are_run_alone(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("clip")
    calls: list[str] = []
    for path in ("vision_model.embeddings", "vision_model.encoder.layers.0", "vision_model.encoder.layers.1"):
        model.module.get_submodule(path).register_forward_hook(lambda *_, path=path: calls.append(path[-1]))
    activations = Activations(model, [make_miniature_batch("clip", 2)])
    for block in (0, 1):
        sites = [s for s in observable(model) if (s.tower, s.block) == ("image", block)]
        activations.collect_statistics(sites, {s.path: "moment" for s in sites})
    assert calls.count("s") == 1  # the stem ran once, for the one capture
    assert calls.count("1") == 1


def test_the_model_is_left_without_hooks(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("clip")
    site = observable(model)[5]
    Activations(model, [make_miniature_batch("clip", 2)]).collect_statistics([site], {site.path: "moment"})
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.module.modules())


def test_site_that_never_runs_is_missing(tiny_model: Callable[..., Model]) -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.used(input=x)
            return y

    from trimodal.loading.load import build_model

    model = build_model(Lazy(), "lazy")
    sites = list(model.layout.sites)
    found = Activations(model, [{"x": torch.ones(2, 4)}]).collect_statistics(sites, {s.path: "moment" for s in sites})
    assert list(found) == ["used"] and found["used"]["all"].tokens == 2


@pytest.mark.parametrize("name", ["clip", "whisper", "resnet", "fusion", "generic"])
def test_pairs_hold_the_original_models_inputs_for_the_same_tokens(tiny_model: Callable[..., Model], name: str) -> None:
    """With the model as it was, E[x° xᵀ] is E[x xᵀ]; after a change upstream it is not, but its own x° stays."""
    model, original = tiny_model(name), tiny_model(name)
    batches = [make_miniature_batch(name, 3, seed) for seed in (1, 2)]
    activations = Activations(model, batches, Activations(original, batches))
    groups = [list(group) for _, group in groupby(observable(model), key=lambda s: (s.tower, s.block))]
    changed = False
    for sites in groups:
        found = activations.collect_statistics(sites, dict.fromkeys((s.path for s in sites), "paired"))
        for path, parts in found.items():
            for part in parts.values():
                assert isinstance(part, Moment) and part.cross is not None, path
                scale = float(part.second.abs().max()) or 1.0
                if not changed:
                    assert torch.allclose(part.cross, part.second, atol=1e-5 * scale), path
        if not changed and found:
            with torch.no_grad():
                for path in found:
                    model.module.get_submodule(path).weight.mul_(1.2)  # type: ignore[operator, union-attr]
            changed = True
    assert changed


class _Counting(nn.Embedding):
    """Positions that are told a shape, as Marian's, and begin at 2, as BART's."""

    def forward(self, shape: torch.Size) -> Tensor:  # type: ignore[override]
        return super().forward(torch.arange(2, 2 + shape[1]))


class _Positioned(nn.Module):
    """Words at counted positions."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(9, 4), _Counting(8, 4)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, 4)."""
        found: Tensor = self.words(ids) + self.places(ids.shape)
        return found


def test_rows_of_a_table_that_numbers_them_itself_are_those_it_looked_up() -> None:
    model = build_model(_Positioned(), "positioned")
    batch = {"ids": torch.tensor([[1, 1, 5]])}
    found = Activations(model, [batch]).collect_statistics(model.layout.sites, {"words": "uses", "places": "uses"})
    counts = {path: next(iter(parts.values())).counts.tolist() for path, parts in found.items()}  # type: ignore[union-attr]
    assert counts == {"words": [0, 2, 0, 0, 0, 1, 0, 0, 0], "places": [0, 0, 1, 1, 1, 0, 0, 0]}


class _Detector(nn.Module):
    """Heads in lists of their own, which run between the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.scores = nn.ModuleList(nn.Linear(4, 3) for _ in range(2))
        self.places = nn.ModuleList(nn.Linear(4, 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4) -> (B, 10)."""
        found = []
        for step, score, place in zip(self.steps, self.scores, self.places, strict=True):
            x = step(x)
            found += [place(x), score(x)]
        return torch.cat(found, dim=1)


def test_blocks_need_not_run_in_the_order_in_which_they_stand() -> None:
    model, batches = build_model(_Detector(), "detector"), [{"x": torch.randn(5, 4)}]
    activations, sites = Activations(model, batches), observable(model)
    expected = plain_run(model, sites, batches)
    found: dict[str, Any] = {}
    for site in sites:
        found |= activations.collect_statistics([site], {site.path: "moment"})
    same(found, expected)
