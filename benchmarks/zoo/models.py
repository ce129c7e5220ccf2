"""The zoo: small models of Transformers classes, by name. A line of its own for whoever needs more than the class's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import transformers as hf

from benchmarks.zoo.sizing import PATCH, SIDE, WIDTH, make_config, make_model, make_part

LABELS = {"num_labels": 4}
RAW = {"conv_dim": (16, 16, 16), "conv_stride": (5, 4, 4), "conv_kernel": (10, 3, 3), "num_conv_pos_embeddings": 4,
       "num_conv_pos_embedding_groups": 2, "layerdrop": 0.0}  # fmt: skip
MELS = {"num_mel_bins": 16, "max_source_positions": 50, "max_target_positions": 32}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 32, WIDTH]}
MROPE = {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}}
CHOICE = {"num_experts_per_tok": 2, "num_local_experts": 4}
BACKBONE = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}

_NORMED = "Transformers keeps the weight of its convolutions as length times direction, which no method works on"
REASONS = {
    "XLNetForSequenceClassification": "its attention multiplies by bare tensors, which are no layers",
    "HubertForCTC": _NORMED, "EncodecModel": f"{_NORMED}; codebooks are buffers",
}  # fmt: skip
"""Why less than nine tenths of a model's bytes are in places."""


@dataclass(frozen=True)
class Animal:
    """One model: its class, the kind of model, and how it is made."""

    name: str
    kind: str
    make: Callable[[], Any]

    @property
    def why(self) -> str:
        """Why less than nine tenths of it are covered; empty where more are."""
        return REASONS.get(self.name, "")


def _resnet() -> Any:
    return make_config("ResNetConfig", embedding_size=8, **STAGES, out_features=["stage4"])


def _vision(model_type: str = "siglip") -> dict[str, Any]:
    return {**make_part({"clip": "CLIPVisionConfig", "siglip": "SiglipVisionConfig"}[model_type]), "vision_use_head": False}


def _pair(kind: str, text: str, vision: str, **given: Any) -> Any:
    """A model of two or three parts: their configurations stand in the whole one's."""
    words, seen = given.pop("words", {}), given.pop("seen", None)
    return make_model(kind, text_config=make_part(text, **words), vision_config=seen or make_part(vision), **given)


def _llava(text: str, vision: Mapping[str, Any], **given: Any) -> Any:
    return make_model("LlavaForConditionalGeneration", text_config=make_part(text), vision_config=dict(vision),
                      image_seq_length=(SIDE // PATCH) ** 2, **given)  # fmt: skip


def _trocr() -> Any:
    decoder = make_config("TrOCRConfig", cross_attention_hidden_size=WIDTH, use_learned_position_embeddings=True)
    whole = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(make_config("ViTConfig"), decoder)
    whole.decoder_start_token_id, whole.pad_token_id = 2, 0
    return make_model("VisionEncoderDecoderModel", config=whole)


def _qwen2_vl() -> Any:
    seen = make_part("Qwen2VLVisionConfig", depth=2, mlp_ratio=2)
    return _pair("Qwen2VLForConditionalGeneration", "Qwen2VLTextConfig", "", words=MROPE, seen=seen)


def _qwen3_vl() -> Any:
    seen = make_part("Qwen3VLVisionConfig", depth=2, out_hidden_size=WIDTH, num_position_embeddings=16, deepstack_visual_indexes=[0])
    return _pair("Qwen3VLForConditionalGeneration", "Qwen3VLTextConfig", "", words=MROPE, seen=seen)


def _blip2() -> Any:
    asking = make_part("Blip2QFormerConfig", encoder_hidden_size=WIDTH, cross_attention_frequency=2)
    return make_model("Blip2ForConditionalGeneration", vision_config=make_part("Blip2VisionConfig"), qformer_config=asking,
                      text_config=make_part("OPTConfig", word_embed_proj_dim=WIDTH), num_query_tokens=4)  # fmt: skip


def _detr(kind: str) -> Any:
    return make_model(kind, **BACKBONE, backbone_config=_resnet(), num_queries=8, **LABELS)


def _sam() -> Any:
    seen = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 8, "output_channels": 16,
            "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 64, "num_pos_feats": 8}  # fmt: skip
    asked = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
    drawn = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    return make_model("SamModel", vision_config=seen, prompt_encoder_config=asked, mask_decoder_config=drawn)


def _named(kind: str, names: Mapping[str, Mapping[str, Any]]) -> list[Animal]:
    """Models that need no more than their class's name and a few sizes."""
    return [Animal(name, kind, partial(make_model, name, **given)) for name, given in names.items()]


TEXT = _named("text", {
    "DistilBertForSequenceClassification": {"hidden_dim": 2 * WIDTH, **LABELS}, "BertForTokenClassification": LABELS,
    "BertForQuestionAnswering": {}, "BertForMaskedLM": {}, "BertForMultipleChoice": {}, "RobertaForSequenceClassification": LABELS,
    "XLMRobertaForTokenClassification": LABELS, "ModernBertForSequenceClassification": LABELS, "ElectraForSequenceClassification": LABELS,
    "DebertaV2ForSequenceClassification": {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"], **LABELS},
    "AlbertForSequenceClassification": {"embedding_size": 32, **LABELS}, "XLNetForSequenceClassification": LABELS, "MPNetModel": {},
    "LayoutLMForTokenClassification": LABELS, "FNetForSequenceClassification": LABELS, "T5ForConditionalGeneration": {},
    "T5EncoderModel": {}, "BartForConditionalGeneration": {}, "MarianMTModel": {"decoder_start_token_id": 0},
    "M2M100ForConditionalGeneration": {}, "GPT2LMHeadModel": {}, "GPTNeoXForCausalLM": {}, "BloomForCausalLM": {},
    "OPTForCausalLM": {"word_embed_proj_dim": WIDTH}, "LlamaForSequenceClassification": LABELS, "Gemma2ForCausalLM": {},
    "Phi3ForCausalLM": {}, "CohereForCausalLM": {}, "Starcoder2ForCausalLM": {},
    "Mamba2ForCausalLM": {"state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 16},
})  # fmt: skip
EXPERTS = _named("experts", {
    "MixtralForCausalLM": CHOICE, "GptOssForCausalLM": {**CHOICE, "sliding_window": 16},
    "OlmoeForCausalLM": {"num_experts": 4, "num_experts_per_tok": 2},
    "Qwen3MoeForCausalLM": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": WIDTH},
})  # fmt: skip
VISION = _named("vision", {
    "BeitForImageClassification": LABELS, "DeiTForImageClassification": LABELS, "Dinov2WithRegistersModel": {"mlp_ratio": 2},
    "DINOv3ViTModel": {}, "ViTForMaskedImageModeling": {"encoder_stride": PATCH},
    "VideoMAEForVideoClassification": {"num_frames": 4, **LABELS},
    "ViTMAEForPreTraining": {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
                             "decoder_intermediate_size": 64},
    "SwinForImageClassification": {"patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, **LABELS},
    "ConvNextForImageClassification": {**STAGES, "image_size": 64, "patch_size": 4, **LABELS},
    "MobileNetV2ForImageClassification": {"depth_multiplier": 0.35, "image_size": 64, **LABELS},
    "RegNetForImageClassification": {"embedding_size": 16, **STAGES, "groups_width": 16, **LABELS},
    "PoolFormerForImageClassification": {**STAGES, "image_size": 64, "patch_size": 16, **LABELS},
    "SegformerForSemanticSegmentation": {**STAGES, "num_attention_heads": [1, 2, 2, 4], "decoder_hidden_size": 32, **LABELS},
    "DPTForDepthEstimation": {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 16, 16],
                              "fusion_hidden_size": 16, "is_hybrid": False, "backbone_config": None},
    "YolosForObjectDetection": {"image_size": [SIDE, SIDE], "num_detection_tokens": 8, **LABELS},
})  # fmt: skip
DETECTION = [
    Animal("DetrForObjectDetection", "vision", partial(_detr, "DetrForObjectDetection")),
    Animal("ConditionalDetrForObjectDetection", "vision", partial(_detr, "ConditionalDetrForObjectDetection")),
    Animal("SamModel", "vision", _sam),
]
AUDIO = _named("audio", {
    "WavLMForSequenceClassification": {**RAW, **LABELS}, "HubertForCTC": RAW,
    "Wav2Vec2ForXVector": {**RAW, "xvector_output_dim": 16, "tdnn_dim": (32, 32, 32)},
    "Data2VecAudioForCTC": {**RAW, "conv_pos_kernel_size": 3, "num_conv_pos_embeddings": 2},
    "Wav2Vec2BertForCTC": {"feature_projection_input_dim": 32, "conv_depthwise_kernel_size": 3, "layerdrop": 0.0},
    "ASTForAudioClassification": {"max_length": 48, "num_mel_bins": 16, "frequency_stride": 8, "time_stride": 8, **LABELS},
    "WhisperForConditionalGeneration": {**MELS, "decoder_start_token_id": 2, "begin_suppress_tokens": None, "suppress_tokens": None},
    "Speech2TextForConditionalGeneration": {"max_source_positions": 64, "max_target_positions": 32, "num_conv_layers": 2,
                                            "conv_kernel_sizes": (3, 3), "conv_channels": 32, "input_feat_per_channel": 16},
    "SpeechT5ForSpeechToText": RAW,
    "EncodecModel": {"num_filters": 8, "hidden_size": 16, "codebook_size": 32, "codebook_dim": 16, "upsampling_ratios": [4, 2],
                     "sampling_rate": 16000},
})  # fmt: skip


def _mixed(name: str, make: Callable[..., Any], *parts: Any, **given: Any) -> Animal:
    """A model of several parts, made by `make`: of the class that its name begins with where that is to be told."""
    told = (name.partition("/")[0], *parts) if make in (_pair, make_model) else parts
    return Animal(name, "multimodal", partial(make, *told, **given))


MULTIMODAL = [
    _mixed("CLIPModel", _pair, "CLIPTextConfig", "CLIPVisionConfig"),
    _mixed("Siglip2Model", _pair, "Siglip2TextConfig", "", seen=make_part("Siglip2VisionConfig", num_patches=16)),
    _mixed("AltCLIPModel", _pair, "AltCLIPTextConfig", "AltCLIPVisionConfig"),
    _mixed("OwlViTForObjectDetection", _pair, "OwlViTTextConfig", "OwlViTVisionConfig", words={"max_position_embeddings": 16}),
    _mixed("BlipForConditionalGeneration", _pair, "BlipTextConfig", "BlipVisionConfig",
           words={"encoder_hidden_size": WIDTH, "sep_token_id": 3}),
    _mixed("Blip2ForConditionalGeneration", _blip2),
    _mixed("LlavaForConditionalGeneration/cohere", _llava, "CohereConfig", _vision("clip")),
    _mixed("LlavaForConditionalGeneration/gemma", _llava, "GemmaConfig", _vision(), vision_feature_select_strategy="full"),
    _mixed("LlavaNextForConditionalGeneration", _pair, "LlamaConfig", "", seen=_vision("clip"), image_grid_pinpoints=[[32, 64]]),
    _mixed("PaliGemmaForConditionalGeneration", _pair, "GemmaConfig", "", seen=_vision()),
    _mixed("Gemma3ForConditionalGeneration", _pair, "Gemma3TextConfig", "", seen=_vision(), mm_tokens_per_image=4),
    _mixed("Qwen2VLForConditionalGeneration", _qwen2_vl),
    _mixed("Qwen3VLForConditionalGeneration", _qwen3_vl),
    _mixed("SmolVLMForConditionalGeneration", _pair, "LlamaConfig", "SmolVLMVisionConfig", scale_factor=2),
    _mixed("Qwen2AudioForConditionalGeneration", make_model, audio_config=make_part("Qwen2AudioEncoderConfig", **MELS),
           text_config=make_part("Qwen2Config"), audio_token_index=4),
    _mixed("VisionEncoderDecoderModel/TrOCR", _trocr),
]  # fmt: skip
ZOO = (*TEXT, *EXPERTS, *VISION, *DETECTION, *AUDIO, *MULTIMODAL)
