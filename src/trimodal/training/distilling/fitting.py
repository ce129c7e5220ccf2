"""Whether a student can learn from a teacher as it is asked to, found out before training: both see two samples, and what they give is
held against each other. What does not fit is refused with the layers' names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from trimodal.core import Layout, Sample
from trimodal.errors import InputError
from trimodal.models.declare import config_of
from trimodal.models.foreign import run_forward
from trimodal.models.model import Batch, Model
from trimodal.training.distilling.attention_states import AttentionPlace, find_attentions, is_causal, record_outputs
from trimodal.training.distilling.matching import match_towers
from trimodal.training.distilling.settings import DistillSettings
from trimodal.training.distilling.states import Rows, Score, StateReader
from trimodal.training.objective import LABELS, Drawn
from trimodal.training.retrieving import read_scale

Encode = Callable[[Sequence[Drawn]], Batch]
States = Mapping[str, Rows]
_PROBE = 2


@dataclass(frozen=True)
class Fit:
    """What learns from what: the teacher's block by the student's, for features and for attentions; the attentions of both by block; which
    of the student's are causal; the fields of both sides' embeddings, and the teacher's scale of similarities."""

    features: Mapping[str, str] = field(default_factory=dict)
    attentions: Mapping[str, str] = field(default_factory=dict)
    teacher_places: Mapping[str, AttentionPlace] = field(default_factory=dict)
    student_places: Mapping[str, AttentionPlace] = field(default_factory=dict)
    causal: Mapping[str, bool] = field(default_factory=dict)
    sides: tuple[str, ...] = ()
    teacher_scale: float = 1.0


def plan_states(
    teacher: Model, student: Model, settings: DistillSettings, scored: tuple[Score | None, Score | None] = (None, None)
) -> tuple[StateReader, StateReader, Fit]:
    """Which states of teacher and student are needed, and what learns from what; `scored` says of both which words count.

    Raises:
        InputError: the blocks, attentions or outputs do not fit.
    """
    inside = settings.features or settings.attentions or settings.relations
    pairs = match_towers(teacher.layout, student.layout, settings.layers) if inside else {}
    if inside and not pairs:
        raise InputError("the student has no blocks that are declared; leave out features, attentions and relations")
    features = pairs if settings.features else {}
    places, chosen = _plan_attentions(teacher, student, pairs, settings)
    sides, scale = _plan_affinity(teacher, student) if settings.affinity else ((), 1.0)
    embeddings = bool(settings.embeddings or settings.affinity)
    readers = [
        StateReader(model, bool(settings.logits), embeddings, tuple(dict.fromkeys(blocks)), own, score)
        for model, blocks, own, score in zip((teacher, student), (features.values(), features), places, scored, strict=True)
    ]
    return readers[0], readers[1], Fit(features, chosen, places[0], places[1], {}, sides, scale)


def _plan_attentions(
    teacher: Model, student: Model, pairs: Mapping[str, str], settings: DistillSettings
) -> tuple[tuple[dict[str, AttentionPlace], dict[str, AttentionPlace]], dict[str, str]]:
    if not (settings.attentions or settings.relations):
        return ({}, {}), {}
    last = {tower.blocks[-1] for tower in student.layout.towers if tower.blocks}
    chosen = {block: there for block, there in pairs.items() if settings.at == "all" or block in last}
    there = find_attentions(teacher.layout, list(chosen.values()))
    own = find_attentions(student.layout, list(chosen))
    for what, model, blocks, found in (("teacher", teacher, chosen.values(), there), ("student", student, chosen, own)):
        missing = [block for block in blocks if block not in found]
        if missing:
            raise InputError(
                f"{missing[0]} of the {what} ({_class_of(model)}) has no self-attention whose heads are declared; leave out attentions and "
                "relations"
            )
    return (there, own), chosen


def _plan_affinity(teacher: Model, student: Model) -> tuple[tuple[str, ...], float]:
    sides = [_list_embeddings(model) for model in (teacher, student)]
    for what, model, found in zip(("teacher", "student"), (teacher, student), sides, strict=True):
        if len(found) != 2:
            raise InputError(
                f"distill.affinity needs embeddings of two modalities, such as CLIPModel's; the {what} ({_class_of(model)}) gives "
                f"{', '.join(found) or 'none'}"
            )
    if sides[0] != sides[1]:
        there, own = (", ".join(found) for found in sides)
        raise InputError(f"distill.affinity: the teacher gives {there} and the student {own}; expected the same")
    return tuple(sides[1]), float(read_scale(teacher.module))


def _list_embeddings(model: Model) -> list[str]:
    return [output.field for output in model.family.outputs(model.module) if output.kind == "embedding" and not output.pool]


@torch.no_grad()
def probe_states(reader: StateReader, encode: Encode, samples: Sequence[Sample]) -> tuple[States, Batch]:
    """The states of the first samples that go together, and their batch."""
    module = reader.model.module.eval()
    batch = encode([(0, sample) for sample in samples])
    with record_outputs(module, reader.list_paths()) as seen:
        result = run_forward(module, {name: value for name, value in batch.items() if name != LABELS})
    return reader.collect_states(batch, result, seen), batch


def choose_probe(samples: Sequence[Sample]) -> list[Sample]:
    """Some samples with the same modalities."""
    alike = [s for s in samples if s.modalities == samples[0].modalities and (s.inputs is None or samples[0].inputs is not None)]
    return alike[: 1 if samples[0].inputs is not None else _PROBE]


def check_fit(
    fit: Fit, teacher: States, student: States, models: tuple[Model, Model], settings: DistillSettings
) -> dict[str, tuple[int, int]]:
    """Hold what both gave against each other; the widths (student's, teacher's) of each state that a learned map goes between.

    Raises:
        InputError: naming the layers, and their shapes.
    """
    maps: dict[str, tuple[int, int]] = {}
    if settings.logits:
        _check_logits(teacher, student, models)
    for block, there in fit.features.items():
        _check_tokens(f"features.{there}", f"features.{block}", teacher, student)
        _add_map(maps, f"features.{block}", student[f"features.{block}"], teacher[f"features.{there}"], settings, (there, block))
    if settings.embeddings:
        names = [name for name in student if name.startswith("embedding.") and name in teacher]
        if not names:
            raise InputError(_say_missing("embeddings", "embedding", teacher, student, models))
        for name in names:
            _add_map(maps, name, student[name], teacher[name], settings, (name, name))
    for block, there in fit.attentions.items():
        _check_tokens(f"query.{there}", f"query.{block}", teacher, student)
        _check_heads(fit, block, there, student, teacher, settings)
    return maps


def _check_logits(teacher: States, student: States, models: tuple[Model, Model]) -> None:
    names = [name for name in student if name.startswith("logits.") and name in teacher]
    if not names:
        raise InputError(_say_missing("logits", "logits", teacher, student, models))
    for name in names:
        there, own = (states[name].values.shape[-1] for states in (teacher, student))
        if there != own:
            raise InputError(
                f"distill.logits: the teacher ({_class_of(models[0])}) scores {there:,} classes or words in {name.partition('.')[2]}, the "
                f"student ({_class_of(models[1])}) {own:,}; expected the same: give the student the teacher's "
                f"{'classes' if own < 1000 else 'vocabulary'}, or use features or relations in place of logits"
            )
        _check_tokens(name, name, teacher, student)
    _check_class_names([getattr(getattr(model.module, "config", None), "id2label", None) or {} for model in models])


def _check_class_names(names: Sequence[Mapping[int, str]]) -> None:
    there, own = names
    made_up = any(str(name).startswith("LABEL_") for one in names for name in one.values())
    differing = [number for number in own if there.get(number) != own[number]]
    if there and differing and not made_up:
        at = differing[0]
        raise InputError(
            f"distill.logits: class {at} is {there.get(at)!r} to the teacher and {own[at]!r} to the student; expected the same classes in "
            "the same order"
        )


def _say_missing(term: str, kind: str, teacher: States, student: States, models: tuple[Model, Model]) -> str:
    given = [", ".join(n.partition(".")[2] for n in states if n.startswith(f"{kind}.")) or "none" for states in (teacher, student)]
    return (
        f"distill.{term}: teacher and student have no {kind} in common; {_class_of(models[0])} gives {given[0]}, "
        f"{_class_of(models[1])} {given[1]}; leave {term} out"
    )


def _check_tokens(there: str, own: str, teacher: States, student: States) -> None:
    for name, states, what in ((there, teacher, "teacher"), (own, student, "student")):
        if name not in states:
            raise InputError(f"the {what} has no {name} for a sample of the data; leave the term out")
    expected, found = teacher[there].counts.tolist(), student[own].counts.tolist()
    if expected != found:
        at = next((i for i, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]), 0)
        raise InputError(
            f"{there} of the teacher has {expected[at]} tokens of a sample, {own} of the student {found[at]}; they are compared token by "
            "token: give both the same processors, patches and strides, or use logits, embeddings or affinity alone"
        )


def _add_map(
    maps: dict[str, tuple[int, int]], name: str, own: Rows, there: Rows, settings: DistillSettings, paths: tuple[str, str]
) -> None:  # fmt: skip
    widths = own.values.shape[-1], there.values.shape[-1]
    if widths[0] != widths[1] and settings.projection == "never":
        raise InputError(
            f"{paths[0]} of the teacher is {widths[1]} wide, {paths[1]} of the student {widths[0]}; give distill.projection: auto, which "
            "learns a map between them, or use relations, which need none"
        )
    if widths[0] != widths[1] or settings.projection == "always":
        maps[name] = widths


def _check_heads(fit: Fit, block: str, there: str, student: States, teacher: States, settings: DistillSettings) -> None:
    places = fit.teacher_places[there], fit.student_places[block]
    heads = [place.heads * place.group for place in places]
    if settings.attentions and heads[0] != heads[1]:
        raise InputError(
            f"distill.attentions: {there} of the teacher has {heads[0]} heads, {block} of the student {heads[1]}; use relations, which "
            "part widths into heads of their own"
        )
    for kind in ("query", "key", "value"):
        widths = [states[f"{kind}.{at}"].values.shape[-1] for states, at in ((teacher, there), (student, block))]
        wanted = settings.relation_heads
        if settings.relations and wanted and any(width % wanted for width in widths):
            raise InputError(
                f"distill.relation_heads is {wanted}, which does not divide the {kind} widths {widths[0]} ({there} of the teacher) and "
                f"{widths[1]} ({block} of the student); give a common divisor"
            )


def mark_causal(fit: Fit, models: tuple[Model, Model], batches: tuple[Batch, Batch]) -> dict[str, bool]:
    """Of the student's attentions which see only what comes before a token, found by running both; needed for `attentions` alone.

    Raises:
        InputError: one is causal and what it learns from is not.
    """
    found = {}
    inputs = [{name: value for name, value in batch.items() if name != LABELS} for batch in batches]
    for block, there in fit.attentions.items():
        teacher, student = (is_causal(m.module, path, given) for m, path, given in zip(models, (there, block), inputs, strict=True))
        if teacher != student:
            raise InputError(f"distill.attentions: {there if teacher else block} is causal and {block if teacher else there} is not")
        found[block] = student
    return found


def make_projections(maps: Mapping[str, tuple[int, int]], seed: int) -> nn.ModuleDict:
    """Learned maps from the student's width to the teacher's, by the state's name with `/` for dots; random by `seed`, of equal widths the
    identity."""
    generator = torch.Generator().manual_seed(seed)
    found = nn.ModuleDict()
    for name, (own, there) in maps.items():
        layer = nn.Linear(own, there, bias=False)
        drawn = torch.randn(there, own, generator=generator) / own**0.5
        with torch.no_grad():
            layer.weight.copy_(torch.eye(own) if own == there else drawn)
        found[name.replace(".", "/")] = layer
    return found


def describe_layers(layout: Layout) -> str:
    """The towers and how many blocks each has, in words."""
    return ", ".join(f"{tower.name} {len(tower.blocks)}" for tower in layout.towers if tower.blocks) or "no blocks"


def _class_of(model: Model) -> str:
    return type(model.module).__name__


def check_vocabularies(models: tuple[Model, Model]) -> None:
    """Refuse two tokenizers of which one number is not one word, before words' scores are held against each other.

    Raises:
        InputError: naming the word.
    """
    vocabularies = []
    for model in models:
        tokenizer = model.processors.text if model.processors.text is not None else getattr(model.processors.whole, "tokenizer", None)
        if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
            return
        vocabularies.append({number: word for word, number in tokenizer.get_vocab().items()})
    for number, word in vocabularies[0].items():
        if vocabularies[1].get(number, word) != word:
            size = int(getattr(config_of(models[1].module), "vocab_size", 0) or len(vocabularies[1]))
            raise InputError(
                f"distill.logits: word {number} of {size:,} is {word!r} to the teacher and {vocabularies[1][number]!r} to the student; "
                "expected one vocabulary: give the student the teacher's tokenizer"
            )
