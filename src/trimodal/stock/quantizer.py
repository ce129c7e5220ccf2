"""The classes behind `quant_method: trimodal`, with which stock Transformers loads our artifacts.

`from_pretrained` builds the bare model on the meta device, hands it to the quantizer, and then loads the tensors. In
between the recorded steps are replayed, so that every module has the shape and the names that the file has.

Little is imported at the top: this file is loaded while Transformers itself is still being imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from trimodal.errors import ModelError

NAME = "trimodal"


class TrimodalConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """What config.json says: who wrote the weights, and how they are packed if they are no plain tensors."""

    def __init__(self, pack: str = "plain", **ignored: Any) -> None:
        self.quant_method = NAME  # type: ignore[assignment]
        if pack != "plain":
            self.pack = pack


class TrimodalQuantizer(HfQuantizer):  # type: ignore[misc]
    """Rebuilds the compressed architecture before weights are loaded."""

    requires_calibration = True

    def validate_environment(self, *args: Any, **rest: Any) -> None:
        """Refuse entropy-coded weights: Transformers knows no file but plain tensors."""
        if hasattr(self.quantization_config, "pack"):
            raise ModelError(
                "the weights are entropy-coded (model.trimodal), which Transformers cannot read; use trimodal.load(FOLDER), "
                "or write plain ones with: trimodal pack FOLDER -o OUT --pack plain"
            )

    def _process_model_before_weight_loading(self, model: nn.Module, **rest: Any) -> nn.Module:
        from trimodal.formats.steps import read_steps, rebased, replay_steps_

        self._steps = rebased(model, read_steps(Path(rest["checkpoint_files"][0])))
        replay_steps_(model, self._steps)
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **rest: Any) -> nn.Module:
        from trimodal.formats.steps import share_again_

        share_again_(model, self._steps)
        return model

    def is_serializable(self) -> bool:
        """Saving again goes through trimodal, which writes the steps too."""
        return False

    @property
    def is_trainable(self) -> bool:
        """Codes on a grid do not train."""
        return False


def register() -> None:
    """Make `quant_method: trimodal` known to Transformers, once."""
    from transformers.quantizers.auto import (
        AUTO_QUANTIZATION_CONFIG_MAPPING,
        AUTO_QUANTIZER_MAPPING,
        register_quantization_config,
        register_quantizer,
    )

    if NAME not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(NAME)(TrimodalQuantizer)
    if NAME not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(NAME)(TrimodalConfig)


def forget_(module: nn.Module) -> None:
    """Drop Transformers' notes that `module` is quantized, once it no longer is."""
    for owner, names in ((module, ("hf_quantizer", "quantization_method", "is_quantized")),
                         (getattr(module, "config", None), ("quantization_config",))):  # fmt: skip
        for name in names:
            if name in getattr(owner, "__dict__", {}):
                delattr(owner, name)
