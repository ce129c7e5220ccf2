"""What the tokens are that run through the towers of a model that nobody declared."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from trimodal.core import Tower
from trimodal.models import encoding, generic
from trimodal.models.model import Batch
from trimodal.models.transformers_models.signature import find_placeholder

_TOWERS: WeakKeyDictionary[nn.Module, tuple[Tower, ...]] = WeakKeyDictionary()


def mark_tokens(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """By tower (samples, tokens): text, what is to be answered, what stands for an image or a sound, and padding; frames of sound where
    their mask says which are real. What runs through a tower in another shape counts as the tower's own."""
    read = _mark_words(module, batch, "input_ids", "attention_mask")
    said = _mark_words(module, batch, "decoder_input_ids", "decoder_attention_mask")
    heard = _mark_frames(module, batch) if read is None else None
    found: dict[str, Tensor | None] = {}
    for tower in _list_towers(module):
        if tower.modality == "audio":
            found[tower.name] = heard
        elif tower.modality in ("text", "all"):
            decodes = said is not None and (read is None or any("decoder" in prefix for prefix in tower.prefixes))
            found[tower.name] = said if decodes else read if read is not None else heard
    return {name: codes for name, codes in found.items() if codes is not None}


def _mark_words(module: nn.Module, batch: Batch, ids: str, mask: str) -> Tensor | None:
    """What the words called `ids` (samples, tokens) are; None where there are none, or in another shape."""
    if ids not in batch or batch[ids].dim() != 2:
        return None
    found = encoding.mark_text_tokens(batch, ids, mask if mask in batch and batch[mask].shape == batch[ids].shape else "")
    for modality, code in (("image", encoding.IMAGE), ("audio", encoding.AUDIO)):
        placeholder = find_placeholder(module, modality)
        if placeholder is not None:
            found = found.masked_fill(batch[ids] == placeholder, code)
    return found


def _mark_frames(module: nn.Module, batch: Batch) -> Tensor | None:
    """Which frames (samples, frames) are sound and which padding, by the model's own rule for how many it makes of a waveform; None where
    it has no such rule, or there is no mask."""
    mask = batch.get("attention_mask")
    rules = (getattr(part, "_get_feat_extract_output_lengths", None) for part in module.modules())
    rule: Any = next((found for found in rules if found is not None), None)
    if mask is None or mask.dim() != 2 or "input_ids" in batch:
        return None
    if "input_values" not in batch:
        same = "input_features" in batch and batch["input_features"].shape[1] == mask.shape[1]
        return torch.full_like(mask, encoding.AUDIO, dtype=torch.long).masked_fill(mask == 0, encoding.PADDING) if same else None
    if rule is None:
        return None
    frames, real = int(rule(torch.tensor(mask.shape[1]))), rule(mask.sum(-1))
    places = torch.arange(frames, device=mask.device)[None]
    return torch.full((len(mask), frames), encoding.AUDIO, device=mask.device).masked_fill(places >= real[:, None], encoding.PADDING)


def _list_towers(module: nn.Module) -> tuple[Tower, ...]:
    """The module's towers; remembered, as they keep their names."""
    if module not in _TOWERS:
        _TOWERS[module] = generic.describe(module).towers
    return _TOWERS[module]
