"""What stands in a training configuration, as pydantic models: they check it, and are what its JSON schema is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, ValidationError

from trimodal.core.validation import Mistake, format_location, get_first_mistake, parse_yaml_mapping
from trimodal.errors import RecipeError, suggest_names
from trimodal.training.settings import Precision, Schedule
from trimodal.training.tasks import TASKS, TaskName
from trimodal.training.telling import TRACKERS
from trimodal.training_runs.distill_keys import DistillKeys, check_distill_keys
from trimodal.training_runs.key_rules import RULES, Number

_NEEDED = " with the keys model, data and task"
_LARGEST_SEED = 2**32 - 1
TRACK_NAMES = (*TRACKERS, "none")


class ModelKeys(BaseModel):
    """A model that is made: of a class and its configuration, from random weights; of the weights of another with a new head; or of some of
    another's blocks and units."""

    model_config = RULES

    start: Annotated[str | None, Field(alias="from", description="folder or hub id whose weights it starts from where they fit")] = None
    kind: Annotated[str | None, Field(alias="class", description="class of Transformers or trimodal, such as CLIPModel")] = None
    config: Annotated[dict[str, Any], Field(description="the class's configuration; what is not said is as usual")] = {}
    processors: Annotated[
        str | dict[str, Any] | None,
        Field(description="folder or hub id of the processors; or image, audio and whole with class and options, text with a vocabulary"),
    ] = None
    parts: Annotated[dict[str, str], Field(description="by path in the model, folders or hub ids whose weights its parts begin with")] = {}
    student_of: Annotated[str | None, Field(description="folder or hub id some of whose blocks and units it is made of; or teacher")] = None
    layers: Annotated[
        int | list[int] | dict[str, int | list[int]] | None, Field(description="of student_of: how many blocks, or which; or one by tower")
    ] = None
    width: Annotated[Number | None, Field(gt=0, le=1, description="of student_of: fraction of stream, heads and neurons that stays")] = None
    neurons: Annotated[Number | None, Field(gt=0, le=1, description="of student_of: fraction of the neurons that stays")] = None


class EarlyStoppingKeys(BaseModel):
    """When to stop before the last step."""

    model_config = RULES

    patience: Annotated[int, Field(ge=1, description="evaluations without getting better")] = 3
    metric: Annotated[str, Field(description="name of an evaluated number; losses and error rates fall, others rise")] = "loss"
    least: Annotated[Number, Field(ge=0, description="by how much it must get better to count")] = 0.0


class TrainKeys(BaseModel):
    """A model, data, a task, and how to train."""

    model_config = RULES

    model: Annotated[Any, Field(description="folder, hub id, package.module:function; or a mapping that says how it is made")]
    task: Annotated[TaskName, Field(description="what for")]
    data: Annotated[str | None, Field(description="as for `trimodal compress`")] = None
    map: Annotated[dict[str, str | None], Field(description="which column is which field")] = {}
    output: Annotated[str | None, Field(description="folder to write")] = None
    steps: Annotated[int | None, Field(ge=1, description="optimizer steps; either these or epochs")] = None
    epochs: Annotated[Number | None, Field(gt=0, description="rounds through the data")] = None
    batch: Annotated[int, Field(ge=1, description="samples per step, of all processes together")] = 32
    accumulate: Annotated[int, Field(ge=1, description="parts that a process has go through one after the other in a step")] = 1
    learning_rate: Annotated[Number, Field(gt=0, le=10, description="the highest")] = 1e-3
    schedule: Annotated[Schedule, Field(description="how the learning rate goes on from its highest")] = "cosine"
    warmup: Annotated[Number, Field(ge=0, le=1, description="fraction of the steps until the highest learning rate")] = 0.05
    weight_decay: Annotated[Number, Field(ge=0, description="of matrices and kernels")] = 0.01
    gradient_clip: Annotated[Number, Field(ge=0, description="bound of the gradient's 2-norm; 0 for none")] = 1.0
    precision: Annotated[Precision, Field(description="what products are computed in; weights stay in fp32")] = "fp32"
    gradient_checkpointing: Annotated[bool, Field(description="keep fewer activations and compute them again")] = False
    fsdp: Annotated[bool, Field(description="part the weights among the processes of torchrun")] = False
    frozen_noise: Annotated[bool, Field(description="no dropout while training, and batch norms keep their statistics")] = False
    freeze: Annotated[list[str], Field(description="patterns of parameter names that are not trained")] = []
    hide: Annotated[Number, Field(gt=0, lt=1, description="share of a text's tokens that `reconstruct` hides")] = 0.15
    held_out: Annotated[Number, Field(ge=0, lt=1, description="share of the data to evaluate on, where it has no split")] = 0.1
    evaluate_samples: Annotated[int, Field(ge=1, description="samples to evaluate on, at most")] = 500
    evaluate_every: Annotated[
        int | None, Field(ge=0, description="steps between evaluations; a tenth of them if not given, 0 for never")
    ] = None
    checkpoint_every: Annotated[int | None, Field(ge=0, description="steps between checkpoints; as evaluate_every if not given")] = None
    early_stopping: Annotated[EarlyStoppingKeys | None, Field(description="when to stop before the last step")] = None
    track: Annotated[str | list[str] | None, Field(description=f"one or some of {', '.join(TRACK_NAMES)}")] = None
    distill: Annotated[DistillKeys | None, Field(description="a teacher, and what is learned from it")] = None
    seed: Annotated[int, Field(ge=0, le=_LARGEST_SEED, description="seed of all that is random")] = 0
    device: Annotated[str, Field(min_length=1, description="where to compute, such as cpu or cuda:0")] = "cpu"


_EXPECTED = {
    "task": f"one of {', '.join(TASKS)}",
    "precision": f"one of {', '.join(get_args(Precision))}",
    "schedule": f"one of {', '.join(get_args(Schedule))}",
    "early_stopping": "a mapping of patience, metric and least",
    "seed": f"a whole number, 0 to {_LARGEST_SEED}",
    "freeze": "a list of patterns",
    "track": f"one of {', '.join(TRACK_NAMES)}, or a list of them",
    "distill": "a mapping with a teacher and weights of terms, such as logits: 1",
}
_EXPECTED_INSIDE = {
    "distill.layers": "uniform, last, a list of the teacher's block numbers, or a mapping of towers to one of these",
    "model.layers": "a number of blocks, a list of their numbers, or a mapping of towers to one of these",
}
_HOLDERS: Mapping[str, type[BaseModel]] = {"": TrainKeys, "early_stopping": EarlyStoppingKeys, "model": ModelKeys, "distill": DistillKeys}
_CHOICES = {"task": TASKS, "precision": get_args(Precision), "schedule": get_args(Schedule)}


def read_config(source: str | Path | Mapping[str, Any]) -> tuple[str, TrainKeys]:
    """The configuration's name and content, checked: of a YAML file, or of a mapping.

    Raises:
        RecipeError: naming the file, the key, and what is wrong with it.
    """
    name, content = ("config", source) if isinstance(source, Mapping) else read_yaml_mapping(Path(source), "configuration", _NEEDED)
    try:
        found = TrainKeys.model_validate(dict(content))
    except ValidationError as error:
        raise RecipeError(f"{name}: {_describe_mistake(get_first_mistake(error))}") from error
    if (found.steps is None) == (found.epochs is None):
        both = "both steps and epochs" if found.steps else "neither steps nor epochs"
        raise RecipeError(f"{name}: {both}; give one of them, such as steps: 1000")
    if found.distill is not None:
        check_distill_keys(found.distill, found.task, name)
    elif found.task == "imitate":
        raise RecipeError(f"{name}: task: imitate learns from a teacher alone, and there is none; give distill: {{teacher: …, logits: 1}}")
    for track in list_tracks(found):
        if track not in TRACK_NAMES:
            raise RecipeError(f"{name}: track is {track!r}; {suggest_names(track, TRACK_NAMES)}")
    if found.early_stopping and found.evaluate_every == 0:
        raise RecipeError(f"{name}: early_stopping needs evaluations, but evaluate_every is 0; leave one of them out")
    return name, found


def list_tracks(keys: TrainKeys) -> list[str]:
    """The trackers that a configuration names."""
    return [keys.track] if isinstance(keys.track, str) else list(keys.track or [])


def to_plain(keys: TrainKeys) -> dict[str, Any]:
    """A configuration as JSON holds it; a function or module by its name."""
    text = keys.model_dump_json(by_alias=True, fallback=lambda value: getattr(value, "__qualname__", type(value).__name__))
    found: dict[str, Any] = json.loads(text)
    return found


def read_model_keys(value: Mapping[str, Any], name: str) -> ModelKeys:
    """A model given as a mapping, checked.

    Raises:
        RecipeError: a key is unknown, or it says neither a class nor what to start from.
    """
    try:
        found = ModelKeys.model_validate(dict(value))
    except ValidationError as error:
        mistake = get_first_mistake(error)
        raise RecipeError(f"{name}: {_describe_mistake(Mistake(('model', *mistake.location), *_rest_of(mistake)))}") from error
    if found.start is None and found.kind is None and found.student_of is None:
        raise RecipeError(f"{name}: model says neither `class` nor `from`; give a class and its config, or a folder to start from")
    if found.start is not None and (found.config or found.parts):
        both = "config" if found.config else "parts"
        raise RecipeError(f"{name}: model says both `from` and `{both}`; configuration and weights are those of the folder it starts from")
    if found.student_of is not None and (found.start or found.kind or found.config or found.processors):
        raise RecipeError(f"{name}: model says student_of and another thing to start from; beside it go layers, width and neurons alone")
    if found.student_of is None and (found.layers is not None or found.width is not None or found.neurons is not None):
        raise RecipeError(f"{name}: model says layers, width or neurons without student_of; name what they are taken from")
    return found


def _rest_of(mistake: Mistake) -> tuple[Any, str, str]:
    return mistake.found, mistake.type, mistake.expected


def read_yaml_mapping(path: Path, what: str, needed: str) -> tuple[str, Mapping[str, Any]]:
    """The name of a YAML file, and the mapping that it holds; `what` it is and what is `needed` in it is said in errors.

    Raises:
        RecipeError: it cannot be read, is no YAML, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"the {what} {path!s:.80} cannot be read ({error.strerror}); expected a YAML file") from error
    except ValueError as error:
        raise RecipeError(f"{path.name}: not valid YAML ({error})") from error
    return path.name, parse_yaml_mapping(path.name, text, needed)


def _describe_mistake(mistake: Mistake) -> str:
    key = str(mistake.location[-1])
    holder = str(mistake.location[0]) if len(mistake.location) > 1 else ""
    place = format_location(mistake.location)
    if mistake.is_unknown_key:
        inside = f" in {holder}" if holder else ""
        model = _HOLDERS.get(holder, TrainKeys)
        return f"unknown key '{key}'{inside}; {suggest_names(key, [f.alias or n for n, f in model.model_fields.items()])}"
    if (outer := ".".join(map(str, mistake.location[:2]))) in _EXPECTED_INSIDE:
        return f"{outer} is {mistake.found!r:.60}, but must be {_EXPECTED_INSIDE[outer]}"
    if mistake.is_missing_key and holder:
        return f"{holder} has no key '{key}'"
    if mistake.is_missing_key:
        return f"there is no key '{key}'; a configuration needs model and task"
    top = str(mistake.location[0])
    choices = _CHOICES.get(top)
    advice = f"; {suggest_names(str(mistake.found), choices)}" if choices else ""
    expected = mistake.expected if holder in _HOLDERS and holder else _EXPECTED.get(top, mistake.expected)
    return f"{place if not choices else top} is {mistake.found!r:.60}, but must be {expected}{advice}"


def build_train_schema() -> dict[str, Any]:
    """The JSON schema of a training configuration, for editors."""
    schema = TrainKeys.model_json_schema(by_alias=True)
    model = ModelKeys.model_json_schema(by_alias=True)
    schema["properties"]["model"] = {"description": schema["properties"]["model"]["description"], "anyOf": [{"type": "string"}, model]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
