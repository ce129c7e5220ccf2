"""What stands under `distill` in a training configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from trimodal.errors import RecipeError
from trimodal.training.distilling.settings import TERMS, DistillSettings
from trimodal.training_runs.key_rules import RULES, Number

NO_CACHE = "none"
_SETTINGS = tuple(DistillSettings.__dataclass_fields__)
_Weight = Annotated[Number, Field(ge=0)]
_Matching = Literal["uniform", "last"]


class DistillKeys(BaseModel):
    """A teacher, what is learned from it, and how."""

    model_config = RULES

    teacher: Annotated[Any, Field(description="folder, hub id, package.module:function")]
    labels: Annotated[_Weight, Field(description="weight of the task's own loss, of samples that have a label")] = 0.0
    logits: Annotated[_Weight, Field(description="weight of the scores' divergence at the temperature")] = 0.0
    features: Annotated[_Weight, Field(description="weight of the distance of matched blocks' states")] = 0.0
    embeddings: Annotated[_Weight, Field(description="weight of 1 - cosine of what the model gives out")] = 0.0
    attentions: Annotated[_Weight, Field(description="weight of the divergence of attentions, head by head")] = 0.0
    relations: Annotated[_Weight, Field(description="weight of the relations of queries, keys and values (MiniLMv2)")] = 0.0
    affinity: Annotated[_Weight, Field(description="weight of image-text similarities (TinyCLIP)")] = 0.0
    temperature: Annotated[Number, Field(ge=0.1, le=20, description="softens both score distributions")] = 2.0
    layers: Annotated[
        _Matching | list[int] | dict[str, _Matching | list[int]],
        Field(description="the teacher's block that each of the student's learns from: uniform, last, or their numbers; or one by tower"),
    ] = "uniform"
    at: Annotated[
        Literal["last", "all"], Field(description="where attentions and relations are taken: the last matched block, or all")
    ] = "last"
    relation_heads: Annotated[int, Field(ge=0, description="parts that widths are split into for relations; 0 for the teacher's heads")] = 0
    projection: Annotated[
        Literal["auto", "always", "never"], Field(description="a learned map to the teacher's width: where widths differ, always, never")
    ] = "auto"
    top: Annotated[int, Field(ge=0, description="scores that are stored of a row, the largest; 0 for all")] = 0
    stored: Annotated[Literal["fp16", "fp32"], Field(description="what the teacher's outputs are stored in")] = "fp16"
    cache: Annotated[
        str | None, Field(description="folder for the teacher's outputs, which stay there; none asks the teacher in each step")
    ] = None
    sequence: Annotated[
        Literal["greedy", "beam"] | None, Field(description="the teacher's own answer, found so, is what training samples are to say")
    ] = None
    beams: Annotated[int, Field(ge=2, description="beams of sequence: beam")] = 4
    longest: Annotated[int, Field(ge=1, description="tokens of an answer, at most")] = 64
    assistants: Annotated[
        list[dict[str, Any]], Field(description="models between teacher and student, each with a model and whatever is otherwise there")
    ] = []

    def to_settings(self) -> DistillSettings:
        """What the loss needs of it."""
        return DistillSettings(**{name: getattr(self, name) for name in _SETTINGS})


def check_distill_keys(keys: DistillKeys, task: str, name: str) -> None:
    """Refuse what cannot be meant.

    Raises:
        RecipeError: saying what to give instead.
    """
    settings = keys.to_settings()
    if not settings.asked:
        usual = "affinity: 1" if task == "retrieve" else "logits: 1"
        raise RecipeError(f"{name}: distill gives no term a weight; give one of {', '.join(TERMS)}, such as {usual}")
    if settings.asked == ("labels",) and keys.sequence is None:
        raise RecipeError(f"{name}: distill has labels alone, so nothing is learned from the teacher; give {', '.join(TERMS[1:])}")
    if task == "reconstruct":
        raise RecipeError(f"{name}: task: reconstruct hides other words in each step, which no teacher was asked of; use task: imitate")
    if task == "imitate" and settings.labels:
        raise RecipeError(f"{name}: distill.labels is {settings.labels:g}, but task: imitate has no labels; leave it out")
    if keys.sequence is not None and task not in ("transcribe", "generate"):
        raise RecipeError(f"{name}: distill.sequence is for task: transcribe or generate, not {task}; leave it out")
    if keys.sequence is not None and not (settings.labels or settings.logits):
        raise RecipeError(f"{name}: distill.sequence makes the teacher's answer the label, but labels do not count; give labels: 1")
    for number, assistant in enumerate(keys.assistants):
        if "model" not in assistant:
            example = "model: {student_of: teacher, layers: 4}"
            raise RecipeError(f"{name}: distill.assistants[{number}] has no model; give what it is made of, such as {example}")
