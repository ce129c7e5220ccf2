"""The layers of a compressed model in another class that takes its weights: one tower's own class, another head.

A checkpoint of CLIP can be loaded as `CLIPVisionModel`, one of a `Wav2Vec2ForCTC` as `Wav2Vec2ForSequenceClassification`. What
was done to a model is recorded for one class, in that class's names. So the recorded class is built again, bare; what was done
is done to it; and the parts that both classes have, by Transformers' own rules for names, move over:

    names    of the original checkpoint, each as either class knows it
    parts    the largest modules of one kind whose tensors have all the same names, in both
    rest     modules around these: their numbers, and tensors of their own, become those of the recorded class

What the other class has beside is as it is for the original: not in the checkpoint. Where a change cannot move over, the class
is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key, revert_weight_conversion

from trimodal.core.model_edit import ModelEdit
from trimodal.errors import ModelError
from trimodal.layers import FactorChain, has_shared_weight, is_weight_parametrized, parametrize_weight_, share_weight_
from trimodal.stock.replaying import replay_steps_

_PLAIN = (bool, int, float, str, tuple, list, type(None))


def graft_layers_(model: PreTrainedModel, whole: PreTrainedModel, steps: list[ModelEdit], file: Path) -> dict[str, str]:
    """Bring the bare `model` into the compressed architecture that `steps` recorded for the class of `whole`, which is bare too
    and is used up. `file` has the weights. Returns tensors that `file` has under another name only, each with that name.

    Raises:
        ModelError: `model` shares nothing with `whole`, or has no place for what was changed.
    """
    names = _find_shared_names(model, whole)
    if not names:
        raise _graft_error(model, whole, "has no tensor in common with it")
    places = _find_shared_places(names)
    parts = _find_shared_parts(model, whole, places)
    around = {path: place for path, place in places.items() if not _is_inside(path, parts)}
    before = {path: _ModuleFacts(whole.get_submodule(place)) for path, place in around.items()}
    own = [name for name in model.state_dict() if name not in names and name not in _find_tied_names(model)]
    _check_width(model, whole, steps, own)
    replay_steps_(whole, steps)
    for path, facts in before.items():
        _change_module_(model, whole, path, around[path], facts, parts)
    for path in parts:
        model.set_submodule(path, whole.get_submodule(places[path]))
    _tie_weights_(model)
    _check_references(model, whole)
    return _find_tensor_aliases(model, whole, file, own)


class _ModuleFacts:
    """What a step may change of a module but not of those in it."""

    def __init__(self, module: nn.Module) -> None:
        self.kind, self.children = type(module), list(module._modules)
        self.plain = {k: v for k, v in vars(module).items() if not k.startswith("_") and isinstance(v, _PLAIN)}
        self.tensors = {k: t.shape for k, t in (*module._parameters.items(), *module._buffers.items()) if t is not None}
        self.config = _config_of(module)


def _config_of(module: nn.Module) -> dict[str, Any]:
    config: Any = getattr(module, "config", None)
    return config.to_dict() if hasattr(config, "to_dict") else {}


def _find_shared_names(model: PreTrainedModel, whole: PreTrainedModel) -> dict[str, str]:
    """The names in `model` of the tensors that Transformers would take from a checkpoint of `whole`: their names there."""
    there, here = whole.state_dict(), model.state_dict()
    known = {id(tensor): name for name, tensor in there.items()}
    found = {}
    for saved, tensor in revert_weight_conversion(whole, dict(there)).items():
        name = known.get(id(tensor), saved if saved in there else "")
        target = _rename_tensors(model, [saved])[saved]
        if name and target in here:
            if here[target].shape != there[name].shape:
                shapes = " and ".join(" × ".join(map(str, t.shape)) for t in (there[name], here[target]))
                raise _graft_error(model, whole, f"has {target} in another shape ({shapes})")
            found[target] = name
    return found


def _rename_tensors(model: PreTrainedModel, names: Iterable[str]) -> dict[str, str]:
    """What Transformers calls tensors of a checkpoint once they are in `model`."""
    mapping, here = get_model_conversion_mapping(model), model.state_dict()
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    prefix, found = model.base_model_prefix, {}
    for name in names:
        target, _ = rename_source_key(name, renamings, converters, prefix, here)
        if target not in here and name in here:
            target, _ = rename_source_key(name, [], [], base_model_prefix=prefix, meta_state_dict=here)
        found[name] = target
    return found


def _find_shared_places(names: Mapping[str, str]) -> dict[str, str]:
    """Paths of modules in the one class, and in the other, that hold a tensor under the same name."""
    found: dict[str, set[str]] = {}
    for name, other in names.items():
        here, there = name.split("."), other.split(".")
        while here and there and here[-1] == there[-1]:
            here, there = here[:-1], there[:-1]
            found.setdefault(".".join(here), set()).add(".".join(there))
    return {path: places.pop() for path, places in found.items() if len(places) == 1}


def _find_shared_parts(model: nn.Module, whole: nn.Module, places: Mapping[str, str]) -> list[str]:
    """The paths of the largest modules that are of the same kind and have the same tensors, but for the whole model."""
    found: list[str] = []
    for path, module in model.named_modules():
        if path and path in places and not _is_inside(path, found):
            other = whole.get_submodule(places[path])
            if _collect_shapes(module) == _collect_shapes(other) and type(module) is type(other):
                found.append(path)
    return found


def _collect_shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _is_inside(path: str, parts: Iterable[str]) -> bool:
    return any(path == part or path.startswith(f"{part}.") for part in parts)


def _change_module_(
    model: PreTrainedModel, whole: PreTrainedModel, path: str, place: str, before: _ModuleFacts, parts: Iterable[str]
) -> None:
    """Let the module at `path` become what the one at `place` became, where it was `before`; its parts move by themselves."""
    here = model.get_submodule(path)
    if place and place not in {name for name, _ in whole.named_modules()}:
        raise _graft_error(model, whole, f"has {path}, which is gone")
    there = whole.get_submodule(place)
    after = _ModuleFacts(there)
    stay = all(name in after.children or f"{path}.{name}".strip(".") not in parts for name in before.children)
    if after.kind is not before.kind or not stay or before.tensors.keys() - after.tensors.keys():
        raise _graft_error(model, whole, f"has no place for what {place or 'it'} became")
    for name, value in after.plain.items():
        if name not in before.plain or before.plain[name] != value:
            setattr(here, name, value)
    for name, shape in before.tensors.items():
        if after.tensors[name] != shape and name in here._parameters:
            here.register_parameter(name, there._parameters[name])
        elif after.tensors[name] != shape:
            here.register_buffer(name, there._buffers[name])
    for name, value in after.config.items():
        if before.config.get(name) != value and not isinstance(value, dict):
            setattr(here.config, name, value)


def _find_tied_names(model: PreTrainedModel) -> dict[str, str]:
    """The tensors that are not in a checkpoint since they are others' too."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def _tie_weights_(model: PreTrainedModel) -> None:
    """Let layers that the class ties to others use what became of the others' weights."""
    tied: dict[str, str] = getattr(model, "all_tied_weights_keys", {})
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    modules = dict(model.named_modules())
    for target, origin in list(tied.items()):
        if target in names and origin in names:
            continue
        layer, lender = (modules.get(name.rpartition(".")[0]) for name in (target, origin))
        if target in names and isinstance(lender, nn.Module) and isinstance(layer, nn.Module) and target.endswith(".weight"):
            if is_weight_parametrized(lender):
                parametrize_weight_(layer, lender.stored, owner=False)  # type: ignore[arg-type]
            elif isinstance(lender, FactorChain) or has_shared_weight(lender):
                share_weight_(layer, lender)
        del tied[target]


def _check_width(model: PreTrainedModel, whole: PreTrainedModel, steps: Iterable[ModelEdit], own: list[str]) -> None:
    """Refuse layers of the class's own where the stream that they read is narrower than their configuration says."""
    if own and any(step.narrows_stream for step in steps):
        raise _graft_error(model, whole, f"has {own[0]} of its own, which is as wide as the stream was before it was narrowed")


def _check_references(model: PreTrainedModel, whole: PreTrainedModel) -> None:
    """Refuse a class that has a layer which uses another's weight or table, and not the other."""
    here = set(model.modules())
    for path, module in model.named_modules():
        for name in ("lender", "table_of", "stored"):
            other = getattr(module, name, None)
            if isinstance(other, nn.Module) and other not in here:
                raise _graft_error(model, whole, f"has {path}, which uses a weight of a layer that it has not")


def _find_tensor_aliases(model: PreTrainedModel, whole: PreTrainedModel, file: Path, own: Iterable[str]) -> dict[str, str]:
    """The tensors that are one with another which `file` has, by the other's name.

    Raises:
        ModelError: a tensor that both classes have is not found in `file` at all: it would be drawn at random.
    """
    with safe_open(file, framework="pt") as opened:
        given = set(_rename_tensors(model, opened.keys()).values())
    alike: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        alike.setdefault(id(tensor), []).append(name)
    known = {*own, *_find_tied_names(model)}
    skipped = [re.compile(pattern) for pattern in getattr(model, "_keys_to_ignore_on_load_missing", None) or ()]
    found: dict[str, str] = {}
    for names in alike.values():
        lacking = [name for name in names if name not in given | known and not any(p.search(name) for p in skipped)]
        first = next((name for name in names if name in given), None)
        if lacking and first is None:
            raise _graft_error(model, whole, f"has {lacking[0]}, which is not found under that name")
        found.update(dict.fromkeys(lacking, str(first)))
    return found


def _graft_error(model: nn.Module, whole: nn.Module, reason: str) -> ModelError:
    name, recorded = type(model).__name__, type(whole).__name__
    return ModelError(
        f"this folder holds a compressed {recorded}, which cannot be loaded as {name}: {name} {reason}; load it with "
        f"{recorded}.from_pretrained or trimodal.load(FOLDER)"
    )

