"""prune.layers: which blocks go, that the rest computes what it did, and that everything that counts blocks follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from trimodal.core import Place, Site, Tower
from trimodal.edits import TreatWeight
from trimodal.errors import RecipeError
from trimodal.formats import open_model, write_artifact
from trimodal.formats.reload_check import collect_outputs
from trimodal.methods.prune import layers
from trimodal.methods.prune.layers import (
    METHOD,
    LayersConfig,
    compute_relative_error,
    count_kept_blocks,
    measure_choice_errors,
)
from trimodal.models.blocks import BlockTrace
from trimodal.models.tensors import tensor_bytes, unique_tensors
from trimodal.networks import tiny
from trimodal.networks.tiny import make_miniature_batch, write_miniature
from trimodal.statistics import mix_moments

SCORES = ("influence", "divergence", "angular")
NAMES = {"num_hidden_layers": 4}
WRITES = ("o_proj", "out_proj", "down_proj", "fc2")


def _llama() -> nn.Module:
    words: dict[str, Any] = {**tiny.TEXT_SIZES, **NAMES}
    return hf.LlamaForCausalLM(hf.LlamaConfig(**words, num_key_value_heads=2, tie_word_embeddings=True))


def _llava() -> nn.Module:
    config = hf.LlavaConfig(
        vision_config={**tiny.VISION, **NAMES, "model_type": "clip_vision_model"},
        text_config={**tiny.TEXT_SIZES, "model_type": "llama", "num_key_value_heads": 2, "max_position_embeddings": 64},
        image_token_index=tiny.IMAGE_TOKEN, image_seq_length=(tiny.IMAGE_SIZE // tiny.PATCH) ** 2,
        tie_word_embeddings=False,
    )  # fmt: skip
    return hf.LlavaForConditionalGeneration(config)


def _idle_(block: nn.Module) -> None:
    """Let a block with residual connections give back what it is given."""
    for name, part in block.named_modules():
        if name.rpartition(".")[2] in WRITES:
            for parameter in part.parameters():
                nn.init.zeros_(parameter)


@pytest.fixture
def deeper(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the miniatures of Llama and LLaVA have four blocks, those at the given paths idle."""

    def change(name: str, *idle: str) -> None:
        make = {"llama": _llama, "llava": _llava}[name]
        monkeypatch.setitem(tiny.MINIATURES, name, make)  # type: ignore[arg-type]
        plain = tiny._enlarge_weights_

        def enlarge_(module: nn.Module) -> None:
            plain(module)
            for path in idle:
                _idle_(module.get_submodule(path))

        monkeypatch.setattr(tiny, "_enlarge_weights_", enlarge_)

    return change


class Fixed(nn.Module):
    """A block that makes of everything what it was told."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = change


def by_hand() -> tuple[Callable[[], Iterator[tuple[BlockTrace, Tensor | None]]], Tower]:
    """The example of the docstring."""
    turned, added = torch.tensor([[[4.0, 3.0]]]), torch.tensor([[[4.0, 0.0]]])
    blocks = [Fixed(lambda x: turned.expand_as(x)), Fixed(lambda x: x + added)]
    start = torch.tensor([[[3.0, 4.0]]])
    states = [start, turned, turned + added]
    found = BlockTrace(blocks, states, [((), {}), ((), {})])
    return lambda: iter([(found, None)]), Tower("image", "image", ("blocks.0", "blocks.1"))


def mix(parts: Any) -> Any:
    return mix_moments(parts, "modality")


def test_the_example_by_hand() -> None:
    passages, tower = by_hand()
    gone, notes = layers.choose_by_influence(passages, tower, 2, 2, mix)
    assert gone == [0, 1] and notes == ("influence of block 0: 0.04", "influence of block 1: 0.04026")
    assert 1 - 41 / (5 * math.sqrt(73)) == pytest.approx(0.040263, abs=1e-6)
    gone, notes = layers.choose_by_angle(passages, tower, 2, 1, mix)
    assert gone == [0] and notes == ("angular distance over the run: 0.09033",)
    without = [compute_relative_error(mix(part)) for part in measure_choice_errors(passages, tower, [[1], [0]], 2)]
    assert without == [pytest.approx(2 / 73, abs=1e-6), pytest.approx(16 / 73, abs=1e-6)]
    assert layers.choose_by_divergence(passages, tower, 2, 1, mix)[0] == [0]


@torch.no_grad()  # type: ignore[untyped-decorator]
def test_each_choice_of_blocks_is_run_as_if_alone() -> None:
    torch.manual_seed(1)
    parts = [nn.Linear(6, 6) for _ in range(5)]
    states = [torch.randn(2, 3, 6)]
    for part in parts:
        states.append(part(states[-1]))
    found = BlockTrace(parts, states, [((), {})] * 5)
    tower = Tower("text", "text", tuple(f"blocks.{i}" for i in range(5)))
    choices = [[1, 2, 3, 4], [0, 2, 3, 4], [0, 1, 4], [0, 1, 2, 3, 4], [], [3]]
    seen = measure_choice_errors(lambda: iter([(found, None)]), tower, choices, 5)
    for chosen, part in zip(choices, seen, strict=True):
        x = states[0]
        for number in chosen:
            x = parts[number](x)
        expected = (x - states[5]).square().sum() / states[5].square().sum()
        assert compute_relative_error(part["text"]) == pytest.approx(float(expected), rel=1e-5)


def test_padding_counts_for_nothing() -> None:
    passages, tower = by_hand()
    ((found, _),) = list(passages())
    padded = [torch.cat([x, torch.full_like(x, float(i) ** 3)], dim=1) for i, x in enumerate(found.states)]
    codes = torch.tensor([[0, -1]])
    for score in SCORES:
        more = BlockTrace(found.blocks, padded, found.calls)
        chosen = layers.CHOICES[score](lambda more=more: iter([(more, codes)]), tower, 2, 1, mix)  # type: ignore[misc]
        assert chosen == layers.CHOICES[score](passages, tower, 2, 1, mix)


@pytest.mark.parametrize(("blocks", "sparsity", "left"), [(24, 0.25, 18), (12, 0.1, 11), (2, 0.25, 2), (4, 1.0, 1), (1, 0.9, 1)])
def test_how_many_stay(blocks: int, sparsity: float, left: int) -> None:
    assert count_kept_blocks(blocks, sparsity) == left


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("idle", [0, 2, 3])
def test_a_block_that_does_nothing_goes_first(
    compressed: Callable[..., Any], deeper: Callable[..., None], score: str, idle: int
) -> None:
    deeper("llama", f"model.layers.{idle}")
    done = compressed("llama", [{"prune.layers": {"score": score}}])
    (step,) = done.model.steps
    assert step.to_json() == {"drop": {"tower": "text", "kept": [i for i in range(4) if i != idle]}}
    assert done.records[0].error["text"] < 1e-10
    batch = make_miniature_batch("llama", 3, seed=7)
    found, expected = (collect_outputs(model.module, batch)["logits"] for model in (done.model, done.original))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("score", SCORES)
def test_blocks_that_do_nothing_can_all_go(compressed: Callable[..., Any], deeper: Callable[..., None], score: str) -> None:
    deeper("llama", "model.layers.1", "model.layers.2")
    done = compressed("llama", [{"prune.layers": {"sparsity": 0.5, "score": score}}])
    assert done.model.layout.get_tower("text").numbers == (0, 3)
    batch = make_miniature_batch("llama", 3, seed=7)
    assert torch.equal(collect_outputs(done.model.module, batch)["logits"], collect_outputs(done.original.module, batch)["logits"])
    whole, left = dict(done.original.module.state_dict()), dict(done.model.module.state_dict())
    for name, tensor in left.items():
        assert torch.equal(tensor, whole[name.replace("layers.1.", "layers.3.")]), name


def test_the_record_holds_the_error_at_the_towers_end(compressed: Callable[..., Any], deeper: Callable[..., None]) -> None:
    deeper("llama")
    for score in SCORES:
        done = compressed("llama", [{"prune.layers": {"sparsity": 0.5, "score": score}}])
        change = size = 0.0
        for batch in done.batches:
            ends = []
            for model in (done.original, done.model):
                last = model.module.get_submodule(model.layout.get_tower("text").blocks[-1])
                last.register_forward_hook(lambda _, args, output, ends=ends: ends.append(output))  # type: ignore[misc]
                with torch.no_grad():
                    model.module(**batch)
            real = batch["attention_mask"].bool()
            change += float((ends[1] - ends[0])[real].square().sum())
            size += float(ends[0][real].square().sum())
        assert done.records[0].error["text"] == pytest.approx(change / size, rel=1e-5)
        assert done.records[0].weight_error is None and done.records[0].notes[0].startswith("removed blocks ")


def test_divergence_is_the_best_first_choice(compressed: Callable[..., Any], deeper: Callable[..., None]) -> None:
    deeper("llama")
    ends = {
        score: compressed("llama", [{"prune.layers": {"score": score}}]).records[0].error["text"] for score in SCORES
    }
    assert ends["divergence"] == min(ends.values())


def _generates(module: Any, ids: Tensor, **more: Any) -> Tensor:
    """What it says with its cache, which must be what it says without."""
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, **more}
    said: Tensor = module.generate(ids, use_cache=True, **settings)
    assert torch.equal(said, module.generate(ids, use_cache=False, **settings))
    return said


def _reloaded(done: Any, name: str, folder: Path) -> Any:
    source = write_miniature(name, folder / "source")
    (folder / "out").mkdir()
    write_artifact(replace(done.model, folder=source), done.plan, folder / "out", None)
    return open_model(folder / "out")


def test_a_decoder_still_generates_also_when_reloaded(
    compressed: Callable[..., Any], deeper: Callable[..., None], tmp_path: Path
) -> None:
    deeper("llama", "model.layers.1")
    done = compressed("llama", [{"prune.layers": {}}])
    module: Any = done.model.module
    assert module.config.num_hidden_layers == len(module.model.layers) == 3
    assert [block.self_attn.layer_idx for block in module.model.layers] == [0, 1, 2]
    assert done.original.module.config.num_hidden_layers == 4
    ids = make_miniature_batch("llama", 2)["input_ids"][:1]
    said = _generates(module, ids)
    assert torch.equal(said, _generates(done.original.module, ids))
    again = _reloaded(done, "llama", tmp_path)
    assert again.layout.get_tower("text").numbers == (0, 2, 3)
    assert torch.equal(said, _generates(again.module, ids))
    base = hf.AutoModel.from_pretrained(tmp_path / "out")
    assert len(base.layers) == base.config.num_hidden_layers == 3


def test_a_speech_model_still_writes(compressed: Callable[..., Any]) -> None:
    done = compressed("whisper", [{"prune.layers": {"sparsity": 0.5}}])
    config: Any = done.model.module.config
    assert (config.encoder_layers, config.decoder_layers) == (1, 1)
    heard = make_miniature_batch("whisper", 1)["input_features"]
    _generates(done.model.module, heard)


@pytest.mark.parametrize("read", [-2, 2, [-3, -2]])
def test_a_tower_that_is_read_before_its_end(
    compressed: Callable[..., Any], deeper: Callable[..., None], tmp_path: Path, read: int | list[int]
) -> None:
    """LLaVA reads block 2 of 0 to 3 (or 1), so block 3 is idle; then block 1 (0) does nothing either."""
    shallow = read == 2
    deeper("llava", f"model.vision_tower.encoder.layers.{0 if shallow else 1}")
    make = tiny.MINIATURES["llava"]

    def reading() -> nn.Module:
        module: Any = make()
        module.config.vision_feature_layer = read
        if isinstance(read, list):
            module.model.multi_modal_projector.linear_1 = nn.Linear(64, 32)
        return module  # type: ignore[no-any-return]

    tiny.MINIATURES["llava"] = reading  # type: ignore[index]
    sparsity = 0.75 if shallow else 0.5
    done = compressed("llava", [{"prune.layers": {"where": "image", "sparsity": sparsity, "score": "divergence"}}])
    assert done.model.layout.get_tower("image").numbers == ((1,) if shallow else (0, 2))
    expected = {-2: -1, 2: -1}[read] if isinstance(read, int) else [-2, -1]
    config: Any = done.model.module.config
    assert config.vision_feature_layer == expected
    assert config.vision_config.num_hidden_layers == len(done.model.layout.get_tower("image").blocks)
    assert "nothing reads block" in done.records[0].notes[-1]
    batch = make_miniature_batch("llava", 2, seed=3)
    expected_logits = collect_outputs(done.original.module, batch)["logits"]
    assert torch.equal(collect_outputs(done.model.module, batch)["logits"], expected_logits)
    if read == -2:
        assert torch.equal(collect_outputs(_reloaded(done, "llava", tmp_path).module, batch)["logits"], expected_logits)


CHAINS: dict[str, list[Any]] = {
    "then-others": [
        {"prune.layers": {"sparsity": 0.5}}, "prune.heads", {"quantize.gptq": {"bits": 4, "group": 16, "target": 0.5}},
        {"distill": {"steps": 1}},
    ],
    "quantized-before-and-again": [
        {"quantize.rtn": {"where": "text.*.down", "bits": 8}}, {"prune.layers": {"sparsity": 0.25}},
        {"quantize.rtn": {"bits": 4}},
    ],
    "gradual": [
        {"prune.neurons": {"sparsity": 0.25}},
        {"prune.layers": {"sparsity": 0.5, "gradual": {"times": 2, "shape": "linear", "recover": {"steps": 1}}}},
    ],
    "twice-and-weighed-by-gradients": [
        {"prune.layers": {"sparsity": 0.25}}, {"prune.layers": {"sparsity": 0.34, "score": "angular"}}, "quantize.gptq",
    ],
}  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS)
def test_with_other_steps_it_reloads_to_the_same_outputs(
    compressed: Callable[..., Any], deeper: Callable[..., None], chain: str, tmp_path: Path
) -> None:
    deeper("llama", "model.layers.0")
    balance = {"calibration": {"balance": "gradient"}} if "gradients" in chain else {}
    done = compressed("llama", CHAINS[chain], **balance)
    assert done.model.layout == done.expected
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    again = _reloaded(done, "llama", tmp_path)
    assert again.layout == done.model.layout
    assert [step for step in done.model.steps if step in again.steps] == again.steps  # the configuration says the others
    batch = make_miniature_batch("llama", 3, seed=5)
    assert torch.equal(collect_outputs(again.module, batch)["logits"], collect_outputs(done.model.module, batch)["logits"])


def test_layers_quantized_before_stay_what_they_were(compressed: Callable[..., Any], deeper: Callable[..., None]) -> None:
    """Layer 3 of old is layer 2 now: what is quantized there again is not what was recorded under its name."""
    deeper("llama", "model.layers.0")
    done = compressed("llama", CHAINS["quantized-before-and-again"])
    path = "model.layers.2.mlp.down_proj"
    assert done.model.layout.get_tower("text").numbers == (1, 2, 3)
    kept = done.model.module.get_submodule(path).weight
    assert torch.allclose(kept, done.original.module.get_submodule(path.replace("2", "3")).weight, atol=0.5)
    assert [step for step in done.model.steps if isinstance(step, TreatWeight) and step.path == path]


def test_paired_statistics_and_lessons_come_from_the_block_it_was(
    compressed: Callable[..., Any], deeper: Callable[..., None]
) -> None:
    """With what went idle, each block that stays is given what it was given: to compare with a neighbour would show."""
    deeper("llama", "model.layers.0", "model.layers.1")
    done = compressed("llama", [
        {"prune.layers": {"sparsity": 0.5}}, {"quantize.gptq": {"bits": 8, "group": 16, "target": 0.5}},
    ])  # fmt: skip
    alone = compressed("llama", [{"quantize.gptq": {"bits": 8, "group": 16, "target": 0.5}}])
    batch = make_miniature_batch("llama", 3, seed=5)
    expected = collect_outputs(done.original.module, batch)["logits"]
    found, whole = ((collect_outputs(m.module, batch)["logits"] - expected).square().mean() for m in (done.model, alone.model))
    assert float(found) < 4 * float(whole) + 1e-9
    lessons = compressed("llama", [{"prune.layers": {"sparsity": 0.5}}, {"distill": {"steps": 1, "features": 1.0}}])
    assert lessons.records[-1].losses["features"] < 1e-10


def test_no_data_is_an_error(compressed: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match=r"prune.layers\) needs calibration data for image"):
        compressed("clip", [{"prune.layers": {"sparsity": 0.5}}], data=False)


def place(**changes: Any) -> Place:
    """A tower of four blocks with one linear layer each."""
    tower = replace(Tower("image", "image", tuple(f"layers.{i}" for i in range(4)), whole_blocks=""), **changes)
    sites = [Site(f"layers.{i}.up", "image", i, "up", "linear", (4, 4), stored_bytes=64) for i in range(4)]
    return Place("image", tuple(sites), whole_tower=tower)


def _with(number: int, **changes: Any) -> Place:
    whole = place()
    return replace(whole, sites=tuple(replace(s, **changes) if s.block == number else s for s in whole.sites))


@pytest.mark.parametrize(("where", "options", "reason"), [
    (place(blocks=()), {}, "only a tower with blocks"),
    (place(whole_blocks="they are counted"), {}, "they are counted"),
    (place(), {"sparsity": 0.1}, "0.1 of its 4 blocks, rounded, is none"),
    (_with(2, stored_bytes=20, stored="quantized"), {}, "blocks 0 and 2 differ in up"),
    (_with(3, shape=(8, 4)), {}, "blocks 0 and 3 differ in up"),
    (_with(1, path="layers.1.gate"), {}, "blocks 0 and 1 are made of different layers"),
    (_with(1, tied=("layers.2.up",)), {}, "image.1.up shares its weight"),
])  # fmt: skip
def test_reasons_to_leave_a_tower_alone(where: Place, options: Any, reason: str) -> None:
    assert reason in (METHOD.refuse(where, LayersConfig(**options)) or "")


def test_what_cannot_be_known_before_is_refused(compressed: Callable[..., Any]) -> None:
    with pytest.raises(RecipeError, match="blocks 0 and 1 differ in up"):
        compressed("vit", [{"quantize.rtn": {"where": "image.0.up"}}, {"prune.layers": {"sparsity": 0.5}}])
    with pytest.raises(RecipeError, match="its tokens are merged block by block"):
        compressed("vit", ["merge.tokens", {"prune.layers": {"sparsity": 0.5}}])


def test_tokens_can_be_merged_afterwards(
    compressed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config: Any = {**tiny.VISION, **NAMES}
    monkeypatch.setitem(tiny.MINIATURES, "vit", lambda: hf.ViTForImageClassification(hf.ViTConfig(**config)))  # type: ignore[arg-type]
    done = compressed("vit", [{"prune.layers": {"sparsity": 0.25}}, {"merge.tokens": {"share": 0.5}}])
    again = _reloaded(done, "vit", tmp_path)
    batch = make_miniature_batch("vit", 2, seed=4)
    assert torch.equal(collect_outputs(again.module, batch)["logits"], collect_outputs(done.model.module, batch)["logits"])


def test_a_tower_that_no_sample_reaches_is_an_error(deeper: Callable[..., None], tiny_model: Callable[..., Any]) -> None:
    from trimodal.errors import TrimodalError

    model = tiny_model("llama")
    whole = Place("text", model.layout.sites, whole_tower=model.layout.get_tower("text"))
    empty: Sequence[Any] = []
    with pytest.raises(TrimodalError, match="no calibration sample ran through it"):
        layers.survey(model, whole, empty, mix, LayersConfig(sparsity=0.5))


def test_of_blocks_that_a_ranking_made_unlike_it_matters_which_stay(
    compressed: Callable[..., Any], deeper: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deeper("llama")
    plain = tiny._enlarge_weights_

    def enlarge_(module: Any) -> None:
        plain(module)
        for quiet in (module.model.layers[0], module.model.layers[2]):
            for part in (quiet.self_attn.o_proj, quiet.mlp.down_proj):
                part.weight.data *= 0.05

    monkeypatch.setattr(tiny, "_enlarge_weights_", enlarge_)
    done = compressed("llama", [{"prune.neurons": {"scope": "tower"}}, {"prune.layers": {"sparsity": 0.5}}])
    assert done.plan.certainty == "estimate" and done.model.layout.get_tower("text").numbers == (1, 3)
    for site in done.model.layout.sites:
        assert tuple(done.model.module.get_submodule(site.path).weight.shape) == site.shape, site.path
    found = tensor_bytes(unique_tensors(done.model.module).values())
    assert found == done.plan.source.tensor_bytes - sum(r.bytes_before - r.bytes_after for r in done.records)
    folder = write_miniature("llama", tmp_path / "in")
    (tmp_path / "out").mkdir()
    write_artifact(replace(done.model, folder=folder), done.plan, tmp_path / "out", None)
    again, batch = open_model(tmp_path / "out"), make_miniature_batch("llama", 3)
    assert again.layout == done.model.layout
    assert torch.equal(collect_outputs(again.module, batch)["logits"], collect_outputs(done.model.module, batch)["logits"])
