"""Hidden width: what is cut computes what a model does whose stream is zero there, everywhere along the stream."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional

from trimodal.core import Place, Site
from trimodal.core.site import is_width
from trimodal.edits.cut import cut_units_
from trimodal.errors import RecipeError
from trimodal.formats import open_model, write_artifact
from trimodal.formats.reload_check import collect_outputs
from trimodal.loading.load import build_model
from trimodal.methods.options import build_config
from trimodal.methods.prune.width import (
    METHOD,
    WidthConfig,
    compute_dimension_energies,
    compute_dimension_norms,
    count_kept_dimensions,
    rescale_norms,
    survey,
)
from trimodal.models.model import Model
from trimodal.models.tensors import tensor_bytes, unique_tensors
from trimodal.networks.tiny import FURTHER, make_miniature, make_miniature_batch, write_miniature
from trimodal.planning import plan_edits, read_recipe

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
TEXT: dict[str, Any] = {
    **SIZES, "vocab_size": 49, "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
VISION: dict[str, Any] = {**SIZES, "image_size": 32, "patch_size": 8}


def words() -> dict[str, Tensor]:
    return {key: make_miniature_batch("bert", 2)[key] for key in ("input_ids", "attention_mask")}


def pictures() -> dict[str, Tensor]:
    return make_miniature_batch("vit", 2)


HEADS: dict[str, tuple[Any, Any]] = {
    "bert classifier": (lambda: hf.BertForSequenceClassification(hf.BertConfig(**TEXT)), words),
    "bert tokens": (lambda: hf.BertForTokenClassification(hf.BertConfig(**TEXT)), words),
    "bert masked": (lambda: hf.BertForMaskedLM(hf.BertConfig(**TEXT)), words),
    "bert decoder": (lambda: hf.BertLMHeadModel(hf.BertConfig(**TEXT, is_decoder=True)), words),
    "roberta classifier": (lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**TEXT)), words),
    "deit": (lambda: hf.DeiTForImageClassification(hf.DeiTConfig(**VISION)), pictures),
    "clip classifier": (lambda: hf.CLIPForImageClassification(hf.CLIPConfig(vision_config=VISION)), pictures),
    "gemma": (lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**TEXT, head_dim=8, num_key_value_heads=2)), words),
    "granite": (lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**TEXT, num_key_value_heads=2)), words),
    "llama classifier": (
        lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**TEXT, num_key_value_heads=2)), words  # type: ignore[attr-defined]
    ),
}  # fmt: skip
MINIATURES = ("clip", "siglip", "vit", "whisper", "llama", "qwen3", "llava", "clap", "ast", "fusion", "gpt2", "t5", "mixtral", *FURTHER)


def made(name: str) -> tuple[Model, dict[str, Tensor]]:
    """A model with weights that matter, and a batch for it."""
    if name in MINIATURES:
        return build_model(make_miniature(name), name), make_miniature_batch(name, 2)
    make, batch = HEADS[name]
    module = make().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.15 if parameter.dim() > 1 else 0.1))
    return build_model(module, name), batch()


def named(model: Model, batch: dict[str, Tensor]) -> list[Tensor]:
    """The outputs that the family names, those that the module gives."""
    found = collect_outputs(model.module, batch)
    return [found[o.field] for o in model.family.outputs(model.module) if o.field in found]


class KeptNorm(nn.Module):
    """A layer norm that looks at the `kept` dimensions only; the others stay zero."""

    def __init__(self, norm: nn.LayerNorm, kept: Sequence[int]) -> None:
        super().__init__()
        self.norm, self.kept = norm, list(kept)

    @property
    def weight(self) -> Tensor:
        """BLIP-2 asks for its type."""
        return self.norm.weight

    def forward(self, x: Tensor) -> Tensor:
        found = torch.zeros_like(x)
        weight = self.norm.weight[self.kept]
        bias = None if self.norm.bias is None else self.norm.bias[self.kept]
        found[..., self.kept] = functional.layer_norm(x[..., self.kept], (len(self.kept),), weight, bias, self.norm.eps)
        return found


def masked_(model: Model, label: str, kept: Sequence[int]) -> None:
    """Let nothing write to the dimensions that are not `kept`, so that the stream is zero there."""
    sites = list(model.layout.find_label_sites(label))
    gone = [unit for unit in range(32) if unit not in kept]
    with torch.no_grad():
        for site in (site for site in sites if site.writes_label(label) and site.kind != "norm"):
            layer: Any = model.module.get_submodule(site.path)
            assert site.output_axis is not None
            layer.weight.transpose(0, site.output_dim)[site.output_axis.entry_indices(gone)] = 0.0
            if site.bias:
                layer.bias[gone] = 0.0
        for bare in (bare for bare in model.layout.free_parameters if bare.label == label):
            model.module.get_parameter(bare.path)[..., gone] = 0.0
    for site in sites:
        norm = model.module.get_submodule(site.path)
        if isinstance(norm, nn.LayerNorm):
            model.module.set_submodule(site.path, KeptNorm(norm, kept))


def streams() -> list[tuple[str, str]]:
    names = (*MINIATURES, *HEADS)
    return [(name, label) for name in names for label in made(name)[0].layout.list_labels() if is_width(label)]


@pytest.mark.parametrize(("name", "label"), streams())
def test_what_is_cut_computes_what_a_zeroed_stream_does(name: str, label: str) -> None:
    """Exactly so for norms by mean square; a layer norm has to take its mean and variance over what is kept."""
    (model, batch), kept = made(name), [unit for unit in range(32) if unit % 4 != 1]
    whole = named(model, batch)
    cut, masked = (replace(model, module=copy.deepcopy(model.module)) for _ in range(2))
    place = Place.for_label(model.layout, label)
    cut_units_(cut.module, model.layout, label, kept)
    with torch.no_grad():
        for parameter, value in rescale_norms(model, place, kept).items():
            cut.module.get_parameter(parameter).copy_(value)
            norm: Any = cut.module.get_submodule(parameter.removesuffix(".weight"))
            name_of_epsilon = "variance_epsilon" if hasattr(norm, "variance_epsilon") else "eps"
            setattr(norm, name_of_epsilon, getattr(norm, name_of_epsilon) * 32 / 24)  # see the next test
    masked_(masked, label, kept)
    found, expected = named(cut, batch), named(masked, batch)
    assert found and all(torch.allclose(a, b, atol=2e-5, rtol=2e-5) for a, b in zip(found, expected, strict=True))
    assert any(not torch.allclose(a, b, atol=1e-3) for a, b in zip(found, whole, strict=True))
    again = build_model(cut.module, name).layout
    assert again.sites == model.layout.cut_units(label, kept).sites and again.free_parameters == model.layout.free_parameters


@pytest.mark.parametrize("epsilon", [1e-6, 1e-5, 1e-2])
def test_epsilon_that_stays_costs_half_of_its_share_in_the_mean_square(epsilon: float) -> None:
    x, kept, n = torch.randn(64, 32, dtype=torch.float64), 24, 32
    x[:, kept:] = 0.0
    whole = functional.rms_norm(x, (n,), eps=epsilon)[:, :kept]
    cut = functional.rms_norm(x[:, :kept], (kept,), eps=epsilon) * math.sqrt(n / kept)
    square = x[:, :kept].square().mean(1)
    bound = 0.5 * epsilon * (n / kept - 1) / square
    assert (((cut / whole - 1).abs().amax(1)) <= bound * 1.01).all()


def test_worked_example() -> None:
    """W = [[1, 2], [0, 1]], E[x²] = (4, 1): dimension 0 brings 1 · 4, dimension 1 brings 5 · 1."""
    assert compute_dimension_energies(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([4.0, 1.0])).tolist() == [4.0, 5.0]
    along = [(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), 1), (torch.tensor([3.0, 0.0]), 0), (torch.ones(1, 2, 2), -1)]
    assert compute_dimension_norms(along, 2).tolist() == [1.0 + 9.0 + 2.0, 5.0 + 0.0 + 2.0]


QUIET = (3, 8, 17, 30, 31, 0, 5, 21)


def quiet_llama() -> tuple[Model, list[dict[str, Tensor]]]:
    """A model of which some dimensions carry next to nothing, though large weights hang on them."""
    model = build_model(make_miniature("llama"), "llama")
    with torch.no_grad():
        for site in model.layout.find_label_sites("text.width"):
            layer: Any = model.module.get_submodule(site.path)
            if site.writes_label("text.width") and site.kind != "norm":
                layer.weight.transpose(0, site.output_dim)[list(QUIET)] *= 1e-3
            elif site.reads_label("text.width"):
                layer.weight[:, list(QUIET)] *= 5.0
    return model, [make_miniature_batch("llama", 4, seed) for seed in (1, 2)]


@pytest.mark.parametrize("score", ["energy", "activation"])
def test_dimensions_that_carry_nothing_go_first(score: str) -> None:
    model, batches = quiet_llama()
    place = Place.for_label(model.layout, "text.width")

    def lost(name: str) -> float:
        config = build_config(WidthConfig, {"score": name}, "")
        with torch.no_grad():
            change = survey(model, place, batches, lambda parts: next(iter(parts.values())), config)
        assert change.cut is not None and change.error
        if name == score:
            assert set(QUIET).isdisjoint(change.cut.kept)
        cut = copy.deepcopy(model.module)
        cut_units_(cut, model.layout, "text.width", change.cut.kept)
        for parameter, value in change.cut.tensors.items():
            cut.get_parameter(parameter).data.copy_(value)
        fresh = make_miniature_batch("llama", 4, 7)
        before, after = (collect_outputs(module, fresh)["logits"] for module in (model.module, cut))
        return float((before - after).square().mean())

    assert lost(score) < 0.1 * lost("magnitude")


def test_sizes_need_no_data_and_the_other_scores_do(compressed: Any) -> None:
    done = compressed("llama", [{"prune.width": {"where": "text", "score": "magnitude"}}], data=False)
    assert done.model.module.model.embed_tokens.embedding_dim == 24 and not done.records[0].error
    with pytest.raises(RecipeError, match="needs calibration data"):
        compressed("llama", [{"prune.width": {"where": "text"}}], data=False)


@pytest.mark.parametrize("where", ["text", "text.width", "text.*"])
def test_a_tower_is_named_and_no_other_is_cut(compressed: Any, where: str) -> None:
    """`text.*` matches layers of Whisper's decoder that read the encoder's stream; that is no reason to cut it."""
    (edit,) = compressed("whisper", [{"prune.width": {"where": where}}]).plan.edits
    assert [place.name for place in edit.places] == ["text.width"]


def test_the_encoder_of_whisper_narrows_what_the_decoder_reads(compressed: Any) -> None:
    module = compressed("whisper", [{"prune.width": {"where": "audio"}}]).model.module
    cross = module.model.decoder.layers[0].encoder_attn
    assert (cross.q_proj.in_features, cross.k_proj.in_features, cross.v_proj.in_features) == (32, 24, 24)
    assert module.model.encoder.conv2.out_channels == 24 and module.model.encoder.conv1.out_channels == 32


def test_llava_narrows_its_projector_on_both_sides(compressed: Any) -> None:
    module = compressed("llava", [{"prune.width": {"where": "*"}}]).model.module.model
    projector = module.multi_modal_projector
    assert (projector.linear_1.in_features, projector.linear_2.out_features) == (24, 24)
    assert projector.linear_1.out_features == projector.linear_2.in_features == 32


def test_norms_of_heads_are_not_on_the_stream(compressed: Any) -> None:
    done = compressed("qwen3", [{"prune.width": {}}])
    before, after = (m.module.model.layers[0].self_attn.q_norm.weight for m in (done.original, done.model))
    assert torch.equal(before, after)


DINO: dict[str, Any] = {name: value for name, value in VISION.items() if name != "intermediate_size"}
REFUSED: dict[str, tuple[Any, str]] = {
    "bert": (lambda: hf.BertModel(hf.BertConfig(**TEXT)), "hands out last_hidden_state"),
    "vit": (lambda: hf.ViTModel(hf.ViTConfig(**VISION)), "hands out last_hidden_state"),
    "dinov2": (lambda: hf.Dinov2Model(hf.Dinov2Config(**DINO)), "hands out pooler_output"),
    "dinov2 classifier": (lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**DINO)), "reads every dimension twice"),
    "clip": (lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**VISION)), "hands out pooler_output"),
    "roberta": (lambda: hf.RobertaModel(hf.RobertaConfig(**TEXT)), "hands out last_hidden_state"),
    "t5 encoder": (lambda: hf.T5EncoderModel(hf.T5Config(d_model=32, vocab_size=49)), "hands out last_hidden_state"),
    "siglip": (lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**VISION)), "nn.MultiheadAttention"),
    "hubert": (lambda: hf.HubertForCTC(hf.HubertConfig(**SIZES, vocab_size=49)), "in groups of its dimensions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_streams_that_cannot_be_cut_are_refused_with_the_reason(name: str) -> None:
    make, reason = REFUSED[name]
    with torch.device("meta"):
        layout = build_model(make(), name).layout
    with pytest.raises(RecipeError, match=reason):
        plan_edits(layout, read_recipe({"steps": [{"prune.width": {}}]}), data=True)


def test_a_head_that_nobody_declared_keeps_the_width() -> None:
    module = hf.BertForSequenceClassification(hf.BertConfig(**TEXT))
    module.extra = nn.Linear(32, 3)
    (fixed,) = build_model(module, "bert").layout.uncuttable
    assert fixed.label == "text.width" and "nobody has declared how extra.weight" in fixed.reason


BEFORE: list[tuple[dict[str, Any], str]] = [
    ({"quantize.rtn": {"where": "text.1.up", "bits": 8}}, "text.1.up is already quantized"),
    ({"prune.magnitude": {"where": "text.0.query"}}, "text.0.query is already sparse"),
    ({"share.layers": {"where": "text"}}, "shares its weight|is already shared"),
    ({"fold.exact": {"affine": True}}, "a layer along it was folded into others"),
]


@pytest.mark.parametrize(("step", "reason"), BEFORE, ids=str)
def test_what_an_earlier_step_makes_impossible_is_refused(compressed: Any, step: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        compressed("qwen3", [step, {"prune.width": {}}])


def test_a_folded_norm_is_remembered_after_loading(compressed: Any, tmp_path: Path) -> None:
    done = compressed("qwen3", [{"fold.exact": {"affine": True}}])
    write_artifact(replace(done.model, folder=write_miniature("qwen3", tmp_path / "a")), done.plan, tmp_path / "b", None)
    layout = open_model(tmp_path / "b").layout
    assert layout == done.model.layout and not [label for label in layout.list_labels() if is_width(label)]
    assert [fixed.label for fixed in layout.uncuttable] == ["text.width"]


def test_tokens_that_are_stored_once_keep_the_width(compressed: Any) -> None:
    """Class and distillation token of a fresh AST are both zero, and so one tensor."""
    with pytest.MonkeyPatch.context() as patch:
        made_so = make_miniature("ast")
        with torch.no_grad():
            for name in ("cls_token", "distillation_token"):
                getattr(made_so.audio_spectrogram_transformer.embeddings, name).zero_()
        patch.setitem(compressed.__globals__, "miniature", lambda name, seed=0: made_so)
        with pytest.raises(RecipeError, match=r"audio.width: a layer along it was folded into others"):
            compressed("ast", [{"fold.exact": {}}, {"prune.width": {}}])


CHAINS: dict[str, list[dict[str, Any]]] = {
    "between others": [
        {"prune.neurons": {"sparsity": 0.5}}, {"prune.width": {}}, {"prune.heads": {"sparsity": 0.5}},
        {"distill": {"steps": 1}}, {"quantize.rtn": {"where": "*", "bits": 8}},
    ],
    "twice, blocks gone, low rank": [
        {"factorize.eigen": {"where": "*.up", "sparsity": 0.25}}, {"prune.width": {"sparsity": 0.125, "multiple": 2}},
        {"prune.layers": {"sparsity": 0.5}}, {"prune.width": {"score": "magnitude", "multiple": 2}},
    ],
    "gradual": [{"prune.width": {"sparsity": 0.5, "gradual": {"times": 2, "recover": {"steps": 1}}}}],
}  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "whisper", *(pytest.param(n, marks=pytest.mark.slow) for n in ("fusion", "llava", "vit"))])
@pytest.mark.parametrize("chain", CHAINS)
def test_it_goes_with_other_steps_and_reloads(compressed: Any, tmp_path: Path, name: str, chain: str) -> None:
    done = compressed(name, CHAINS[chain])
    assert tensor_bytes(unique_tensors(done.model.module).values()) == done.plan.expected_tensor_bytes
    assert done.model.layout == done.expected
    write_artifact(replace(done.model, folder=write_miniature(name, tmp_path / "a")), done.plan, tmp_path / "b", None)
    again, batch = open_model(tmp_path / "b"), make_miniature_batch(name, 3, seed=9)
    assert again.layout == done.model.layout
    found, expected = collect_outputs(again.module, batch), collect_outputs(done.model.module, batch)
    assert found and all(torch.equal(found[key], expected[key]) for key in expected)


def test_too_little_to_remove_is_refused() -> None:
    layout = build_model(make_miniature("llama"), "llama").layout
    reason = METHOD.refuse(Place.for_label(layout, "text.width"), WidthConfig(sparsity=0.01))
    assert reason == "0.01 of its 32 dimensions is none, as a multiple of 8 stays"
    found = [count_kept_dimensions(768, WidthConfig(sparsity=share, multiple=n)) for share, n in ((0, 8), (0.25, 8), (0.3, 64), (1, 8))]
    assert found == [768, 576, 576, 8] and count_kept_dimensions(6, WidthConfig(sparsity=0.5)) == 6
    site = Site("a", "text", 0, "up", "linear", (4, 8), stored="quantized")
    assert "already quantized" in (METHOD.refuse(Place("text.width", (site,), "text.width"), WidthConfig()) or "")
