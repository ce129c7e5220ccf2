"""The model that a training configuration names or describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from trimodal.core import Sample
from trimodal.data import count_mask_classes, name_labels
from trimodal.errors import ModelError, RecipeError, suggest_names
from trimodal.formats import is_artifact, open_model
from trimodal.loading.load import build_model, find_model_class, locate_source
from trimodal.models.foreign import run_foreign
from trimodal.models.model import Model, device_of
from trimodal.models.quiet import hide_progress_bars
from trimodal.training_runs.config_file import ModelKeys, read_model_keys
from trimodal.training_runs.parts import load_parts_
from trimodal.training_runs.processors import describe_placeholder, describe_tokenizer, make_processors
from trimodal.training_runs.students import cut_student

TEACHER = "teacher"  # what `student_of` may call the teacher of the same configuration
_CLOSE = 0.8
_SEGMENTERS = ("ForSemanticSegmentation",)
_CLASSIFIERS = ("ForImageClassification", "ForSequenceClassification", "ForAudioClassification", "MultimodalModel")


@dataclass(frozen=True)
class BuiltModel:
    """A model to train, in float32, and where what is saved beside it comes from: a folder, or its own processors. `factory` names the
    function that it comes from, if it does."""

    model: Model
    companions: Path | None
    factory: str | None = None


@hide_progress_bars()
def build_training_model(given: Any, samples: Sequence[Sample], seed: int, name: str) -> BuiltModel:
    """The model of a configuration called `name`; random weights depend on `seed`.

    Raises:
        RecipeError: what says how it is made cannot be used.
        ModelError: it cannot be found, loaded or made.
    """
    torch.manual_seed(seed)
    if isinstance(given, Mapping):
        keys = read_model_keys(given, name)
        built = _make_described(keys, samples, name)
    else:
        built = _open_named(given, name)
    built.model.module.float()
    return built


def _make_described(keys: ModelKeys, samples: Sequence[Sample], name: str) -> BuiltModel:
    if keys.student_of is None:
        return _start_from(keys, samples, name) if keys.start is not None else _make_from_config(keys, samples, name)
    if keys.student_of == TEACHER:
        raise RecipeError(f"{name}: model.student_of is teacher, but there is no distill.teacher; name a folder or a hub id")
    teacher = _open_named(keys.student_of, name)
    teacher.model.module.float()
    return replace(teacher, model=cut_student(teacher.model, keys.layers, keys.width, keys.neurons, samples, name))


def _open_named(given: Any, name: str) -> BuiltModel:
    if not isinstance(given, str | Path) and not callable(given):
        raise RecipeError(f"{name}: model is {given!r:.60}, but must be a folder, a hub id, package.module:function, or a mapping")
    found = given if callable(given) else locate_source(given)
    if isinstance(found, Path) and is_artifact(found):
        raise ModelError(f"{found} is a compressed model; train the original, or recover it by a recipe's step `distill`")
    model = open_model(given)
    return BuiltModel(model, model.folder, str(given) if model.folder is None and isinstance(given, str) else None)


def _start_from(keys: ModelKeys, samples: Sequence[Sample], name: str) -> BuiltModel:
    """The weights of a folder in a class that may have another head, which begins at random."""
    folder = locate_source(str(keys.start))
    if not isinstance(folder, Path):
        raise RecipeError(f"{name}: model.from is {keys.start!r}, which is a function; expected a folder or a hub id")
    read = run_foreign(f"reading the configuration of {folder}", lambda: PretrainedConfig.get_config_dict(folder, local_files_only=True)[0])
    kind: Any = find_model_class({"architectures": [keys.kind] if keys.kind else read.get("architectures")}, folder)
    heads = _describe_classes(kind.__name__, samples, {})
    module = run_foreign(
        f"loading {folder} as {kind.__name__}",
        lambda: kind.from_pretrained(folder, ignore_mismatched_sizes=True, use_safetensors=True, dtype=torch.float32,
                                     local_files_only=True, trust_remote_code=False, **heads),
    )  # fmt: skip
    return BuiltModel(build_model(module, folder.name, folder), folder)


def _make_from_config(keys: ModelKeys, samples: Sequence[Sample], name: str) -> BuiltModel:
    """A class from its configuration, with random weights."""
    kind: Any = find_model_class({"architectures": [keys.kind]}, Path(name))
    processors, folder = make_processors(keys.processors, samples, name)
    config_class: Any = kind.config_class
    if config_class is None:
        raise RecipeError(f"{name}: {keys.kind} is no class that can be made from a configuration; name one such as BertModel")
    check_config_keys(config_class, keys.config, f"{name}: model.config")
    own = describe_tokenizer(processors.text) if isinstance(keys.processors, Mapping) and "text" in keys.processors else {}
    values = {**_describe_classes(str(keys.kind), samples, keys.config), **_merge_tokenizer(config_class, keys.config, own)}
    values = {**describe_placeholder(processors.whole, config_class), **values}
    module = run_foreign(f"making {keys.kind} from model.config", lambda: kind(config_class(**values)))
    load_parts_(module, keys.parts, name)
    model = build_model(module.eval(), str(keys.kind))
    return BuiltModel(replace(model, processors=processors, folder=None), folder)


def _merge_tokenizer(config_class: Any, given: Mapping[str, Any], own: Mapping[str, int]) -> dict[str, Any]:
    """`given` with what the tokenizer says of itself where `given` says nothing: in the part for text, if there is one."""
    holder = "text_config" if "text_config" in (getattr(config_class, "sub_configs", None) or {}) else None
    if not own:
        return dict(given)
    if holder is None:
        return {**own, **given}
    return {**given, holder: {**own, **given.get(holder, {})}}


def _describe_classes(kind: str, samples: Sequence[Sample], given: Mapping[str, Any]) -> dict[str, Any]:
    """How many classes a classifier needs for the labels of `samples`, and their names; nothing where that is said, or it is none."""
    if kind.endswith(_SEGMENTERS) and not {"num_labels", "id2label"} & set(given) and (found := count_mask_classes(samples)):
        return {"num_labels": found}
    labels = {s.label: s.label_name for s in samples if s.label is not None}
    if not labels or not kind.endswith(_CLASSIFIERS) or {"num_labels", "id2label"} & set(given):
        return {}
    count = max(labels) + 1
    names = {number: labels.get(number) or f"LABEL_{number}" for number in range(count)}
    return {"num_labels": count, "id2label": names, "label2id": {label: number for number, label in names.items()}}


def check_config_keys(config_class: Any, given: Mapping[str, Any], where: str) -> None:
    """Refuse a key that the configuration does not know: Transformers itself takes any.

    Raises:
        RecipeError: naming the key and the nearest that there is.
    """
    known = set(run_foreign(f"making {config_class.__name__}", lambda: config_class().to_dict())) | {"num_labels", "tie_word_embeddings"}
    known |= set(getattr(config_class, "attribute_map", {})) | set(getattr(config_class, "__dataclass_fields__", {}))
    parts = getattr(config_class, "sub_configs", None) or {}
    for key, value in given.items():
        if key not in known:
            near = get_close_matches(str(key), known, 1, _CLOSE)  # names that share a part, such as `size`, are many here
            raise RecipeError(f"{where}: {config_class.__name__} has no '{key}'; {suggest_names(str(key), near or known)}")
        part = parts.get(key)
        if isinstance(value, Mapping) and isinstance(part, type) and hasattr(part, "to_dict") and "model_type" not in value:
            check_config_keys(part, value, f"{where}.{key}")


def freeze_parameters_(module: nn.Module, patterns: Sequence[str], name: str) -> int:
    """Let parameters whose names fit one of `patterns` stay as they are; how many numbers these hold.

    Raises:
        RecipeError: a pattern fits none.
    """
    frozen = 0
    for pattern in patterns:
        fitting = [(key, value) for key, value in module.named_parameters() if fnmatchcase(key, pattern)]
        if not fitting:
            some = ", ".join(key for key, _ in list(module.named_parameters())[:3])
            raise RecipeError(f"{name}: freeze names {pattern!r}, which fits no parameter; they are called {some}, …")
        for _, value in fitting:
            value.requires_grad_(False)
            frozen += value.numel()
    return frozen


def number_samples(built: BuiltModel, samples: Sequence[Sample]) -> list[Sample]:
    """`samples` with the class numbers that the model has for their names."""
    return name_labels(built.model, samples)


def place_model_(built: BuiltModel, device: str) -> None:
    """Put the model where it is trained."""
    if device != "cpu" and device_of(built.model.module) != torch.device(device):
        built.model.module.to(device)
