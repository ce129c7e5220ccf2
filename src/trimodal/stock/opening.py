"""What stock Transformers' loader is told of an artifact: the compressed architecture before it fills in the tensors, and the
ties and types afterwards. Called by the quantizer in `stock/quantizer.py`, for any class."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from trimodal.core.model_edit import ModelEdit
from trimodal.edits.steps import map_duplicate_tensors, read_steps
from trimodal.layers import CodedWeight, DequantizePolicy, OpenedLayer, is_weight_parametrized, set_dequantize_policy_
from trimodal.layers.opened import copy_state
from trimodal.loading.load import find_model_class
from trimodal.manifest import MANIFEST, check_listed_files, read_manifest
from trimodal.stock.grafting import graft_layers_
from trimodal.stock.replaying import replay_steps_


def rebuild_architecture_(model: nn.Module, file: Path, checked: bool) -> dict[str, str]:
    """Bring the bare `model` into the architecture of the weights in `file`, in whose folder the rest of the artifact lies.
    Returns tensors that `file` has under another name only, each with that name.

    Raises:
        IntegrityError: a file that decides the result has changed, unless they are `checked` already.
        ModelError: the class of `model` has no place for what was changed.
    """
    folder = file.parent
    if not checked and (folder / MANIFEST).is_file():
        check_listed_files(folder, read_manifest(folder), partial=folder.parent.name == "snapshots")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    steps = _cast_steps(read_steps(file), str(config.get("dtype", config.get("torch_dtype"))), model)
    kind = find_model_class(config, folder)
    if type(model) is kind or not isinstance(model, PreTrainedModel) or not issubclass(kind, PreTrainedModel):
        replay_steps_(model, steps)
        _skip_weight_init_(model)
        return map_duplicate_tensors(model, steps)
    found = graft_layers_(model, kind(_find_enclosing_config(model.config, kind, folder)), steps, file)
    _skip_weight_init_(model)
    ignored = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    model._keys_to_ignore_on_load_missing = [*ignored, *(f"^{re.escape(name)}$" for name in found)]  # type: ignore[assignment]
    return found


def _skip_weight_init_(model: nn.Module) -> None:
    """Let Transformers not draw first values for layers that decode their weight: it would decode each and throw them away;
    nor for opened ones, whose tensors it would look for under their old names. A layer with a buffer that no file holds (the factor of
    Gemma's embedding) gets that in no other way."""
    for layer in model.modules():
        if (is_weight_parametrized(layer) and not layer._non_persistent_buffers_set) or isinstance(layer, OpenedLayer):
            layer._is_hf_initialized = True  # type: ignore[assignment]


def _cast_steps(steps: list[ModelEdit], saved: str, model: nn.Module) -> list[ModelEdit]:
    """The steps with layers of the type that the model is loaded in, where that is not the one that it was saved in. Layers
    that were of another type than the rest keep it."""
    wanted = str(cast("Any", model).config.dtype).removeprefix("torch.")
    if wanted == saved or not hasattr(torch, wanted):
        return steps
    return [step.with_dtype(saved, wanted) for step in steps]


def _find_enclosing_config(config: Any, kind: type[PreTrainedModel], folder: Path) -> Any:
    """A configuration of `kind` of which `config`, that of one part, is that part."""
    wanted = cast("Any", kind).config_class
    if isinstance(config, wanted):
        return config
    whole = wanted.from_pretrained(folder, local_files_only=True)
    parts = {name: getattr(whole, name, None) for name in wanted.sub_configs}
    key = type(config).base_config_key
    fits = [name for name, part in parts.items() if type(part) is type(config)]
    if fits:
        setattr(whole, key if key in fits else fits[0], config)
    whole.dtype, whole._attn_implementation_internal = config.dtype, config._attn_implementation_internal
    return whole


def tie_and_cast_weights_(model: nn.Module, shared: Mapping[str, str], policy: DequantizePolicy) -> None:
    """Let tensors that are stored once be one in memory too, and weights be decoded to the type that their layer's bias has: a
    class may keep some layers in another type than the one asked for. `shared` is what `rebuild_architecture_` returned; from now
    on weights are decoded by `policy`."""
    for name, other in shared.items():
        path, _, tensor = name.rpartition(".")
        there, _, its = other.rpartition(".")
        setattr(model.get_submodule(path), tensor, getattr(model.get_submodule(there), its))
    for layer in model.modules():
        bias, stored = layer._parameters.get("bias"), layer._modules.get("stored")
        if isinstance(stored, CodedWeight) and bias is not None and bias.dtype != stored.dtype and not bias.is_meta:
            stored.dtype = bias.dtype
    _fill_buffers_(model)
    set_dequantize_policy_(model, policy)
    model.is_quantized = False  # type: ignore[assignment]  # to Transformers: cast it as you like, the stores follow


def _fill_buffers_(model: nn.Module) -> None:
    """Give layers that decode their weight what their class draws up anew with every model, such as the factor of Gemma's embedding:
    buffers that no file has. Transformers was told to leave these layers out, and so fills in those of a stand-in that has them too."""
    owners = {path: part for path, part in model.named_modules() if isinstance(part, PreTrainedModel)}
    for path, layer in model.named_modules():
        if is_weight_parametrized(layer) and layer._non_persistent_buffers_set:
            owner = max((root for root in owners if not root or path.startswith(f"{root}.")), key=len)
            stand_in: Any = object.__new__(type(layer).__mro__[1])
            stand_in.__dict__ = copy_state(layer)
            stand_in._modules.pop("stored", None)
            for name in ("weight", *(name for name, value in layer._parameters.items() if value is not None)):
                stand_in._parameters[name] = nn.Parameter(torch.empty(0))
                stand_in._parameters[name]._is_hf_initialized = True  # so that nothing is drawn for it
            owners[owner]._init_weights(stand_in)
