"""What every family must hold to, on its miniature: all declared, in running order, counted right, and cut right."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors import safe_open
from torch import Tensor, nn

from trimodal.core import Layout, Site
from trimodal.core.site import is_width
from trimodal.edits.cut import cut_units_
from trimodal.edits.own_config import get_size
from trimodal.layers import open_layers_
from trimodal.models import generic
from trimodal.models.families import FAMILIES, family_of
from trimodal.models.weighted import find_weighted_modules
from trimodal.networks import tiny, tiny_text
from trimodal.networks.tiny import FURTHER, MEDIA, MINIATURES, PLAIN, make_miniature_batch, write_miniature

MADE = {**MINIATURES, **{name: make for name, make in FURTHER.items() if name not in MEDIA}}  # those: test_media_families.py
DECLARED = [name for name in MADE if name not in PLAIN]
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
VISION = {**SIZES, "image_size": 32, "patch_size": 8}
TEXT: dict[str, Any] = {
    **SIZES, "vocab_size": 49, "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip


def opened(name: str, module: nn.Module) -> nn.Module:
    """As it is when it is loaded, where the family says how that looks."""
    return open_layers_(module) if name in tiny_text.TEXT else module


@cache
def made(name: str) -> nn.Module:
    return opened(name, tiny.make_miniature(name))


def miniature(name: str) -> nn.Module:
    """A copy that the test may change."""
    return copy.deepcopy(made(name))


def described(module: nn.Module) -> Layout:
    return family_of(module).describe(module)


def run(module: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    """The outputs that the family names."""
    with torch.no_grad():
        found = module(**batch)
    return [found[output.field] for output in family_of(module).outputs(module)]


@pytest.mark.parametrize("name", DECLARED)
def test_every_module_with_a_weight_is_declared(name: str) -> None:
    module = miniature(name)
    layout = described(module)
    declared = {path for site in layout.sites for path in (site.path, *site.tied)}
    assert family_of(module) is not generic.FAMILY
    assert declared == set(find_weighted_modules(module))
    assert not [s.path for s in layout.sites if s.block is None and s.branch == s.path], "left to the end as undeclared"


@pytest.mark.parametrize("name", DECLARED)
def test_names_are_unique(name: str) -> None:
    names = [site.name for site in described(miniature(name)).sites]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", DECLARED)
def test_sites_stand_in_running_order(name: str) -> None:
    module = miniature(name)
    layout = described(module)
    declared = [site.path for site in layout.sites]
    fired: list[str] = []
    for path in declared:
        module.get_submodule(path).register_forward_hook(lambda *_, path=path: fired.append(path))
    run(module, make_miniature_batch(name, 2))
    silent = [site for site in layout.sites if site.path not in fired]
    # The fused model and DeBERTa add these weights without calling their modules.
    assert all(site.kind == "embedding" and site.branch in ("position", "kind", "relative") for site in silent)
    assert not silent or name in ("fusion", "deberta", "deberta-apart")
    assert list(dict.fromkeys(fired)) == [path for path in declared if path in fired]


@pytest.mark.parametrize("name", DECLARED)
def test_blocks_hold_their_sites(name: str) -> None:
    layout = described(miniature(name))
    for site in layout.sites:
        if site.block is not None:
            assert site.path.startswith(layout.get_tower(site.tower).blocks[site.block] + ".")
    assert sum(len(tower.blocks) for tower in layout.towers) >= (1 if name == "albert" else 2)


@pytest.mark.parametrize("name", DECLARED)
def test_layout_survives_json_and_needs_no_values(name: str) -> None:
    layout = described(miniature(name))
    assert Layout.from_json(layout.to_json()) == layout
    with torch.device("meta"):
        assert described(opened(name, MADE[name]())) == layout


@pytest.mark.parametrize("name", DECLARED)
def test_bytes_and_parameters_agree_with_the_checkpoint(name: str, tmp_path: Path) -> None:
    """Every tensor of the file is a site's, or a parameter of its own, or a buffer; and nothing else is."""
    folder = write_miniature(name, tmp_path / name)
    module = miniature(name)
    layout = described(module)
    with safe_open(folder / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(key).nbytes for key in file.keys())  # noqa: SIM118
    carried = {id(p) for site in layout.sites for p in module.get_submodule(site.path).parameters()}
    ignored = list(map(module.get_parameter, getattr(module, "_keys_to_ignore_on_save", None) or ()))
    others = [p for p in module.parameters() if id(p) not in carried]
    named = dict(module.named_parameters(remove_duplicate=False))
    sites = {site.path for site in layout.sites}
    running = {f"{path}.{name}" for path in sites for name in ("running_mean", "running_var", "num_batches_tracked")}
    buffers = [value for key, value in module.state_dict().items() if key not in named and key not in running]
    assert sum(s.stored_bytes for s in layout.sites) + sum(t.nbytes for t in (*others, *buffers)) == stored + sum(p.nbytes for p in ignored)


@pytest.mark.parametrize("name", DECLARED)
def test_one_label_has_one_number_of_units(name: str) -> None:
    layout = described(miniature(name))
    for label in layout.list_labels():
        sites = list(layout.find_label_sites(label))
        producers, consumers = ([s for s in sites if s.writes_label(label)], [s for s in sites if s.reads_label(label)])
        assert producers and consumers
        together = is_width(label) or not label.split(".")[1].isdigit()  # every block reads a stream, or a table of positions
        assert len(consumers) == 1 or label.startswith("image.stage") or together
        axes = [axis for s in sites for axis in (s.output_axis, s.input_axis) if axis is not None]
        assert len({axis.units for axis in axes if axis.label == label}) == 1
        for site in producers:
            assert site.output_axis is not None and site.output_axis.size == site.shape[site.output_dim]
        for site in consumers:
            assert site.input_axis is not None and site.input_axis.size == site.shape[1]


def labels_of_miniatures() -> list[tuple[str, str]]:
    """All but the widths, of which `tests/methods/prune/test_width.py` asks more."""
    found = [(name, label) for name in DECLARED for label in described(made(name)).list_labels()]
    return [(name, label) for name, label in found if not is_width(label)]


@pytest.mark.parametrize(("name", "label"), labels_of_miniatures())
def test_cutting_a_label_is_zeroing_what_its_consumer_reads(name: str, label: str) -> None:
    module = miniature(name)
    layout = described(module)
    consumers = [site for site in layout.sites if site.reads_label(label)]
    assert consumers[0].input_axis is not None
    units = consumers[0].input_axis.units
    kept = [unit for unit in range(units) if unit % 2 == 0]
    gone = [unit for unit in range(units) if unit % 2]
    batch = make_miniature_batch(name, 2)
    whole = run(module, batch)
    zeroed, cut = copy.deepcopy(module), copy.deepcopy(module)
    with torch.no_grad():
        for site in consumers:
            assert site.input_axis is not None
            zeroed.get_parameter(f"{site.path}.weight")[:, site.input_axis.entry_indices(gone, label)] = 0
    cut_units_(cut, layout, label, kept)
    expected, found = run(zeroed, batch), run(cut, batch)
    for left, right in zip(expected, found, strict=True):
        assert torch.allclose(left, right, atol=1e-5, rtol=1e-5)
    # A projector that nothing reads would pass too: what was zeroed must have had an effect.
    unread = name == "llava" and label.startswith("image.1.")  # LLaVA reads the last vision block but one
    assert unread or any(not torch.allclose(a, b, atol=1e-4) for a, b in zip(whole, found, strict=True))
    again = described(cut)
    assert again.sites == layout.cut_units(label, kept).sites
    assert again.list_labels() == layout.list_labels()


@pytest.mark.parametrize("name", DECLARED)
def test_counters_hold_what_they_count(name: str) -> None:
    module = miniature(name)
    layout = described(module)
    units = {axis.label: axis.units for s in layout.sites for axis in (s.output_axis, s.input_axis) if axis is not None}
    for counter in (counter for counter in layout.size_attributes if counter.per_unit):
        assert get_size(module.get_submodule(counter.path), counter.attribute) == units[counter.label] * counter.per_unit


def test_grouped_queries_are_cut_with_their_key() -> None:
    layout = described(miniature("llama"))
    query, key = (next(s for s in layout.sites if s.name == f"text.0.{role}") for role in ("query", "key"))
    assert query.output_axis is not None and key.output_axis is not None
    assert (query.output_axis.units, query.output_axis.width) == (2, 16)
    assert (key.output_axis.units, key.output_axis.width) == (2, 8)


def test_tied_weights_are_one_site() -> None:
    layout = described(miniature("llama"))
    assert layout.get_site("model.embed_tokens").tied == ("lm_head",)
    assert not [s for s in layout.sites if s.role == "head"]
    whisper = described(miniature("whisper"))
    assert whisper.get_site("model.decoder.embed_tokens").tied == ("proj_out",)


def test_llava_runs_through_image_fusion_text() -> None:
    layout = described(miniature("llava"))
    assert [tower.name for tower in layout.towers] == ["image", "fusion", "text"]
    towers = list(dict.fromkeys(site.tower for site in layout.sites[1:]))
    assert layout.sites[0].name == "text.embedding"
    assert towers == ["image", "fusion", "text"]


def test_cross_attention_has_a_label_of_its_own() -> None:
    labels = described(miniature("whisper")).list_labels()
    assert {"text.0.heads", "text.0.cross.heads", "text.0.neurons", "audio.1.heads"} <= set(labels)


def test_inner_channels_of_a_residual_block_carry_the_batch_norm() -> None:
    layout = described(miniature("resnet"))
    carrying = [site.name for site in layout.find_label_sites("image.0.1.channels")]
    assert carrying == ["image.0.1.conv", "image.0.1.norm", "image.0.2.conv"]
    assert "image.0.channels" in described(miniature("resnet-basic")).list_labels()


def test_modalities_and_outputs_of_parts_and_heads() -> None:
    image = hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**VISION, projection_dim=16))
    text = hf.CLIPTextModel(hf.CLIPTextConfig(**TEXT))
    assert family_of(image).modalities(image) == ("image",)
    assert [o.field for o in family_of(image).outputs(image)] == ["image_embeds"]
    assert family_of(text).modalities(text) == ("text",)
    assert [o.field for o in family_of(text).outputs(text)] == ["pooler_output"]


def words() -> dict[str, Tensor]:
    return {key: make_miniature_batch("bert", 2)[key] for key in ("input_ids", "attention_mask")}


def pictures() -> dict[str, Tensor]:
    return make_miniature_batch("vit", 2)


WHISPER: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 16, "max_source_positions": 50, "vocab_size": 49,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2,
}  # fmt: skip
WAVE: dict[str, Any] = {
    **SIZES, "conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 3), "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2, "vocab_size": 49,
}  # fmt: skip
LLAMA_CLASSIFIER: Any = hf.LlamaForSequenceClassification
GROUPED: dict[str, Any] = {**TEXT, "num_key_value_heads": 2}
DINO: dict[str, Any] = {name: value for name, value in VISION.items() if name != "intermediate_size"}
OTHERS: dict[str, tuple[Any, Any]] = {
    "clip vision": (lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**VISION)), pictures),
    "clip vision projected": (lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**VISION)), pictures),
    "clip text": (lambda: hf.CLIPTextModel(hf.CLIPTextConfig(**TEXT)), words),
    "clip text projected": (lambda: hf.CLIPTextModelWithProjection(hf.CLIPTextConfig(**TEXT)), words),
    "clip classifier": (lambda: hf.CLIPForImageClassification(hf.CLIPConfig(vision_config=VISION)), pictures),
    "siglip vision": (lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**VISION)), pictures),
    "siglip text": (lambda: hf.SiglipTextModel(hf.SiglipTextConfig(**TEXT)), words),
    "vit bare": (lambda: hf.ViTModel(hf.ViTConfig(**VISION)), pictures),
    "deit": (lambda: hf.DeiTForImageClassification(hf.DeiTConfig(**VISION)), pictures),
    "dinov2 bare": (lambda: hf.Dinov2Model(hf.Dinov2Config(**DINO)), pictures),
    "dinov2 gated": (lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**DINO, use_swiglu_ffn=True)), pictures),
    "dinov2 with registers": (
        lambda: hf.Dinov2WithRegistersForImageClassification(hf.Dinov2WithRegistersConfig(**DINO)), pictures
    ),
    "bert classifier": (lambda: hf.BertForSequenceClassification(hf.BertConfig(**TEXT)), words),
    "bert tokens": (lambda: hf.BertForTokenClassification(hf.BertConfig(**TEXT)), words),
    "bert questions": (lambda: hf.BertForQuestionAnswering(hf.BertConfig(**TEXT)), words),
    "bert masked": (lambda: hf.BertForMaskedLM(hf.BertConfig(**TEXT)), words),
    "roberta": (lambda: hf.RobertaModel(hf.RobertaConfig(**TEXT)), words),
    "llama bare": (lambda: hf.LlamaModel(hf.LlamaConfig(**GROUPED)), words),
    "llama classifier": (lambda: LLAMA_CLASSIFIER(hf.LlamaConfig(**GROUPED)), words),
    "mistral": (lambda: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED)), words),
    "qwen2": (lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED)), words),
    "gemma": (lambda: hf.GemmaForCausalLM(hf.GemmaConfig(**GROUPED, head_dim=8)), words),
    "smollm3": (lambda: hf.SmolLM3ForCausalLM(hf.SmolLM3Config(**GROUPED)), words),
    "granite": (lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**GROUPED)), words),
    "whisper bare": (lambda: hf.WhisperModel(hf.WhisperConfig(**WHISPER)), lambda: make_miniature_batch("whisper", 2)),
    "whisper classifier": (
        lambda: hf.WhisperForAudioClassification(hf.WhisperConfig(**WHISPER)),
        lambda: {"input_features": make_miniature_batch("whisper", 2)["input_features"]},
    ),
    "wav2vec2 bare": (lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVE)), lambda: make_miniature_batch("wav2vec2", 2)),
    "wav2vec2 norm first": (
        lambda: hf.Wav2Vec2ForSequenceClassification(
            hf.Wav2Vec2Config(**WAVE, do_stable_layer_norm=True, feat_extract_norm="layer")
        ),
        lambda: make_miniature_batch("wav2vec2", 2),
    ),
    "hubert": (lambda: hf.HubertModel(hf.HubertConfig(**WAVE)), lambda: make_miniature_batch("wav2vec2", 2)),
    "ast bare": (
        lambda: hf.ASTModel(hf.ASTConfig(**SIZES, max_length=48, num_mel_bins=16)), lambda: make_miniature_batch("ast", 2)
    ),
    "resnet bare": (lambda: hf.ResNetModel(hf.ResNetConfig(embedding_size=8, hidden_sizes=[16], depths=[2])), pictures),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_classes_are_declared_in_order_too(kind: str) -> None:
    make, inputs = OTHERS[kind]
    torch.manual_seed(0)
    module = make().eval()
    layout = described(module)
    assert family_of(module) is not generic.FAMILY
    assert not [s.path for s in layout.sites if s.branch == s.path], "left to the end as undeclared"
    names = [site.name for site in layout.sites]
    assert len(set(names)) == len(names)
    declared, fired = [site.path for site in layout.sites], []
    for path in declared:
        module.get_submodule(path).register_forward_hook(lambda *_, path=path: fired.append(path))
    assert all(value is not None for value in run(module, inputs()))
    assert list(dict.fromkeys(fired)) == [path for path in declared if path in fired]
    for label in layout.list_labels():
        cut_units_(module, layout, label, (0,))
    run(module, inputs())


def test_a_head_nobody_declared_comes_last_and_works() -> None:
    module = hf.BertForMultipleChoice(hf.BertConfig(**TEXT))
    module.extra = nn.Linear(32, 3)
    last: Site = described(module).sites[-1]
    assert (last.path, last.role, last.tower, last.block) == ("extra", "head", "text", None)


def test_families_are_told_by_model_type() -> None:
    known = [kind for family in FAMILIES for kind in family.model_types]
    assert len(known) == len(set(known))
    assert family_of(nn.Linear(2, 2)) is generic.FAMILY
    assert family_of(miniature("qwen3")).name == "llama"
