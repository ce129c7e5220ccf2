"""Miniatures of models that see or hear and write, beside those that every method is tried on (`networks/tiny.py`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from trimodal.networks.tiny_parts import (
    IMAGE_SIZE,
    IMAGE_TOKEN,
    PATCH,
    RATE,
    TEXT_SIZES,
    VISION,
    VOCABULARY,
    Miniature,
    make_tokenizer,
    make_word_batch,
    prepend_image_tokens,
)

MORE = (
    "<audio>", "<video>", "<|audio_bos|>", "<|audio_eos|>", "<see>", "<seen>", "<fake_token_around_image>", "<global-img>",
    "<end_of_utterance>", "<row_1_col_1>", "<row_1_col_2>",
)  # fmt: skip
AUDIO_TOKEN, VIDEO_TOKEN, HEAR, HEARD, SEE, SEEN = range(VOCABULARY, VOCABULARY + 6)
WORDS: dict[str, Any] = {
    **TEXT_SIZES, "vocab_size": VOCABULARY + len(MORE), "num_key_value_heads": 2, "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}  # fmt: skip
SIGLIP: dict[str, Any] = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
CLIP: dict[str, Any] = {**VISION, "model_type": "clip_vision_model"}
PATCHES = (IMAGE_SIZE // PATCH) ** 2
JOINED = PATCHES // 4  # tokens of an image where four patches become one
ROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
IDS: dict[str, Any] = {
    "image_token_id": IMAGE_TOKEN, "video_token_id": VIDEO_TOKEN, "vision_start_token_id": SEE, "vision_end_token_id": SEEN,
}  # fmt: skip
UNTIED: dict[str, Any] = {"tie_word_embeddings": False}
MELS, FRAMES = 16, 100
HEARD_TOKENS = FRAMES // 4
SPEECH: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "num_mel_bins": MELS,
    "max_source_positions": FRAMES // 2,
}  # fmt: skip


def _make_qwen2_vl() -> nn.Module:
    sizes = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": PATCH, "mlp_ratio": 2}
    return hf.Qwen2VLForConditionalGeneration(
        hf.Qwen2VLConfig(vision_config=sizes, text_config={**WORDS, "rope_parameters": ROPE}, tie_word_embeddings=False, **IDS)
    )


def _make_qwen25_vl() -> nn.Module:
    sizes = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": PATCH, "out_hidden_size": 32,
        "window_size": 2 * PATCH, "fullatt_block_indexes": [1],
    }  # fmt: skip
    return hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(vision_config=sizes, text_config={**WORDS, "rope_parameters": ROPE}, tie_word_embeddings=False, **IDS)
    )


def _make_qwen3_vl() -> nn.Module:
    sizes = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": PATCH, "out_hidden_size": 32,
        "num_position_embeddings": PATCHES, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    words = {**WORDS, "head_dim": 8, "rope_parameters": ROPE}
    return hf.Qwen3VLForConditionalGeneration(
        hf.Qwen3VLConfig(vision_config=sizes, text_config=words, tie_word_embeddings=False, **IDS)
    )


def _make_gemma3() -> nn.Module:
    words = {**WORDS, "model_type": "gemma3_text", "head_dim": 8, "sliding_window": 32, "query_pre_attn_scalar": 8}
    config = hf.Gemma3Config(
        vision_config=SIGLIP, text_config=words, image_token_index=IMAGE_TOKEN, boi_token_index=SEE, eoi_token_index=SEEN,
        mm_tokens_per_image=4, tie_word_embeddings=False,
    )  # fmt: skip
    return hf.Gemma3ForConditionalGeneration(config)


def _make_paligemma() -> nn.Module:
    words = {**WORDS, "model_type": "gemma", "head_dim": 8}
    config = hf.PaliGemmaConfig(
        vision_config={**SIGLIP, "projection_dim": 32}, text_config=words, image_token_index=IMAGE_TOKEN, projection_dim=32,
        tie_word_embeddings=False,
    )  # fmt: skip
    return hf.PaliGemmaForConditionalGeneration(config)


def _make_idefics3(model: Any, config: Any) -> nn.Module:
    made: nn.Module = model(
        config(
            vision_config=VISION, text_config={**WORDS, "model_type": "llama"}, image_token_id=IMAGE_TOKEN, scale_factor=2,
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    return made


def _make_llava_next() -> nn.Module:
    config = hf.LlavaNextConfig(
        vision_config=CLIP, text_config={**WORDS, "model_type": "llama"}, image_token_index=IMAGE_TOKEN,
        image_grid_pinpoints=[[IMAGE_SIZE, 2 * IMAGE_SIZE]], tie_word_embeddings=False,
    )  # fmt: skip
    return hf.LlavaNextForConditionalGeneration(config)


def _make_onevision() -> nn.Module:
    config = hf.LlavaOnevisionConfig(
        vision_config=SIGLIP, text_config={**WORDS, "model_type": "qwen2"}, image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN, image_grid_pinpoints=[[IMAGE_SIZE, 2 * IMAGE_SIZE]], tie_word_embeddings=False,
    )  # fmt: skip
    return hf.LlavaOnevisionForConditionalGeneration(config)


def _make_qwen2_audio() -> nn.Module:
    sizes: dict[str, Any] = {"audio_config": SPEECH, "text_config": {**WORDS, "model_type": "qwen2"}}
    config = hf.Qwen2AudioConfig(**sizes, audio_token_index=AUDIO_TOKEN, **UNTIED)
    return hf.Qwen2AudioForConditionalGeneration(config)


def _make_omni() -> nn.Module:
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": PATCH, "out_hidden_size": 32,
        "window_size": 2 * PATCH, "fullatt_block_indexes": [1],
    }  # fmt: skip
    names: dict[str, Any] = {**IDS, "audio_token_id": AUDIO_TOKEN, "audio_start_token_id": HEAR, "audio_end_token_id": HEARD, **UNTIED}
    config = hf.Qwen2_5OmniThinkerConfig(
        audio_config={**SPEECH, "n_window": 25, "output_dim": 32}, vision_config=vision,
        text_config={**WORDS, "rope_parameters": ROPE}, **names,
    )  # fmt: skip
    return hf.Qwen2_5OmniThinkerForConditionalGeneration(config)


def _draw_pixels(n: int, random: torch.Generator, *pieces: int) -> Tensor:
    return torch.randn(n, *pieces, 3, IMAGE_SIZE, IMAGE_SIZE, generator=random)


def _make_fixed_batch(tokens: int, *pieces: int, **more: Callable[[Tensor], Tensor]) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    """Batches of images of one size, of which each takes so many `tokens`; `more` is made of the ids."""

    def make(n: int, random: torch.Generator) -> dict[str, Tensor]:
        words = prepend_image_tokens(make_word_batch(n, random), tokens)
        made = {name: function(words["input_ids"]) for name, function in more.items()}
        return {**words, "pixel_values": _draw_pixels(n, random, *pieces), **made}

    return make


def _make_grid_batch(n: int, random: torch.Generator) -> dict[str, Tensor]:
    """Images as rows of patches: ids, patches (n · patches, values), grid (n, 3)."""
    words = prepend_image_tokens(make_word_batch(n, random), JOINED)
    side = IMAGE_SIZE // PATCH
    return {
        **words,
        "pixel_values": torch.randn(n * PATCHES, 3 * 2 * PATCH**2, generator=random),
        "image_grid_thw": torch.tensor([[1, side, side]] * n),
        "mm_token_type_ids": (words["input_ids"] == IMAGE_TOKEN).long(),
    }


def _make_sound_batch(n: int, random: torch.Generator) -> dict[str, Tensor]:
    words = prepend_image_tokens(make_word_batch(n, random), HEARD_TOKENS, AUDIO_TOKEN)
    return {
        **words,
        "input_features": torch.randn(n, MELS, FRAMES, generator=random),
        "feature_attention_mask": torch.ones(n, FRAMES, dtype=torch.long),
    }


def _make_omni_batch(n: int, random: torch.Generator) -> dict[str, Tensor]:
    """Each sample a sound and an image, with the tokens around them that the positions are counted by."""
    words = make_word_batch(n, random)
    around = torch.tensor([[HEAR, *[AUDIO_TOKEN] * HEARD_TOKENS, HEARD, SEE, *[IMAGE_TOKEN] * JOINED, SEEN]] * n)
    ids = torch.cat([around, words["input_ids"]], dim=1)
    mask = torch.cat([torch.ones_like(around), words["attention_mask"]], dim=1)
    sounds, images = _make_sound_batch(n, random), _make_grid_batch(n, random)
    return {
        "input_ids": ids, "attention_mask": mask,
        **{name: sounds[name] for name in ("input_features", "feature_attention_mask")},
        **{name: images[name] for name in ("pixel_values", "image_grid_thw")},
    }  # fmt: skip


def _make_patch_processor() -> Any:
    area = IMAGE_SIZE**2
    return Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=2, size={"shortest_edge": area, "longest_edge": area})


def _make_grid_processors() -> Sequence[Any]:
    return (_make_patch_processor(), make_tokenizer(*MORE))


def _make_gemma3_processors() -> Sequence[Any]:
    names = {"boi_token": "<see>", "eoi_token": "<seen>", "image_token": "<image>"}
    tokenizer = make_tokenizer(*MORE, **names)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return (hf.Gemma3Processor(Gemma3ImageProcessorPil(size=size), tokenizer, image_seq_length=4),)


def _make_paligemma_processors() -> Sequence[Any]:
    images = SiglipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_seq_length=PATCHES)
    return (hf.PaliGemmaProcessor(images, make_tokenizer(*MORE, image_token="<image>")),)


def _make_idefics3_processors() -> Sequence[Any]:
    images = Idefics3ImageProcessorPil(size={"longest_edge": 2 * IMAGE_SIZE}, max_image_size={"longest_edge": IMAGE_SIZE})
    return (hf.Idefics3Processor(images, make_tokenizer(*MORE), image_seq_len=JOINED),)


def _make_smolvlm_processors() -> Sequence[Any]:
    edge = {"longest_edge": IMAGE_SIZE}
    return (SmolVLMImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False), make_tokenizer(*MORE))


def _make_next_processors() -> Sequence[Any]:
    pinpoints = [[IMAGE_SIZE, 2 * IMAGE_SIZE]]
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_grid_pinpoints=pinpoints
    )
    return (images, make_tokenizer(*MORE))


def _make_onevision_processors() -> Sequence[Any]:
    size, pinpoints = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}, [[IMAGE_SIZE, 2 * IMAGE_SIZE]]
    return (LlavaOnevisionImageProcessorPil(size=size, image_grid_pinpoints=pinpoints), make_tokenizer(*MORE))


def _make_sound_processors() -> Sequence[Any]:
    sounds = hf.WhisperFeatureExtractor(feature_size=MELS, sampling_rate=RATE, chunk_length=1)
    return (hf.Qwen2AudioProcessor(sounds, make_tokenizer(*MORE), audio_token="<audio>"),)


class _Senses:
    """An image processor and a feature extractor whose fields stand in one file, as Qwen2.5-Omni is published."""

    def save_pretrained(self, folder: Path) -> None:
        """Write the file into `folder`."""
        sounds = hf.WhisperFeatureExtractor(feature_size=MELS, sampling_rate=RATE, chunk_length=1)
        fields = {**sounds.to_dict(), **_make_patch_processor().to_dict()}
        (folder / "preprocessor_config.json").write_text(json.dumps(fields), encoding="utf-8")


def _make_next_batch(n: int, random: torch.Generator) -> dict[str, Tensor]:
    """Square images in two pieces beside the whole: tokens of the whole, of the pieces' rows without what was padded, and of row ends."""
    side = IMAGE_SIZE // PATCH
    words = prepend_image_tokens(make_word_batch(n, random), PATCHES + side * (side + 1))
    sizes = torch.tensor([[IMAGE_SIZE, IMAGE_SIZE]] * n)
    return {**words, "pixel_values": _draw_pixels(n, random, 3), "image_sizes": sizes}


MEDIA: Mapping[str, Miniature] = {
    "qwen2-vl": Miniature(_make_qwen2_vl, _make_grid_batch, _make_grid_processors),
    "qwen2.5-vl": Miniature(_make_qwen25_vl, _make_grid_batch, _make_grid_processors),
    "qwen3-vl": Miniature(_make_qwen3_vl, _make_grid_batch, _make_grid_processors),
    "gemma3-vision": Miniature(
        _make_gemma3, _make_fixed_batch(4, token_type_ids=lambda ids: (ids == IMAGE_TOKEN).long()), _make_gemma3_processors
    ),
    "paligemma": Miniature(
        _make_paligemma, _make_fixed_batch(PATCHES, token_type_ids=torch.zeros_like), _make_paligemma_processors
    ),
    "idefics3": Miniature(
        lambda: _make_idefics3(hf.Idefics3ForConditionalGeneration, hf.Idefics3Config), _make_fixed_batch(JOINED, 1),
        _make_idefics3_processors,
    ),
    "smolvlm": Miniature(
        lambda: _make_idefics3(hf.SmolVLMForConditionalGeneration, hf.SmolVLMConfig), _make_fixed_batch(JOINED, 1),
        _make_smolvlm_processors,
    ),
    "llava-next": Miniature(_make_llava_next, _make_next_batch, _make_next_processors),
    "llava-onevision": Miniature(_make_onevision, _make_next_batch, _make_onevision_processors),
    "qwen2-audio": Miniature(_make_qwen2_audio, _make_sound_batch, _make_sound_processors),
    "qwen2.5-omni": Miniature(_make_omni, _make_omni_batch, lambda: (_Senses(), make_tokenizer(*MORE))),
}  # fmt: skip
