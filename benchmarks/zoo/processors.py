"""The processors that are saved beside a model of the zoo: by what it takes, and of its own kind where images or sounds come in a form of
their own. None needs torchvision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import transformers as hf
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.pix2struct.image_processing_pil_pix2struct import Pix2StructImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

from trimodal.models.encoding import height_and_width
from trimodal.models.transformers_models.signature import find_modalities, read_setting
from trimodal.networks.tiny import RATE, make_tokenizer

RAW = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "sew", "speecht5", "speech-encoder-decoder")
FRAMES = ("wav2vec2-bert", "seamless_m4t_v2", "seamless_m4t")


def make_processors(module: Any) -> Sequence[Any]:
    """What is saved beside `module`, each with `save_pretrained`."""
    takes = find_modalities(module)
    kind = module.config.model_type
    if kind in _WHOLE:
        return (_WHOLE[kind](module),)
    parts = []
    if "image" in takes:
        parts.append(_IMAGE.get(kind, _make_plain_images)(module))
    if "audio" in takes:
        parts.append(_make_extractor(module))
    if "text" in takes:
        parts.append(make_tokenizer())
    return parts


def _sides_of(module: Any) -> dict[str, int]:
    side = read_setting(module, ("image_size", "input_size"), "vision", "image", "backbone", "encoder") or 64
    height, width = height_and_width(side)
    return {"height": height, "width": width}


def _make_plain_images(module: Any) -> Any:
    """Images of the model's size, unless it says none: 64 pixels then."""
    size = _sides_of(module)
    return CLIPImageProcessorPil(size=size, crop_size=size)


def _make_extractor(module: Any) -> Any:
    kind = module.config.model_type
    mels = read_setting(module, ("num_mel_bins",), "audio", "thinker", "encoder") or 16
    if kind in RAW:
        return hf.Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True, return_attention_mask=True)
    if kind in FRAMES:
        return hf.SeamlessM4TFeatureExtractor(feature_size=16, num_mel_bins=16, stride=2, sampling_rate=RATE)
    if kind == "encodec":
        return hf.EncodecFeatureExtractor(sampling_rate=RATE)
    if kind == "audio-spectrogram-transformer":
        return hf.ASTFeatureExtractor(sampling_rate=RATE, num_mel_bins=mels, max_length=module.config.max_length)
    if kind == "speech_to_text":
        return hf.Speech2TextFeatureExtractor(feature_size=16, num_mel_bins=16, sampling_rate=RATE)
    if kind == "clap":
        return hf.ClapFeatureExtractor(feature_size=8, hop_length=80, max_length_s=0.5, fft_window_size=256, frequency_max=8000,
                                       sampling_rate=RATE, truncation="rand_trunc", padding="repeatpad")  # fmt: skip
    return hf.WhisperFeatureExtractor(feature_size=mels, sampling_rate=RATE, chunk_length=1)


def _make_qwen_images(module: Any) -> Any:
    vision = getattr(module.config, "thinker_config", module.config).vision_config
    return Qwen2VLImageProcessorPil(patch_size=vision.patch_size, merge_size=vision.spatial_merge_size,
                                    temporal_patch_size=vision.temporal_patch_size, min_pixels=32 * 32, max_pixels=32 * 32)  # fmt: skip


def _make_idefics_images(module: Any) -> Any:
    side = {"longest_edge": module.config.vision_config.image_size}
    return Idefics3ImageProcessorPil(do_image_splitting=False, size=side, max_image_size=side)


def _make_siglip2_images(module: Any) -> Any:
    vision = module.config.vision_config
    return Siglip2ImageProcessorPil(patch_size=vision.patch_size, max_num_patches=vision.num_patches)


def _make_pix2struct_images(module: Any) -> Any:
    return Pix2StructImageProcessorPil(patch_size={"height": 4, "width": 4}, max_patches=16)


def _make_detr_images(module: Any) -> Any:
    return DetrImageProcessorPil(size={"height": 64, "width": 64})


def _make_llava(module: Any) -> Any:
    size = _sides_of(module)
    vision, strategy = module.config.vision_config, module.config.vision_feature_select_strategy
    return hf.LlavaProcessor(CLIPImageProcessorPil(size=size, crop_size=size), make_tokenizer(), patch_size=vision.patch_size,
                             vision_feature_select_strategy=strategy, image_token="<image>",
                             num_additional_image_tokens=int(vision.model_type.startswith("clip")))  # fmt: skip


def _make_llava_next(module: Any) -> Any:
    size = _sides_of(module)
    images = LlavaNextImageProcessorPil(size=size, crop_size=size, image_grid_pinpoints=module.config.image_grid_pinpoints)
    return hf.LlavaNextProcessor(images, make_tokenizer(), patch_size=module.config.vision_config.patch_size,
                                 vision_feature_select_strategy="default", image_token="<image>",
                                 num_additional_image_tokens=1)  # fmt: skip


_IMAGE: dict[str, Callable[[Any], Any]] = {
    "qwen2_vl": _make_qwen_images, "qwen2_5_vl": _make_qwen_images, "qwen3_vl": _make_qwen_images, "qwen2_5_omni": _make_qwen_images,
    "qwen2_5_omni_thinker": _make_qwen_images, "idefics3": _make_idefics_images, "smolvlm": _make_idefics_images,
    "siglip2": _make_siglip2_images, "pix2struct": _make_pix2struct_images, "detr": _make_detr_images,
    "table-transformer": _make_detr_images, "conditional_detr": _make_detr_images,
}  # fmt: skip
_WHOLE: dict[str, Callable[[Any], Any]] = {"llava": _make_llava, "llava_next": _make_llava_next}
