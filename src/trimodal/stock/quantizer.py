"""The classes behind `quant_method: trimodal`, with which stock Transformers loads our artifacts.

`from_pretrained` builds the bare model on the meta device, hands it to the quantizer, and then loads the tensors. In
between the recorded steps are replayed, so that every module has the shape and the names that the file has.

Little is imported at the top: this file is loaded while Transformers itself is still being imported, and what carries the
work out needs it whole. `_get_opening` is the one place that looks that up, when the first model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from trimodal.errors import ModelError
from trimodal.models.files import NAMED, OURS

NAME = "trimodal"


class TrimodalConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """What config.json says: who wrote the weights, and how they are packed if they are no plain tensors. `dequantize` is the policy
    by which weights are decoded, `speed` or `memory`; see `trimodal.load`."""

    def __init__(self, pack: str = "plain", dequantize: str = "speed", **ignored: Any) -> None:
        self.quant_method = NAME  # type: ignore[assignment]
        if dequantize != "speed":
            self.dequantize = dequantize
        if pack != "plain":
            self.pack = pack


class TrimodalQuantizer(HfQuantizer):  # type: ignore[misc]
    """Rebuilds the compressed architecture before weights are loaded."""

    requires_calibration = True
    unsaid = ""  # why not even plain float layers can be saved

    def validate_environment(self, *args: Any, **rest: Any) -> None:
        """Refuse entropy-coded weights: Transformers knows no file but plain tensors.

        Raises:
            ModelError: the weights are entropy-coded.
        """
        if hasattr(self.quantization_config, "pack"):
            raise ModelError(
                "the weights are entropy-coded (model.trimodal), which Transformers cannot read; use trimodal.load(FOLDER), "
                "or write plain ones with: trimodal pack FOLDER -o OUT --pack plain"
            )

    def update_attn_implementation(self, config: Any) -> Any:
        """Name the file with the weights, where config.json has a sentence in its place for those who lack trimodal. This is
        called before the file is looked for."""
        if hasattr(config, NAMED):
            setattr(config, NAMED, OURS)
        return config

    def _process_model_before_weight_loading(self, model: nn.Module, **rest: Any) -> nn.Module:
        files = rest.get("checkpoint_files")
        if not files:
            raise ModelError("a state_dict alone does not say how the model was compressed; use from_pretrained(FOLDER)")
        file = Path(files[0])
        self._shared = _get_opening().rebuild_architecture_(model, file, _CHECKED.get() == file.parent.resolve())
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **rest: Any) -> nn.Module:
        _get_opening().tie_and_cast_weights_(model, self._shared, getattr(self.quantization_config, "dequantize", "speed"))
        return model

    def is_serializable(self) -> bool:
        """Asked for by `save_pretrained`, which knows neither the recorded steps nor the sums.

        Raises:
            ModelError: always; it says what to do instead.
        """
        plainly = "or write plain float layers: trimodal.load(FOLDER, dequantize=True).save_pretrained(OUT)"
        raise ModelError(
            "save_pretrained cannot write a compressed model; copy the folder that it was loaded from"
            + (f": {self.unsaid}" if self.unsaid else f", {plainly}")
        )

    @property
    def is_trainable(self) -> bool:
        """Codes on a grid do not train."""
        return False


def _get_opening() -> ModuleType:
    """`stock/opening.py`, imported at the latest here."""
    return import_module("trimodal.stock.opening")


_CHECKED: ContextVar[Path | None] = ContextVar("checked", default=None)


@contextmanager
def skip_file_checks(folder: Path) -> Iterator[None]:
    """While this lasts, the files of `folder` need not be checked: the caller just has."""
    token = _CHECKED.set(folder.resolve())
    try:
        yield
    finally:
        _CHECKED.reset(token)


def register() -> None:
    """Make `quant_method: trimodal` known to Transformers, once."""
    if NAME not in AUTO_QUANTIZER_MAPPING:
        register_quantizer(NAME)(TrimodalQuantizer)
    if NAME not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(NAME)(TrimodalConfig)


def forget_quantization_(module: nn.Module, unsaid: str = "") -> None:
    """Drop Transformers' notes that `module` is quantized, once it no longer is. Where it is `unsaid` by its configuration what
    it is, saving stays refused, and that is why."""
    if unsaid and isinstance(getattr(module, "hf_quantizer", None), TrimodalQuantizer):
        module.hf_quantizer.unsaid = unsaid  # type: ignore[union-attr]
        return
    for owner, names in ((module, ("hf_quantizer", "quantization_method", "is_quantized")),
                         (getattr(module, "config", None), ("quantization_config",))):  # fmt: skip
        for name in names:
            if name in getattr(owner, "__dict__", {}):
                delattr(owner, name)
