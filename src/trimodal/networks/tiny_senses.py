"""Miniatures of models that see or hear without being asked, and of those that write what they read or find, beside those that every
method is tried on (`networks/tiny.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from trimodal.networks.multimodal import MultimodalConfig, MultimodalModel
from trimodal.networks.tiny_parts import (
    BLOCKS,
    BOS,
    EOS,
    IMAGE_SIZE,
    IMAGE_TOKEN,
    PAD,
    RATE,
    TEXT_SIZES,
    VISION,
    VOCABULARY,
    Miniature,
    make_tokenizer,
    make_word_batch,
    prepend_image_tokens,
)

LABELS: dict[str, Any] = {"num_labels": 2}
STAGES: dict[str, Any] = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 16, 32], **LABELS}
SWIN: dict[str, Any] = {
    "image_size": IMAGE_SIZE, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
}  # fmt: skip
QUERIES = 4
WAVE: dict[str, Any] = {
    **BLOCKS, "vocab_size": VOCABULARY, "conv_dim": (16, 16, 16), "conv_stride": (5, 4, 4), "conv_kernel": (10, 3, 3),
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "pad_token_id": PAD, "layerdrop": 0.0,
}  # fmt: skip


def _make_dinov3() -> nn.Module:
    return hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VISION, num_register_tokens=2))


def _make_swin() -> nn.Module:
    return hf.SwinForImageClassification(hf.SwinConfig(**SWIN, **LABELS))


def _make_convnext(second: bool) -> nn.Module:
    if second:
        return hf.ConvNextV2ForImageClassification(hf.ConvNextV2Config(image_size=2 * IMAGE_SIZE, **STAGES))
    return hf.ConvNextForImageClassification(hf.ConvNextConfig(image_size=2 * IMAGE_SIZE, layer_scale_init_value=0.5, **STAGES))


def _make_segformer() -> nn.Module:
    return hf.SegformerForSemanticSegmentation(
        hf.SegformerConfig(**STAGES, num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16)
    )


def _make_detr() -> nn.Module:
    backbone: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "out_features": ["stage4"]}
    sizes: dict[str, Any] = {f"{end}_{what}": n for end in ("encoder", "decoder") for what, n in (
        ("layers", 2), ("ffn_dim", 64), ("attention_heads", 4),
    )}  # fmt: skip
    config = hf.DetrConfig(backbone_config=hf.ResNetConfig(**backbone), d_model=32, num_queries=QUERIES, **sizes, **LABELS)
    return hf.DetrForObjectDetection(config)


def _make_owlvit() -> nn.Module:
    words = {**TEXT_SIZES, "max_position_embeddings": 16}
    return hf.OwlViTForObjectDetection(hf.OwlViTConfig(text_config=words, vision_config=VISION, projection_dim=32))


def _make_blip2() -> nn.Module:
    words: dict[str, Any] = {
        "model_type": "opt", "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64,
        "max_position_embeddings": 64, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "word_embed_proj_dim": 32,
    }  # fmt: skip
    former = {**BLOCKS, "vocab_size": VOCABULARY, "encoder_hidden_size": 32, "cross_attention_frequency": 2}
    config = hf.Blip2Config(
        vision_config=VISION, qformer_config=former, text_config=words, num_query_tokens=QUERIES, image_token_index=IMAGE_TOKEN
    )
    return hf.Blip2ForConditionalGeneration(config)


def _make_wavlm() -> nn.Module:
    return hf.WavLMForCTC(hf.WavLMConfig(**WAVE, num_buckets=8, max_bucket_distance=16))


def _make_wav2vec2_bert() -> nn.Module:
    config = hf.Wav2Vec2BertConfig(
        **BLOCKS, vocab_size=VOCABULARY, feature_projection_input_dim=32, conv_depthwise_kernel_size=3, pad_token_id=PAD, layerdrop=0.0
    )
    return hf.Wav2Vec2BertForCTC(config)


def _make_trocr() -> nn.Module:
    words = hf.TrOCRConfig(
        vocab_size=VOCABULARY, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64, max_position_embeddings=32,
        cross_attention_hidden_size=32, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS,
    )  # fmt: skip
    return _make_writer(hf.DeiTConfig(**VISION), words)


def _make_donut() -> nn.Module:
    ends: dict[str, Any] = {"is_decoder": True, "add_cross_attention": True, "is_encoder_decoder": False, "forced_eos_token_id": None}
    words = hf.MBartConfig(
        vocab_size=VOCABULARY, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64, max_position_embeddings=32,
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS, **ends,
    )  # fmt: skip
    return _make_writer(hf.DonutSwinConfig(**SWIN), words)


def _make_writer(encoder: Any, decoder: Any) -> nn.Module:
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = BOS, PAD, EOS
    config.tie_word_embeddings = False
    return hf.VisionEncoderDecoderModel(config)


def _make_multimodal() -> nn.Module:
    own: dict[str, Any] = {"width": 32, "blocks": 1}
    streams = {
        "image": {"modality": "image", "tower": hf.ViTConfig(**VISION).to_dict()},
        "text": {"modality": "text", "tower": hf.BertConfig(**TEXT_SIZES).to_dict()},
        "vitals": {"modality": "signal", "channels": 5, "length": 20, "patch": 4, **own},
    }
    config = MultimodalConfig(
        streams=streams, fusion_width=32, fusion_blocks=2, cross_blocks=1, head_dim=8, mlp_ratio=2, label_sets={"mood": 3}, **LABELS
    )
    return MultimodalModel(config)


def _make_multimodal_batch(n: int, random: torch.Generator) -> dict[str, Tensor]:
    steps = torch.ones(n, 20, dtype=torch.long)
    steps[1::2, 13:] = 0
    signals = {"vitals": torch.randn(n, 20, 5, generator=random), "vitals_mask": steps}
    return {**_make_image_batch(IMAGE_SIZE)(n, random), **make_word_batch(n, random), **signals}


def _make_image_batch(side: int) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    """Batches of square images (n, 3, side, side)."""
    return lambda n, random: {"pixel_values": torch.randn(n, 3, side, side, generator=random)}


def _make_owl_batch(n: int, random: torch.Generator) -> dict[str, Tensor]:
    return {**_make_image_batch(IMAGE_SIZE)(n, random), **make_word_batch(n, random)}


def _make_query_batch(n: int, random: torch.Generator) -> dict[str, Tensor]:
    return {**_make_image_batch(IMAGE_SIZE)(n, random), **prepend_image_tokens(make_word_batch(n, random), QUERIES)}


def _make_wave_batch(n: int, random: torch.Generator) -> dict[str, Tensor]:
    return {"input_values": torch.randn(n, 1600, generator=random)}


def _make_frame_batch(n: int, random: torch.Generator) -> dict[str, Tensor]:
    return {"input_features": torch.randn(n, 20, 32, generator=random)}


def _make_written_batch(n: int, random: torch.Generator) -> dict[str, Tensor]:
    words = make_word_batch(n, random)
    said = {f"decoder_{name}": value for name, value in words.items()}
    return {**_make_image_batch(IMAGE_SIZE)(n, random), **said}


def _make_image_processors(side: int = IMAGE_SIZE) -> Sequence[Any]:
    size = {"height": side, "width": side}
    return (CLIPImageProcessorPil(size=size, crop_size=size),)


def _make_detr_processors() -> Sequence[Any]:
    return (DetrImageProcessorPil(size={"shortest_edge": IMAGE_SIZE, "longest_edge": 2 * IMAGE_SIZE}),)


def _make_image_and_text_processors() -> Sequence[Any]:
    return (*_make_image_processors(), make_tokenizer())


def _make_wave_processors() -> Sequence[Any]:
    return (hf.Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True, return_attention_mask=True), make_tokenizer())


def _make_frame_processors() -> Sequence[Any]:
    return (hf.SeamlessM4TFeatureExtractor(num_mel_bins=16, stride=2), make_tokenizer())


SENSES: Mapping[str, Miniature] = {
    "dinov3": Miniature(_make_dinov3, _make_image_batch(IMAGE_SIZE), _make_image_processors),
    "swin": Miniature(_make_swin, _make_image_batch(IMAGE_SIZE), _make_image_processors),
    "convnext": Miniature(lambda: _make_convnext(False), _make_image_batch(64), lambda: _make_image_processors(64)),
    "convnextv2": Miniature(lambda: _make_convnext(True), _make_image_batch(64), lambda: _make_image_processors(64)),
    "segformer": Miniature(_make_segformer, _make_image_batch(64), lambda: _make_image_processors(64)),
    "detr": Miniature(_make_detr, _make_image_batch(64), _make_detr_processors),
    "owlvit": Miniature(_make_owlvit, _make_owl_batch, _make_image_and_text_processors),
    "blip2": Miniature(_make_blip2, _make_query_batch, _make_image_and_text_processors),
    "wavlm": Miniature(_make_wavlm, _make_wave_batch, _make_wave_processors),
    "wav2vec2-bert": Miniature(_make_wav2vec2_bert, _make_frame_batch, _make_frame_processors),
    "trocr": Miniature(_make_trocr, _make_written_batch, _make_image_and_text_processors),
    "multimodal": Miniature(_make_multimodal, _make_multimodal_batch, _make_image_and_text_processors),
    "donut": Miniature(_make_donut, _make_written_batch, _make_image_and_text_processors),
}
