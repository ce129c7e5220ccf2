"""Enters the fused model's classes in Transformers' Auto classes; `fusion.register()` loads this file and calls it."""

from __future__ import annotations

import transformers

from trimodal.networks.fusion.configuration import FusionConfig
from trimodal.networks.fusion.modeling import FusionModel
from trimodal.networks.fusion.processing import FusionFeatureExtractor, FusionProcessor


def register_auto_classes() -> None:
    """Enter configuration, model, feature extractor and processor. Calling it again changes nothing."""
    transformers.AutoConfig.register(FusionConfig.model_type, FusionConfig, exist_ok=True)
    transformers.AutoModel.register(FusionConfig, FusionModel, exist_ok=True)
    for auto, ours in (
        (transformers.AutoFeatureExtractor, FusionFeatureExtractor),
        (transformers.AutoProcessor, FusionProcessor),
    ):
        auto.register(FusionConfig, ours, exist_ok=True)  # type: ignore[no-untyped-call, unused-ignore]
