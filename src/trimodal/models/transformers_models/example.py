"""One blank sample for a Transformers model, its sizes read off the configuration.

Where the configuration does not say how large an input is, the usual size is taken. An example is a guess: whoever runs it must bear
that it fails.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trimodal.errors import TrimodalError
from trimodal.models import encoding
from trimodal.models.transformers_models.companions import add_companions
from trimodal.models.transformers_models.decoding import find_start_token, says_sounds
from trimodal.models.transformers_models.prompts import count_words, mark_token_types, place_marks
from trimodal.models.transformers_models.signature import (
    find_decoder_limit,
    find_modalities,
    find_placeholder,
    find_position_limit,
    is_encoder_decoder,
    list_parameters,
    read_setting,
    reads_text,
    takes_films,
)

_SIDE, _PATCH, _CHANNELS = 224, 16, 3  # of images, where the configuration does not say
_SECONDS, _RATE = 10, 16_000
_VISION = ("vision", "image", "backbone", "thinker", "encoder")
_AUDIO = ("audio", "thinker", "encoder", "speech")


def make_blank_example(module: nn.Module) -> dict[str, Tensor]:
    """Keyword arguments of forward for one sample: a grey image (1, …), silence (1, …), a text of 128 tokens (1, tokens) behind the
    placeholders of both, as far as forward takes them; empty for a model that takes none of them."""
    found = find_modalities(module)
    batch: dict[str, Tensor] = {}
    if "image" in found:
        batch |= _make_images(module)
    if "audio" in found:
        batch |= _make_sounds(module)
    if reads_text(module):
        batch |= _make_texts(module, batch)
    if is_encoder_decoder(module) and not says_sounds(module):
        said = encoding.make_blank_text(module, min(encoding.USUAL_TOKENS, find_decoder_limit(module) or encoding.USUAL_TOKENS))
        batch["decoder_input_ids"] = said["input_ids"].fill_(find_start_token(module))
    taken = list_parameters(module)
    batch = {name: value for name, value in batch.items() if name in taken}
    batch |= add_companions(module, batch) if batch else {}
    return dict(sorted(batch.items(), key=lambda item: len(item[1]) > 1))  # the first says how many samples there are


# Images


def _make_images(module: nn.Module) -> dict[str, Tensor]:
    """The image in the form that forward's other parameters speak of."""
    taken = list_parameters(module)
    channels = _read_number(module, ("num_channels", "in_channels", "in_chans"), _VISION, _CHANNELS)
    height, width = _read_sides(module)
    name = "pixel_values_videos" if "pixel_values" not in taken else "pixel_values"
    if "image_grid_thw" in taken:
        return _make_patch_rows(module, channels)
    if "flattened_patches" in taken:
        return _make_numbered_patches(module)
    if "spatial_shapes" in taken:
        return _make_free_patches(module, channels)
    image = _fill(module, channels, height, width)
    if "aspect_ratio_ids" in taken:
        one = torch.ones(1, 1, dtype=torch.long, device=image.device)
        return {name: image[None, None], "aspect_ratio_ids": one, "aspect_ratio_mask": one[:, :, None]}
    if "image_sizes" in taken and (grids := read_setting(module, ("image_grid_pinpoints",))):
        tiles = 1 + grids[0][0] // height * (grids[0][1] // width)
        sizes = torch.tensor([list(grids[0])], device=image.device)
        return {name: image[:, None].repeat(1, tiles, 1, 1, 1), "image_sizes": sizes}
    if "image_sizes" in taken and read_setting(module, ("model_type",), "vision") == "pixtral":
        return {name: image, "image_sizes": torch.tensor([[height, width]], device=image.device)}
    if "pixel_attention_mask" in taken:
        return {name: image[:, None]}
    frames = _count_frames(module)
    return {name: image[:, None].repeat(1, frames, 1, 1, 1) if frames else image}


def _read_sides(module: nn.Module) -> tuple[int, int]:
    """Height and width of an image."""
    size: Any = read_setting(module, ("image_size", "img_size", "input_size", "crop_size"), *_VISION)
    if isinstance(size, dict):
        size = (size.get("height", _SIDE), size.get("width", _SIDE))
    if isinstance(size, (int, list, tuple)) and size:
        return encoding.height_and_width(size if isinstance(size, int) else (size[0], size[-1]))
    return _SIDE, _SIDE


def _count_frames(module: nn.Module) -> int:
    """Frames of a film, 0 for a model of single images."""
    frames = read_setting(module, ("num_frames", "frames_per_clip")) if takes_films(module) else 0
    return frames if isinstance(frames, int) else 0


def _make_patch_rows(module: nn.Module, channels: int) -> dict[str, Tensor]:
    """Qwen-VL's: patches (height · width, values) of a picture of about 224 pixels, and how many stand in each direction (1, 3)."""
    side = _read_number(module, ("patch_size", "spatial_patch_size"), _VISION, 14)
    merge = _read_number(module, ("spatial_merge_size",), _VISION, 2)
    count = max(1, _SIDE // side // merge) * merge
    values = channels * side * side * _read_number(module, ("temporal_patch_size",), _VISION, 1)
    patches = _fill(module, count * count, values)[0]
    return {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, count, count]], device=patches.device)}


def _make_numbered_patches(module: nn.Module) -> dict[str, Tensor]:
    """Pix2Struct's: `flattened_patches` (1, patches, 2 + values), each behind its row and its column."""
    count = _read_number(module, ("seq_len",), _VISION, 196)
    values = _read_number(module, ("patch_embed_hidden_size",), _VISION, _CHANNELS * _PATCH * _PATCH)
    patches = _fill(module, count, 2 + values)
    patches[:, :, :2] = 1
    return {"flattened_patches": patches, "attention_mask": patches.new_ones(1, count)}


def _make_free_patches(module: nn.Module, channels: int) -> dict[str, Tensor]:
    """SigLIP 2's: `pixel_values` (1, patches, values), which of them are real, and how many stand in each direction (1, 2)."""
    side = _read_number(module, ("patch_size",), _VISION, _PATCH)
    count = int(_read_number(module, ("num_patches",), _VISION, 256) ** 0.5)
    patches = _fill(module, count * count, channels * side * side)
    mask = torch.ones(1, count * count, dtype=torch.long, device=patches.device)
    return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": torch.tensor([[count, count]], device=patches.device)}


def _fill(module: nn.Module, *shape: int) -> Tensor:
    """Ones (1, *shape): an image of zeros is taken for none by some models."""
    return encoding.make_zero_input(module, *shape) + 1


# Sounds


def _make_sounds(module: nn.Module) -> dict[str, Tensor]:
    """Silence: a waveform (1, samples), or as many frames of features as the model has room for."""
    taken = list_parameters(module)
    mels = read_setting(module, ("num_mel_bins", "feature_size", "n_mels"), *_AUDIO)
    raw = "input_values" in taken and read_setting(module, ("conv_dim",), *_AUDIO) is not None
    if raw or ("input_features" not in taken and "audio_input_features" not in taken):
        return {name: _make_wave(module, mels) for name in ("input_values", "audio_values") if name in taken}
    name = "input_features" if "input_features" in taken else "audio_input_features"
    if (rows := read_setting(module, ("feature_projection_input_dim",), *_AUDIO)) is not None:
        return {name: encoding.make_zero_input(module, 100, int(rows))}
    if (per := read_setting(module, ("input_feat_per_channel",), *_AUDIO)) is not None:
        frames = min(200, _read_number(module, ("max_source_positions",), _AUDIO, 200))
        return {name: encoding.make_zero_input(module, frames, int(per))}
    window = 2 * _read_number(module, ("max_source_positions",), _AUDIO, 500)
    features = encoding.make_zero_input(module, int(mels or 80), window)
    mask = torch.ones(1, window, dtype=torch.long, device=features.device)
    return {name: features, "feature_attention_mask": mask, "input_features_mask": mask}


def _make_wave(module: nn.Module, mels: Any) -> Tensor:
    """Ten seconds; where the model reads a spectrogram as an image, that (1, frames, mels), and of a codec one second by channel."""
    longest = read_setting(module, ("max_length",))
    if mels is not None and isinstance(longest, int) and longest > 1:
        return encoding.make_zero_input(module, longest, int(mels))
    if (channels := read_setting(module, ("audio_channels",))) is not None:
        return encoding.make_zero_input(module, int(channels), _read_number(module, ("sampling_rate",), (), _RATE))
    return encoding.make_zero_input(module, _SECONDS * _RATE)


# Texts


def _make_texts(module: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """`input_ids` (1, tokens): those that stand for the image and the sound, and 128 of text, or as many as there are positions for."""
    marks: list[int] = []
    for modality, inputs in (("image", "pixel"), ("audio", "feature")):
        encoded = {name: value for name, value in batch.items() if inputs in name or name.startswith(("image", "input_"))}
        if any(inputs in name for name in encoded) and find_placeholder(module, modality) is not None:
            marks += _place_marks(module, modality, encoded)
    limit = find_position_limit(module) or encoding.USUAL_TOKENS
    text = encoding.make_blank_text(module, max(1, min(encoding.USUAL_TOKENS, limit - len(marks))))["input_ids"]
    end = read_setting(module, ("eos_token_id",), "text")
    if isinstance(end, int) and 0 <= end < count_words(module):
        text[:, -1] = end  # some classifiers read what stands there
    ids = torch.cat([torch.tensor([marks], dtype=text.dtype, device=text.device), text], dim=1) if marks else text
    if type(module).__name__.endswith("ForMultipleChoice"):
        ids = ids[:, None].repeat(1, 2, 1)
    return {"input_ids": ids, **(mark_token_types(module, ids) if marks else {})}


def _place_marks(module: nn.Module, modality: str, encoded: dict[str, Tensor]) -> list[int]:
    """The placeholders of one sample; none where the model's encoder does not run on what was guessed for it."""
    try:
        return place_marks(module, modality, encoded, 1)[0]
    except TrimodalError:
        return []


def _read_number(module: nn.Module, names: tuple[str, ...], kinds: tuple[str, ...], otherwise: int) -> int:
    found = read_setting(module, names, *kinds)
    return found if isinstance(found, int) and found > 0 else otherwise
