"""Enters the multimodal model's classes in Transformers' Auto classes; `multimodal.register()` loads this file and calls it."""

from __future__ import annotations

import transformers

from trimodal.networks.multimodal.configuration import MultimodalConfig
from trimodal.networks.multimodal.modeling import MultimodalModel


def register_auto_classes() -> None:
    """Enter configuration and model. Calling it again changes nothing. Processors are those of the towers, under their own names."""
    transformers.AutoConfig.register(MultimodalConfig.model_type, MultimodalConfig, exist_ok=True)
    transformers.AutoModel.register(MultimodalConfig, MultimodalModel, exist_ok=True)
