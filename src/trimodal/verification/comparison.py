"""The original and the compressed model on the same samples, batch by batch.

Only scores per sample stay in memory (and embeddings, where retrieval needs all of them at once). Of scores over a
vocabulary, which are by far the largest, only the token that each position ranks first outlives the forward pass that made
them, so that those of the two models are never there together.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimodal.core import MODALITIES, Latency, Metric, Sample
from trimodal.core.record import Unit
from trimodal.data import (
    VERIFICATION,
    BatchLimits,
    batch_samples,
    check_modalities,
    collect_labels,
    count_ids,
    encode_samples,
    part_batch,
)
from trimodal.errors import DataError, ModelError
from trimodal.models.foreign import run_forward
from trimodal.models.model import Batch, Model, Output
from trimodal.verification import tasks
from trimodal.verification.intervals import LARGEST, compute_paired_interval

Progress = Callable[[str, int, int], None]
RETRIEVAL_PAIRS = 50
LEAST_BATCHES = 4
FEW_ROWS = 8
SCORE_BYTES = 1 << 28  # of one model's scores over a vocabulary at once


@dataclass
class _MetricTask:
    """One metric in the making: which samples were scored (by index), and their scores, batch by batch. `likeness` to the
    original cannot grow. Of an output that is a single `number` the values are kept, which only together can be scored."""

    name: str
    modality: str
    unit: Unit
    note: str
    primary: bool = True
    likeness: bool = False
    number: bool = False
    rows: list[int] = field(default_factory=list)
    before: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)

    def add_scores_(self, rows: Sequence[int], before: np.ndarray, after: np.ndarray) -> None:
        self.rows.extend(rows)
        self.before.append(before)
        self.after.append(after)

    def collect_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Both models' scores in the order of the samples, in whatever order these were run."""
        order = np.argsort(np.array(self.rows), kind="stable")
        before, after = np.concatenate(self.before)[order], np.concatenate(self.after)[order]
        return (np.ones(len(before)), tasks.number_similarity(before, after)) if self.number else (before, after)


@dataclass
class _EmbeddingPairs:
    """Vectors of one output from both models, with the index of the sample that each belongs to."""

    modality: str
    rows: list[int] = field(default_factory=list)
    before: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class ComparisonResult:
    """What came of running both models: metrics, the overall ones (`all`) first, and the time that a sample took."""

    metrics: list[Metric]
    latency: Latency | None


def compare_models(
    original: Model,
    compressed: Model,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    seed: int,
    progress: Progress | None = None,
) -> ComparisonResult:
    """Measure every output of the models' family on `samples`, original beside compressed.

    Class scores with labels give an accuracy; without, the agreement with the original and a cosine. Token scores
    give the agreement of the next token, embeddings the cosine to the original's, and a model with two encoders
    also retrieval both ways where there are enough distinct pairs. Modules are put into eval mode and left there.

    Args:
        original: the reference.
        compressed: the same kind of model, compressed.
        samples: what to measure on, at least one. Those of like length run together, at most `VERIFICATION.tokens` tokens at once.
        batch_size: samples per forward pass, at most.
        seed: of the bootstrap.
        progress: called with `verify`, samples done, and samples in all.

    Raises:
        DataError: there is no sample, it does not fit the model, or a label is none of the model's classes.
        ModelError: an output that the family declares is missing.
    """
    if not samples:
        raise DataError("there are no samples to verify with; expected at least one")
    check_modalities(original, samples)
    outputs = original.family.outputs(original.module)
    watched = [_OutputMeter(output, samples, outputs) for output in outputs]
    original.module.eval()
    compressed.module.eval()
    times: list[tuple[int, float, float]] = []
    done = 0
    for rows, batch in _iterate_batches(original, samples, batch_size, outputs):
        before, first = _run_forward(original, batch, outputs)
        after, second = _run_forward(compressed, batch, outputs)
        for one in watched:
            one.measure_batch_(samples, rows, batch, before, after)
        times.append((len(rows), first, second))
        done += len(rows)
        if progress is not None:
            progress("verify", done, len(samples))
    return ComparisonResult(_make_metrics(watched, samples, seed), _summarize_latency(times))


def _iterate_batches(
    model: Model, samples: Sequence[Sample], size: int, outputs: Sequence[Output]
) -> Iterator[tuple[list[int], Batch]]:
    """Indices of samples that run together, with their batch. Samples are sorted by length, so that little is padded."""
    order = sorted(range(len(samples)), key=lambda row: _text_length_of(samples[row]))
    size = min(size, max(FEW_ROWS, -(-len(samples) // LEAST_BATCHES)))  # a median of times needs some batches
    batches = batch_samples(model, [samples[row] for row in order], size, kept_bytes=0)
    for places, batch in zip(batches.rows, batches, strict=True):
        for part, few in part_batch(model, batch, len(places), _limit_rows(model, batch, len(places), outputs)):
            yield [order[place] for place in places[part]], few


def _text_length_of(sample: Sample) -> int:
    """How long a sample's text is; what it has beside that is of one length mostly."""
    return len(sample.text or "") + len(sample.target or "")


def _limit_rows(model: Model, batch: Batch, rows: int, outputs: Sequence[Output]) -> BatchLimits:
    """How many of the batch's `rows` go through at once; scores over a vocabulary must fit into memory too."""
    if not any(output.kind == "tokens" for output in outputs):
        return replace(VERIFICATION, samples=rows)
    words = max((site.rows for site in model.layout.sites if site.kind in ("linear", "embedding")), default=1)
    return replace(VERIFICATION, samples=min(rows, SCORE_BYTES // (4 * words * count_ids(batch))))


def _run_forward(model: Model, batch: Batch, outputs: Sequence[Output]) -> tuple[dict[str, Tensor], float]:
    """What one forward pass says of each output that it has, in as little memory as comparing needs, and its seconds."""
    device = next((t.device for t in (*model.module.parameters(), *model.module.buffers())), torch.device("cpu"))
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    start = time.perf_counter()
    with torch.inference_mode():
        result = run_forward(model.module, inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        found = {output.field: value for output in outputs if (value := _extract_output(output, result)) is not None}
    return found, seconds


def _extract_output(output: Output, result: Any) -> Tensor | None:
    """The tensor called `output.field`, on the CPU: of scores over a vocabulary which token they rank first, others in
    float32. None where this batch has none, as without the modality it comes from."""
    found = output.select_tensor(result)
    if found is None:
        return None
    return tasks.top1_tokens(found).cpu() if output.kind == "tokens" else found.detach().float().cpu()


def _summarize_latency(times: Sequence[tuple[int, float, float]]) -> Latency | None:
    """Medians over the batches but for the first one, in which much is set up; None where there is no other."""
    counted = times[1:]
    if not counted:
        return None
    before, after = (statistics.median(1e3 * one[which] / one[0] for one in counted) for which in (1, 2))
    return Latency(before, after, len(counted), max(rows for rows, _, _ in counted))


class _OutputMeter:
    """What is measured of one output."""

    def __init__(self, output: Output, samples: Sequence[Sample], outputs: Sequence[Output]) -> None:
        self.output = output
        self.tasks = _make_tasks(output, samples, outputs)
        self.number = _make_number_task(output, outputs)
        self.embeddings = _EmbeddingPairs(output.modality) if _is_dual_encoder(outputs) else None
        self.labels = collect_labels(samples, output.label) if output.label else [None] * len(samples)

    def measure_batch_(
        self,
        samples: Sequence[Sample],
        rows: Sequence[int],
        batch: Batch,
        before: Mapping[str, Tensor],
        after: Mapping[str, Tensor],
    ) -> None:
        """Add the scores of one batch; `rows` are its samples' indices."""
        reference, other = before.get(self.output.field), after.get(self.output.field)
        if reference is None:
            return
        if other is None or other.shape != reference.shape:
            instead = "no such output" if other is None else f"one of shape {tuple(other.shape)}"
            raise ModelError(
                f"the original's output {self.output.field} has shape {tuple(reference.shape)}, but the compressed model has "
                f"{instead}; was it made from this original?"
            )
        _check_rows(self.output, reference, len(rows))
        if self.output.is_one_number(reference):
            self.number.add_scores_(rows, *(value.double().reshape(-1).numpy() for value in (reference, other)))
            return
        mask = batch[self.output.mask].cpu() if self.output.mask in batch else None
        if self.output.kind == "tokens":
            found = tasks.token_agreement(reference, other, mask)
            self.tasks[0].add_scores_(rows, np.full(len(rows), 100.0), found)
        elif self.output.kind == "embedding":
            self._add_embedding_(rows, tasks.pool_embedding(self.output, reference, mask), tasks.pool_embedding(self.output, other, mask))
        else:
            self._add_logits_(samples, rows, reference, other)

    def _add_embedding_(self, rows: Sequence[int], reference: Tensor, other: Tensor) -> None:
        self.tasks[0].add_scores_(rows, np.ones(len(rows)), tasks.cosine_similarity(reference, other))
        if self.embeddings is not None:
            self.embeddings.rows.extend(rows)
            self.embeddings.before.append(reference.numpy())
            self.embeddings.after.append(other.numpy())

    def _add_logits_(self, samples: Sequence[Sample], rows: Sequence[int], reference: Tensor, other: Tensor) -> None:
        if len(self.tasks) == 2:
            self.tasks[0].add_scores_(rows, np.full(len(rows), 100.0), tasks.top1_agreement(reference, other))
            self.tasks[1].add_scores_(rows, np.ones(len(rows)), tasks.cosine_similarity(reference, other))
            return
        kept = [(at, row, label) for at, row in enumerate(rows) if (label := self.labels[row]) is not None]
        for _, row, label in kept:
            if label >= reference.shape[-1]:
                raise DataError(
                    f"{samples[row].where}: {self.output.label} is {label}, but the model has "
                    f"{reference.shape[-1]} classes; expected 0 to {reference.shape[-1] - 1}"
                )
        if kept:
            at = [index for index, _, _ in kept]
            truth = torch.tensor([label for _, _, label in kept])
            scores = (tasks.accuracy(value[at], truth) for value in (reference, other))
            self.tasks[0].add_scores_([row for _, row, _ in kept], *scores)


def _is_dual_encoder(outputs: Sequence[Output]) -> bool:
    """Whether the model is two encoders into one space, such as CLIP: then its embeddings can find each other."""
    return (
        len(outputs) == 2 and {o.kind for o in outputs} == {"embedding"} and outputs[0].modality != outputs[1].modality
    )


def _name_suffix_of(output: Output, outputs: Sequence[Output]) -> str:
    """What tells an output from others that would be called the same."""
    alike = [o for o in outputs if (o.kind, o.modality, o.label) == (output.kind, output.modality, output.label)]
    return f" ({output.field})" if len(alike) > 1 else ""


def _make_number_task(output: Output, outputs: Sequence[Output]) -> _MetricTask:
    """The metric of an output that is one number per sample, as a regression's is."""
    note = (
        "one number y per sample: cosine between (y − m, s) of the two models, with the mean m and the standard deviation s of "
        "the original's"
    )
    name = f"{output.modality} output cosine{_name_suffix_of(output, outputs)}"
    return _MetricTask(name, output.modality, "cosine", note, likeness=True, number=True)


def _check_rows(output: Output, value: Tensor, rows: int) -> None:
    """Refuse an output that cannot be told apart by samples."""
    if value.numel() != rows and (value.dim() == 0 or len(value) != rows):
        raise ModelError(
            f"output {output.field} has shape {tuple(value.shape)} for {rows} samples, expected one row per sample in the first "
            "dimension; let forward return such a tensor first, or measure nothing with --data none"
        )


def check_comparable(model: Model, samples: Sequence[Sample]) -> None:
    """Find out from the first sample, before any work, whether what the model puts out can be compared.

    Raises:
        ModelError: it has none of its family's outputs, or one that has no row per sample.
    """
    if not samples:
        return
    outputs = model.family.outputs(model.module.eval())
    found, _ = _run_forward(model, encode_samples(model, [samples[0]] * 2), outputs)
    _check_any_output(outputs, bool(found))
    for output in outputs:
        if output.field in found:
            _check_rows(output, found[output.field], 2)


def _check_any_output(outputs: Sequence[Output], any_found: bool) -> None:
    if not any_found:
        fields = ", ".join(output.field for output in outputs) or "none"
        raise ModelError(f"the model gave none of the outputs that its family declares ({fields}); nothing to compare")


def _make_tasks(output: Output, samples: Sequence[Sample], outputs: Sequence[Output]) -> list[_MetricTask]:
    suffix, modality = _name_suffix_of(output, outputs), output.modality
    if output.kind == "embedding":
        note = "cosine between the two models' embeddings of the same sample"
        return [_MetricTask(f"{modality} embedding cosine{suffix}", modality, "cosine", note, likeness=True)]
    if output.kind == "tokens":
        what, name = ("frames at", "frame") if modality == "audio" else ("tokens after", "next-token")
        note = f"share of a sample's {what} which both models rank the same token first, averaged over samples"
        return [_MetricTask(f"{name} agreement{suffix}", modality, "percent", note, likeness=True)]
    if output.label and any(label is not None for label in collect_labels(samples, output.label)):
        note = f"right answers, against {output.label}"
        return [_MetricTask(_name_accuracy(output) + suffix, modality, "percent", note)]
    return [
        _MetricTask(
            f"agreement with the original{suffix}",
            modality,
            "percent",
            "no labels: share of samples for which both models rank the same class first",
            likeness=True,
        ),
        _MetricTask(
            f"logit cosine{suffix}",
            modality,
            "cosine",
            "cosine between the two models' class scores",
            primary=False,
            likeness=True,
        ),
    ]


def _name_accuracy(output: Output) -> str:
    if output.label == "label":
        return "answer accuracy" if output.modality == "all" else "accuracy"
    return f"{output.label.removeprefix('labels.')} accuracy"


# From scores to metrics


def _make_metrics(watched: Sequence[_OutputMeter], samples: Sequence[Sample], seed: int) -> list[Metric]:
    measured = [task for one in watched for task in (*one.tasks, one.number) if task.rows]
    _check_any_output([one.output for one in watched], bool(measured))
    overall = _make_overall_tasks(measured, len(samples))
    found = [*overall, *measured, *_make_retrieval_tasks(watched, samples)]
    order = {modality: index for index, modality in enumerate(("all", *MODALITIES))}
    found.sort(key=lambda task: order.get(task.modality, len(order)))
    return [_make_metric(task, seed) for task in found]


def _make_metric(task: _MetricTask, seed: int) -> Metric:
    before, after = task.collect_scores()
    interval = compute_paired_interval(before, after, seed=seed, largest=LARGEST[task.unit])
    if task.likeness and interval.low is not None:
        interval = replace(interval, low=max(interval.low, 0.0))
    changed = int((before != after).sum())
    return Metric(
        name=task.name,
        modality=task.modality,
        unit=task.unit,
        samples=before.size,
        before=float(before.mean()),
        after=float(after.mean()),
        drop=interval.mean,
        drop_low=interval.low,
        drop_high=interval.high,
        note=task.note if changed else f"{task.note}; not one sample changed",
        interval=interval.kind,
        primary=task.primary,
    )


def _make_overall_tasks(measured: Sequence[_MetricTask], count: int) -> list[_MetricTask]:
    """The mean over modalities of each sample's scores, where no output speaks for all modalities."""
    parts = [task for task in measured if task.primary]
    modalities = list(dict.fromkeys(task.modality for task in parts))
    if "all" in modalities or len(modalities) < 2:
        return []
    units = [task.unit for task in parts]
    unit: Unit = "cosine" if units.count("cosine") > units.count("percent") else "percent"
    chosen = [task for task in parts if task.unit == unit]
    scores = np.full((2, len(chosen), count), np.nan)  # before and after × tasks × samples
    for index, task in enumerate(chosen):
        scores[0, index, task.rows], scores[1, index, task.rows] = task.collect_scores()
    rows = np.flatnonzero(~np.isnan(scores[0]).all(axis=0))
    means = np.nanmean(scores[:, :, rows], axis=1)  # (2, rows)
    name = "mean cosine" if unit == "cosine" else "mean score"
    likeness = all(task.likeness for task in chosen)
    task = _MetricTask(name, "all", unit, f"mean per sample over: {', '.join(t.name for t in chosen)}", likeness=likeness)
    task.add_scores_([int(row) for row in rows], means[0], means[1])
    return [task]


def _make_retrieval_tasks(watched: Sequence[_OutputMeter], samples: Sequence[Sample]) -> list[_MetricTask]:
    """Both ways between two encoders, over all samples that have both sides."""
    sides = [one.embeddings for one in watched if one.embeddings is not None and one.embeddings.rows]
    if len(sides) != 2:
        return []
    paired = {side.modality for side in sides}
    both = set(sides[0].rows) & set(sides[1].rows)
    shared = sorted(row for row in both if paired <= samples[row].modalities)
    if not shared:
        return []
    keys = [[str(getattr(samples[row], side.modality)) for row in shared] for side in sides]
    pairs = list(dict.fromkeys(zip(*keys, strict=True)))
    vectors = [[_select_rows(side, which, shared) for side in sides] for which in ("before", "after")]
    if len(pairs) < RETRIEVAL_PAIRS or vectors[0][0].shape[1] != vectors[0][1].shape[1]:
        return []
    return [_make_one_way_task(sides, keys, vectors, shared, start) for start in (0, 1)]


def _select_rows(side: _EmbeddingPairs, which: str, shared: Sequence[int]) -> np.ndarray:
    """(shared, width) the side's vectors in the order of `shared`."""
    at = {row: index for index, row in enumerate(side.rows)}
    stacked: np.ndarray = np.concatenate(getattr(side, which))
    return stacked[[at[row] for row in shared]]


def _make_one_way_task(
    sides: Sequence[_EmbeddingPairs],
    keys: Sequence[Sequence[str]],
    vectors: Sequence[Sequence[np.ndarray]],
    shared: Sequence[int],
    start: int,
) -> _MetricTask:
    """From side `start` to the other: each distinct item on one side looks for its own on the other."""
    end = 1 - start
    queries, items = _find_first_of_each(keys[start]), _find_first_of_each(keys[end])
    index = {keys[end][row]: at for at, row in enumerate(items)}
    wanted: dict[str, set[int]] = {}
    for query, item in zip(keys[start], keys[end], strict=True):
        wanted.setdefault(query, set()).add(index[item])
    right = [frozenset(wanted[keys[start][row]]) for row in queries]
    before, after = (tasks.recall_at_1(v[start][queries], v[end][items], right) for v in vectors)
    source, target = sides[start].modality, sides[end].modality
    task = _MetricTask(
        f"{source} to {target} retrieval",
        source,
        "percent",
        f"recall at 1: the nearest of {len(items):,} {target} items is the {source}'s own",
        primary=False,
    )
    task.add_scores_([shared[row] for row in queries], before, after)
    return task


def _find_first_of_each(keys: Sequence[str]) -> list[int]:
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    return list(first.values())
