"""From samples to what forward takes, by whatever processors the model's folder has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trimodal.errors import DataError, ModelError
from trimodal.models import encoding
from trimodal.models.foreign import run_foreign
from trimodal.models.model import LoadedSample, Processors
from trimodal.models.transformers_models.companions import add_companions
from trimodal.models.transformers_models.decoding import encode_decoder_texts, says_sounds
from trimodal.models.transformers_models.prompts import encode_prompts
from trimodal.models.transformers_models.signature import (
    INPUTS,
    find_modalities,
    find_position_limit,
    list_parameters,
    list_required,
    read_setting,
    reads_text,
    takes_films,
    takes_prompts,
)
from trimodal.models.transformers_models.texts import encode_text_rows

_UNMAKEABLE = ("visual_feats", "visual_pos", "spectrogram", "past_values", "states", "task_inputs")
_PROCESSORS = {"image": "image processor", "audio": "feature extractor"}
_SOUND_MASKS = ("feature_attention_mask", "input_features_mask", "audio_attention_mask", "audio_mask", "padding_mask")


def encode_for_forward(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """Keyword arguments of forward for the samples `loaded`, each tensor (samples, …) but for those that a processor lays end to end, as
    the patches of Qwen-VL; floats in the module's type.

    Raises:
        DataError: a sample lacks what the model needs, or forward needs an input that nobody can make of samples.
        ModelError: the folder lacks a processor, or it fails.
    """
    taken = list_parameters(module)
    if takes_prompts(module):
        encoding.require_modalities(loaded, "text")
        batch = encode_prompts(module, processors, loaded, partial(encode_media, module, processors))
    else:
        read = [m for m in find_modalities(module) if m != "text" or reads_text(module)]
        encoding.require_modalities(loaded, *read)
        batch = _encode_separately(module, processors, loaded, read)
    batch = {name: value for name, value in batch.items() if name in taken}
    batch |= encode_decoder_texts(module, processors, loaded, batch)
    batch |= add_companions(module, batch)
    check_complete(module, batch)
    return encoding.cast_floats(module, batch)


def check_complete(module: nn.Module, batch: Mapping[str, Tensor]) -> None:
    """Check that forward has all that it needs.

    Raises:
        DataError: an input that it needs is none that can be made of an image, a sound or a text.
    """
    taken = list_parameters(module)
    lacking = [name for name in list_required(module) if name not in batch]
    lacking += [name for name in _UNMAKEABLE if name in taken and name not in batch and name not in lacking]
    if says_sounds(module):
        lacking.append("decoder_input_ids")  # codes of a sound codec
    if lacking or not batch:
        raise DataError(explain_lack(module, lacking or list(taken)[:3]))


def explain_lack(module: nn.Module, lacking: Sequence[str]) -> str:
    """That the inputs called `lacking` cannot be made, and what to do."""
    return (
        f"{type(module).__name__} needs {' and '.join(lacking)}, which nobody can make of an image, a sound or a text; give its class a "
        "method encode(samples) that returns forward's keyword arguments, give rows of tensors as data, or use --data none"
    )


def _encode_separately(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample], read: Sequence[str]) -> dict[str, Tensor]:
    """Each modality by its own processor; what the combined one of two modalities would do otherwise, it is asked for."""
    batch: dict[str, Tensor] = {}
    for modality in read:
        if modality == "text":
            batch |= encode_text_rows(module, processors, loaded, find_position_limit(module))
        else:
            batch |= encode_media(module, processors, loaded, modality)
    return batch


def encode_media(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample], modality: str) -> dict[str, Tensor]:
    """What the image processor or the feature extractor gives for the samples' images or sounds, by the names that forward has for it:
    tensors (samples, …), or laid end to end.

    Raises:
        ModelError: the folder has no such processor, or it fails.
    """
    encoding.require_modalities(loaded, modality)
    run = _run_image_processor if modality == "image" else _run_extractor
    found = run(module, processors, loaded)
    taken = list_parameters(module)
    if modality == "audio" and "attention_mask" in found and (reads_text(module) or "attention_mask" not in taken):
        mask = found.pop("attention_mask")  # that of the text has this name
        found |= {name: mask for name in _SOUND_MASKS if name in taken}
    if "grid_thw" in taken and "image_grid_thw" in found:
        found["grid_thw"] = found.pop("image_grid_thw")  # of a vision tower alone
    made = {name: value for name, value in found.items() if name in taken}
    if not any(name in made for name in INPUTS[modality]):
        raise ModelError(
            f"the folder's {_PROCESSORS[modality]} makes {', '.join(found)}, and {type(module).__name__} takes "
            f"{' or '.join(name for name in INPUTS[modality] if name in taken)}; copy the one that belongs to the model into its folder"
        )
    return made


def _run_image_processor(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    processor = encoding.get_processor(processors, "image")
    options = {"apply_ocr": False} if hasattr(processor, "apply_ocr") else {}
    images = [[sample.image] if takes_prompts(module) else sample.image for sample in loaded]
    found = run_foreign(f"{type(processor).__name__}", partial(processor, images=images, return_tensors="pt", **options))
    made = to_tensors(found)
    if "pixel_values" in made and "pixel_values" not in list_parameters(module):
        made["pixel_values_videos"] = made.pop("pixel_values")
    return {name: _hold_still(module, value) if name.startswith("pixel_values") else value for name, value in made.items()}


def _hold_still(module: nn.Module, images: Tensor) -> Tensor:
    """Images (samples, channels, height, width) as films (samples, frames, channels, height, width) of a model that takes such."""
    frames = read_setting(module, ("num_frames", "frames_per_clip"))
    if not takes_films(module) or images.dim() != 4 or not isinstance(frames, int):
        return images
    return images.unsqueeze(1).repeat(1, frames, 1, 1, 1)


def _run_extractor(module: nn.Module, processors: Processors, loaded: Sequence[LoadedSample]) -> dict[str, Tensor]:
    """Padded to the longest where the extractor does not pad by itself, which sounds of unequal length would not forgive; with the mask of
    what is sound for a language model, which counts frames by it."""
    extractor = encoding.get_processor(processors, "audio")
    rate = int(extractor.sampling_rate)
    waves = encoding.collect_waveforms(loaded, rate)
    known = signature(extractor.__call__).parameters
    padding = known.get("padding")
    options: dict[str, Any] = {"padding": True} if padding is not None and padding.default in (False, Parameter.empty) else {}
    if "return_attention_mask" in known and any(name in list_parameters(module) for name in _SOUND_MASKS[:-1]):
        options["return_attention_mask"] = True
    return to_tensors(run_foreign(type(extractor).__name__, partial(extractor, waves, sampling_rate=rate, return_tensors="pt", **options)))


def to_tensors(found: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a processor returned, those parts that are numbers, in their own shapes; a list of arrays as one.

    Raises:
        ModelError: it gives its images in different sizes, which no one tensor holds.
    """
    made: dict[str, Tensor] = {}
    for name, value in found.items():
        parts = list(value) if isinstance(value, (list, tuple)) else [value]
        shapes = {tuple(part.shape) for part in parts if isinstance(part, (Tensor, np.ndarray))}
        if len(shapes) > 1:
            raise ModelError(
                f"the processor made {name} of shapes {', '.join(map(str, sorted(shapes)))}, which cannot run together; give images of "
                "one size, or set a fixed size in preprocessor_config.json"
            )
        if shapes:
            made[name] = torch.as_tensor(value) if parts[0] is value else torch.stack([torch.as_tensor(part) for part in parts])
        elif parts and isinstance(parts[0], (int, float, list, tuple)):
            made[name] = torch.as_tensor(value)
    return made
