"""The objective of a distillation: a task's own loss, if there are labels, and how far the student is from its teacher.

    L = Σ over terms of weight · mean over samples                of scores of words: over the words that count

A sample without a label adds nothing to the task's loss and counts for the other terms, so rows may be unlabelled, some or all. The student
runs once per batch. Sums go over samples, so the loss does not depend on how a step is parted; but for `affinity`, which compares those of
a part with each other, as `retrieve` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from trimodal.data import encode_samples
from trimodal.errors import InputError
from trimodal.models.model import Model
from trimodal.training.distilling.affinity import affinity_distance
from trimodal.training.distilling.attention_states import KINDS, record_outputs
from trimodal.training.distilling.distances import embedding_distance, score_distance
from trimodal.training.distilling.fitting import Fit
from trimodal.training.distilling.relations import (
    choose_relation_heads,
    compare_relations,
    part_into_heads,
    relate_tokens,
    relation_distance,
)
from trimodal.training.distilling.settings import DistillSettings
from trimodal.training.distilling.states import Rows, StateReader
from trimodal.training.distilling.teacher_outputs import TeacherOutputs
from trimodal.training.distilling.top_scores import top_score_distance
from trimodal.training.objective import LABELS, TEACHER, Batch, Drawn, Objective, count_rows, select_inputs
from trimodal.training.retrieving import gather_rows, is_distributed, read_scale

_COUNT = "#"
_EPSILON = 1e-12
_TOKEN_TASKS = ("transcribe", "generate")
StateRows = Mapping[str, Rows]


class _Remembered:
    """A module that keeps what it returned last, so that two losses can share one forward pass."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self.result = module, None

    def __call__(self, **inputs: Tensor) -> Any:
        self.result = self._module(**inputs)
        return self.result


@dataclass(frozen=True)
class Imitation:
    """A student, the task's own objective (None where the teacher alone says what is right), and what the teacher says. `numbers` tells
    the number of each sample in `outputs` by its identity; `projections` are learned maps by the name of a state."""

    name: str
    student: Model
    base: Objective | None
    reader: StateReader
    outputs: TeacherOutputs
    fit: Fit
    settings: DistillSettings
    numbers: Mapping[int, int]
    projections: nn.ModuleDict

    def to_objective(self) -> Objective:
        """As the engine wants it."""
        return Objective(self.name, self.encode, self.compute_loss, self.count)

    def encode(self, drawn: Sequence[Drawn]) -> dict[str, Tensor]:
        """The student's batch with labels, and what the teacher says of its samples."""
        samples = [sample for _, sample in drawn]
        batch = self.base.encode(drawn) if self.base is not None else encode_samples(self.student, samples)
        device = next(iter(batch.values())).device
        for name, rows in self.outputs.fetch([self.numbers[id(sample)] for sample in samples]).items():
            batch[f"{TEACHER}{name}"] = rows.values.to(device)
            batch[f"{TEACHER}{name}{_COUNT}"] = rows.counts.to(device)
        return batch

    def count(self, batch: Batch) -> int:
        """What the loss is the mean over: words that are said, else samples."""
        return self.base.count(batch) if self.base is not None and self.name in _TOKEN_TASKS else count_rows(batch)

    def compute_loss(self, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss and its terms by name, a scalar each."""
        once, parts = _Remembered(module), {}
        with record_outputs(self.student.module, self.reader.list_paths()) as seen:
            if self.base is not None and self.settings.labels:
                parts["labels"] = self.base.loss(cast(nn.Module, once), batch)["loss"] * self._share_labelled(batch)
            else:
                once(**select_inputs(batch))
        own = self.reader.collect_states({name: value for name, value in batch.items() if not name.startswith(TEACHER)}, once.result, seen)
        taught = _take_taught(batch)
        for term, compare in self._list_terms():
            if getattr(self.settings, term):
                parts[term] = compare(taught, own)
        loss = torch.stack([getattr(self.settings, name) * value for name, value in parts.items()]).sum()
        return {"loss": loss + _touch_outputs(once.result) if is_distributed() else loss, **parts}

    def _share_labelled(self, batch: Batch) -> float:
        """The share of what is to be labelled that is: the task's loss is the mean over it alone."""
        if self.base is None or self.name != "classify":
            return 1.0
        return self.base.count(batch) / max(1, batch[LABELS].numel())

    def _list_terms(self) -> list[tuple[str, Callable[[StateRows, StateRows], Tensor]]]:
        return [
            ("logits", self._compare_scores), ("features", self._compare_features), ("embeddings", self._compare_embeddings),
            ("attentions", self._compare_attentions), ("relations", self._compare_relations), ("affinity", self._compare_affinity),
        ]  # fmt: skip

    def _compare_scores(self, taught: StateRows, own: StateRows) -> Tensor:
        losses = []
        for name in (name for name in own if name.startswith("logits.") and name in taught):
            _check_counts(name, taught[name], own[name])
            chosen = taught.get(name.replace("logits.", "classes.", 1))
            t, s, temperature = taught[name].values, own[name].values, self.settings.temperature
            losses.append(score_distance(t, s, temperature) if chosen is None else top_score_distance(t, chosen.values, s, temperature))
        return _mean(losses)

    def _compare_features(self, taught: StateRows, own: StateRows) -> Tensor:
        losses = []
        for block, there in self.fit.features.items():
            name = f"features.{block}"
            if name in own and f"features.{there}" in taught:
                target = taught[f"features.{there}"]
                _check_counts(name, target, own[name])
                losses.append(relative_distance(target, self._project(name, own[name].values)))
        return _mean(losses)

    def _compare_embeddings(self, taught: StateRows, own: StateRows) -> Tensor:
        names = [name for name in own if name.startswith("embedding.") and name in taught]
        return _mean([embedding_distance(taught[name].values, self._project(name, own[name].values)) for name in names])

    def _project(self, name: str, states: Tensor) -> Tensor:
        key = name.replace(".", "/")
        found: Tensor = self.projections[key](states) if key in self.projections else states
        return found

    def _compare_attentions(self, taught: StateRows, own: StateRows) -> Tensor:
        losses = []
        for block, there in self.fit.attentions.items():
            sides = []
            for states, place, at in ((taught, self.fit.teacher_places[there], there), (own, self.fit.student_places[block], block)):
                if f"query.{at}" not in states:
                    break
                (q, real), (k, _) = (states[f"{kind}.{at}"].to_dense() for kind in ("query", "key"))
                queries = part_into_heads(q, place.heads * place.group)
                keys = part_into_heads(k, place.heads).repeat_interleave(place.group, dim=1)
                sides.append((relate_tokens(queries, keys, real, self.fit.causal[block]), real))
            if len(sides) == 2:
                losses.append(relation_distance(sides[0][0], sides[1][0], sides[0][1]))
        return _mean(losses)

    def _compare_relations(self, taught: StateRows, own: StateRows) -> Tensor:
        losses = []
        for block, there in self.fit.attentions.items():
            usual = self.settings.relation_heads or self.fit.teacher_places[there].heads * self.fit.teacher_places[there].group
            for kind in KINDS:
                if f"{kind}.{block}" in own and f"{kind}.{there}" in taught:
                    (t, real), (s, _) = taught[f"{kind}.{there}"].to_dense(), own[f"{kind}.{block}"].to_dense()
                    losses.append(compare_relations(t, s, real, choose_relation_heads(t.shape[-1], s.shape[-1], usual)))
        return _mean(losses)

    def _compare_affinity(self, taught: StateRows, own: StateRows) -> Tensor:
        a, b = (f"embedding.{output}" for output in self.fit.sides)
        t = gather_rows(taught[a].values, taught[b].values)
        s = gather_rows(own[a].values, own[b].values)
        return affinity_distance((t[0], t[1]), (s[0], s[1]), self.fit.teacher_scale, read_scale(self.student.module))


def relative_distance(teacher: Rows, student: Tensor) -> Tensor:
    """‖h_s − h_t‖² / ‖h_t‖² over all tokens of a sample, mean over samples, of the teacher's rows and `student` (rows, width): a scalar."""
    which = teacher.number_samples()
    zeros = student.new_zeros(len(teacher.counts))
    apart = zeros.index_add(0, which, (student - teacher.values).square().sum(dim=-1))
    whole = zeros.index_add(0, which, teacher.values.square().sum(dim=-1))
    return (apart / whole.clamp(min=_EPSILON)).mean()


def _take_taught(batch: Batch) -> dict[str, Rows]:
    names = [name for name in batch if name.startswith(TEACHER) and not name.endswith(_COUNT)]
    return {name.removeprefix(TEACHER): Rows(batch[name], batch[f"{name}{_COUNT}"]) for name in names}


def _check_counts(name: str, teacher: Rows, student: Rows) -> None:
    """Refuse rows that do not belong together.

    Raises:
        InputError: teacher and student part a sample into different numbers of tokens.
    """
    if teacher.counts.tolist() != student.counts.tolist():
        at = next(i for i, pair in enumerate(zip(teacher.counts.tolist(), student.counts.tolist(), strict=True)) if pair[0] != pair[1])
        raise InputError(
            f"{name}: the teacher has {int(teacher.counts[at])} tokens of a sample and the student {int(student.counts[at])}; they are "
            "compared token by token: give both the same processors, or leave the term out"
        )


def _touch_outputs(result: Any) -> Tensor | float:
    """0, with a gradient of 0 for whatever made `result`: processes that train together wait for a gradient of every parameter, and a head
    that no term looks at has none."""
    parts = result.values() if isinstance(result, Mapping) else result if isinstance(result, (tuple, list)) else ()
    own = 0.0 * result.sum() if isinstance(result, Tensor) and result.requires_grad else 0.0
    return sum((_touch_outputs(part) for part in parts), own)


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean() if losses else torch.zeros(())
