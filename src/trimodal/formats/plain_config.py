"""The configuration of a model with plain layers only: whether the model's own class can say all that was done to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from transformers import PreTrainedConfig

from trimodal.formats.native_config import NativeConfig, find_native_config
from trimodal.loading.load import build_meta_model, read_config
from trimodal.models.files import NAMED
from trimodal.models.model import Model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NO_CONFIG = "it came from a function, not from a model folder"


def strip_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that says nothing of us, nor of another's files."""
    inner = {key: strip_config(value) if isinstance(value, dict) else value for key, value in config.items()}
    return {key: value for key, value in inner.items() if key not in ("quantization_config", NAMED)}


def set_plain_config_(model: Model) -> str:
    """Let the configuration of a model with plain layers only say what they are, so that `save_pretrained` writes what loads
    again. Returns why it cannot, empty if it can or has nothing to say."""
    module = model.module
    if not model.steps or not isinstance(getattr(module, "config", None), PreTrainedConfig) or model.folder is None:
        return ""
    found = find_plain_config(model)
    if found.reason:
        return found.reason
    plain = build_meta_model(found.config, cast("type[PreTrainedModel]", type(module)))
    plain.config._attn_implementation_internal = module.config._attn_implementation_internal  # type: ignore[union-attr]
    plain.config._name_or_path = str(model.folder)
    module.config = plain.config  # type: ignore[assignment]
    return ""


def find_plain_config(model: Model) -> NativeConfig:
    """The configuration from which the model's own class alone builds `model`, which has plain layers only, or why there is none."""
    if model.folder is None or not (model.folder / "config.json").is_file():
        return NativeConfig({}, list(model.steps), NO_CONFIG)
    if other := {step.verb for step in model.steps if step.effect == "structure"}:
        return NativeConfig({}, list(model.steps), f"plain layers cannot say what was done ({', '.join(sorted(other))})")
    kind = cast("type[PreTrainedModel]", type(model.module))
    shapes = [step for step in model.steps if step.effect == "sizes"]
    found = find_native_config(strip_config(read_config(model.folder)), shapes, kind)
    if found.reason:
        return found
    plain = build_meta_model(found.config, kind)
    if {k: t.shape for k, t in plain.state_dict().items()} != {k: t.shape for k, t in model.module.state_dict().items()}:
        return replace(found, reason=f"{type(plain.config).__name__} cannot say what its layers are")
    return found
