"""Further classes and combinations of the families that see, hear and write: declared in full, and cut right."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from trimodal.core.site import is_width
from trimodal.edits.cut import cut_units_
from trimodal.layers import open_layers_
from trimodal.models.families import FAMILIES, family_of
from trimodal.models.weighted import find_weighted_modules
from trimodal.networks import tiny, tiny_media, tiny_senses
from trimodal.networks.tiny_parts import BLOCKS, TEXT_SIZES, VISION

Batch = dict[str, Tensor]
NO_HEADS: dict[str, Any] = {"vision_use_head": False, "model_type": "siglip_vision_model"}
BACKBONE: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 32], "depths": [1, 1], "out_features": ["stage2"]}
DETR: dict[str, Any] = {
    "d_model": 32, "num_queries": 4, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_labels": 2,
}  # fmt: skip
CONFORMER: dict[str, Any] = {
    **BLOCKS, "vocab_size": 49, "feature_projection_input_dim": 32, "conv_depthwise_kernel_size": 3, "layerdrop": 0.0,
}  # fmt: skip
OWL: dict[str, Any] = {"text_config": {**TEXT_SIZES, "max_position_embeddings": 16}, "vision_config": VISION, "projection_dim": 32}


def batch_of(name: str, *left: str) -> Callable[[], Batch]:
    """The batch of a miniature, without what is `left` out."""
    return lambda: {key: value for key, value in tiny.make_miniature_batch(name, 2).items() if key not in left}


def make_paligemma2() -> nn.Module:
    words = {**tiny_media.WORDS, "model_type": "gemma2", "head_dim": 8, "sliding_window": 32, "query_pre_attn_scalar": 8}
    vision = {**VISION, **NO_HEADS, "projection_dim": 32}
    return hf.PaliGemmaForConditionalGeneration(
        hf.PaliGemmaConfig(vision_config=vision, text_config=words, image_token_index=tiny.IMAGE_TOKEN, projection_dim=32)
    )


def make_llava(decoder: str, vision: dict[str, Any]) -> nn.Module:
    words = {**tiny_media.WORDS, "model_type": decoder}
    config = hf.LlavaConfig(
        vision_config=vision, text_config=words, image_token_index=tiny.IMAGE_TOKEN, image_seq_length=16,
        vision_feature_select_strategy="full" if "vision_use_head" in vision else "default",
    )  # fmt: skip
    return hf.LlavaForConditionalGeneration(config)


def make_writer(encoder: Any, decoder: Any) -> nn.Module:
    return hf.VisionEncoderDecoderModel(hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder))


def make_gpt2() -> Any:
    return hf.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=32, vocab_size=tiny.VOCABULARY, bos_token_id=2, eos_token_id=3, add_cross_attention=True
    )


def make_trocr(width: int) -> Any:
    return hf.TrOCRConfig(
        d_model=width, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=64, vocab_size=tiny.VOCABULARY, pad_token_id=0
    )


def make_qwen3_vl_moe() -> nn.Module:
    words = tiny.make_miniature("qwen3-vl").config
    sizes: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    parts = {f"{name}_config": getattr(words, f"{name}_config").to_dict() for name in ("vision", "text")}
    parts = {name: {key: value for key, value in fields.items() if key != "model_type"} for name, fields in parts.items()}
    parts["text_config"] |= sizes
    return hf.Qwen3VLMoeForConditionalGeneration(hf.Qwen3VLMoeConfig(**parts, **tiny_media.IDS))  # type: ignore[arg-type]


IMAGE, WAVE, FRAMES = batch_of("swin"), batch_of("wavlm"), batch_of("wav2vec2-bert")
LARGE, SAID = batch_of("convnext"), batch_of("trocr")
KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Batch]]] = {
    "swin bare": (lambda: hf.SwinModel(hf.SwinConfig(**tiny_senses.SWIN)), IMAGE),
    "donut's swin": (lambda: hf.DonutSwinModel(hf.DonutSwinConfig(**tiny_senses.SWIN)), IMAGE),
    "convnext bare": (lambda: hf.ConvNextModel(hf.ConvNextConfig(**tiny_senses.STAGES)), LARGE),
    "segformer bare": (lambda: hf.SegformerModel(hf.SegformerConfig(**tiny_senses.STAGES, num_attention_heads=[1, 2, 2, 4])), LARGE),
    "segformer classifier": (
        lambda: hf.SegformerForImageClassification(hf.SegformerConfig(**tiny_senses.STAGES, num_attention_heads=[1, 2, 2, 4])), LARGE
    ),
    "detr bare": (lambda: hf.DetrModel(hf.DetrConfig(backbone_config=hf.ResNetConfig(**BACKBONE), **DETR)), LARGE),
    "table transformer": (
        lambda: hf.TableTransformerForObjectDetection(
            hf.TableTransformerConfig(backbone_config=hf.ResNetConfig(**BACKBONE), use_timm_backbone=False, **DETR)
        ), LARGE,
    ),
    "owlv2": (lambda: hf.Owlv2ForObjectDetection(hf.Owlv2Config(**OWL)), batch_of("owlvit")),
    "owlvit bare": (lambda: hf.OwlViTModel(hf.OwlViTConfig(**OWL)), batch_of("owlvit")),
    "dinov3 gated": (lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VISION, use_gated_mlp=True)), IMAGE),
    "wavlm classifier": (
        lambda: hf.WavLMForSequenceClassification(hf.WavLMConfig(**tiny_senses.WAVE, do_stable_layer_norm=True, feat_extract_norm="layer")),
        WAVE,
    ),
    "hubert": (lambda: hf.HubertForCTC(hf.HubertConfig(**tiny_senses.WAVE)), WAVE),
    "wav2vec2-bert bare": (lambda: hf.Wav2Vec2BertModel(hf.Wav2Vec2BertConfig(**CONFORMER)), FRAMES),
    "wav2vec2-bert relative": (
        lambda: hf.Wav2Vec2BertForSequenceClassification(hf.Wav2Vec2BertConfig(**CONFORMER, position_embeddings_type="relative")), FRAMES
    ),
    "wav2vec2-bert rotary": (lambda: hf.Wav2Vec2BertForCTC(hf.Wav2Vec2BertConfig(**CONFORMER, position_embeddings_type="rotary")), FRAMES),
    "paligemma 2": (make_paligemma2, batch_of("paligemma")),
    "llava with phi3": (lambda: make_llava("phi3", tiny_media.CLIP), batch_of("llava")),
    "llava with siglip and qwen2": (lambda: make_llava("qwen2", {**VISION, **NO_HEADS}), batch_of("llava")),
    "qwen2-vl bare": (lambda: hf.Qwen2VLModel(tiny.make_miniature("qwen2-vl").config), batch_of("qwen2-vl")),
    "qwen3-vl with experts": (make_qwen3_vl_moe, batch_of("qwen3-vl")),
    "gemma3 bare": (lambda: hf.Gemma3Model(tiny.make_miniature("gemma3-vision").config), batch_of("gemma3-vision")),
    "vit with gpt2": (lambda: make_writer(hf.ViTConfig(**VISION), make_gpt2()), SAID),
    "swin with a wider decoder": (lambda: make_writer(hf.SwinConfig(**tiny_senses.SWIN), make_trocr(64)), SAID),
}


def run(module: nn.Module, batch: Batch) -> list[Tensor]:
    """The outputs that the family names."""
    with torch.no_grad():
        found = module(**batch)
    return [value for output in family_of(module).outputs(module) if (value := output.select_tensor(found)) is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_declared_and_cut_right(kind: str) -> None:
    make, inputs = KINDS[kind]
    torch.manual_seed(0)
    module, batch = open_layers_(make()).eval(), inputs()
    family = family_of(module)
    layout = family.describe(module)
    assert family.name in {known.name for known in FAMILIES}
    assert {path for site in layout.sites for path in (site.path, *site.tied)} == set(find_weighted_modules(module))
    assert not [site.path for site in layout.sites if site.block is None and site.branch == site.path], "left to the end as undeclared"
    assert len(run(module, batch)) == len(family.outputs(module)) > 0
    for label in (label for label in layout.list_labels() if not is_width(label) and (".0." in label or ".1." not in label)):
        consumers = [site for site in layout.sites if site.reads_label(label)]
        units = layout.count_units(label)
        zeroed, cut = copy.deepcopy(module), copy.deepcopy(module)
        with torch.no_grad():
            for site in consumers:
                assert site.input_axis is not None
                zeroed.get_parameter(f"{site.path}.weight")[:, site.input_axis.entry_indices(range(1, units, 2), label)] = 0
        cut_units_(cut, layout, label, range(0, units, 2))
        for left, right in zip(run(zeroed, batch), run(cut, batch), strict=True):
            assert torch.allclose(left, right, atol=1e-5, rtol=1e-4), label
    for label in filter(is_width, layout.list_labels()):
        cut = copy.deepcopy(module)
        cut_units_(cut, layout, label, range(0, layout.count_units(label), 2))
        assert [value.shape for value in run(cut, batch)] == [value.shape for value in run(module, batch)]


DETECTS = (("boxes", ""), ("tokens", "query"))
MEASURED = {
    "detr": DETECTS, "table transformer": DETECTS, "segformer": (("tokens", "pixel"),),
    "owlvit": (("boxes", ""), ("embedding", "")), "owlv2": (("boxes", ""), ("embedding", "")),
}  # fmt: skip


@pytest.mark.parametrize("kind", MEASURED)
def test_detectors_and_segmenters_are_measured_by_what_they_find(kind: str) -> None:
    """Not by the cosine of all scores, which hardly moves where every seventh box is another."""
    module = KINDS[kind][0]() if kind in KINDS else tiny.make_miniature(kind)
    assert tuple((output.kind, output.rows) for output in family_of(module).outputs(module)) == MEASURED[kind]
