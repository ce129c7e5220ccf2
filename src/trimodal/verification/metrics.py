"""From scores per sample, before and after, to metrics with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from trimodal.core import MODALITIES, Metric, Sample
from trimodal.core.record import Unit
from trimodal.verification import tasks
from trimodal.verification.intervals import LARGEST, compute_paired_interval

RETRIEVAL_PAIRS = 50


@dataclass
class MetricTask:
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
        """Add scores (n,) of the samples numbered `rows`, by the original and by the compressed model."""
        self.rows.extend(rows)
        self.before.append(before)
        self.after.append(after)

    def collect_scores(self) -> tuple[np.ndarray, np.ndarray]:
        """Both models' scores (samples,) in the order of the samples, in whatever order these were run."""
        order = np.argsort(np.array(self.rows), kind="stable")
        before, after = np.concatenate(self.before)[order], np.concatenate(self.after)[order]
        return (np.ones(len(before)), tasks.number_similarity(before, after)) if self.number else (before, after)


@dataclass
class EmbeddingPairs:
    """Vectors of one output from both models, with the index of the sample that each belongs to."""

    modality: str
    rows: list[int] = field(default_factory=list)
    before: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)


def make_metrics(
    measured: Sequence[MetricTask], sides: Sequence[EmbeddingPairs], samples: Sequence[Sample], seed: int
) -> list[Metric]:
    """The metrics of what was measured of the outputs, of all modalities together, and of how the two `sides` of a dual encoder
    find each other; `all` first. `seed` is for intervals that are drawn."""
    overall = _make_overall_tasks(measured, len(samples))
    found = [*overall, *measured, *_make_retrieval_tasks(sides, samples)]
    order = {modality: index for index, modality in enumerate(("all", *MODALITIES))}
    found.sort(key=lambda task: order.get(task.modality, len(order)))
    return [_make_metric(task, seed) for task in found]


def _make_metric(task: MetricTask, seed: int) -> Metric:
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


def _make_overall_tasks(measured: Sequence[MetricTask], count: int) -> list[MetricTask]:
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
    task = MetricTask(name, "all", unit, f"mean per sample over: {', '.join(t.name for t in chosen)}", likeness=likeness)
    task.add_scores_([int(row) for row in rows], means[0], means[1])
    return [task]


def _make_retrieval_tasks(sides: Sequence[EmbeddingPairs], samples: Sequence[Sample]) -> list[MetricTask]:
    """Both ways between two encoders, over all samples that have both sides."""
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


def _select_rows(side: EmbeddingPairs, which: str, shared: Sequence[int]) -> np.ndarray:
    """(shared, width) the side's vectors in the order of `shared`."""
    at = {row: index for index, row in enumerate(side.rows)}
    stacked: np.ndarray = np.concatenate(getattr(side, which))
    return stacked[[at[row] for row in shared]]


def _make_one_way_task(
    sides: Sequence[EmbeddingPairs],
    keys: Sequence[Sequence[str]],
    vectors: Sequence[Sequence[np.ndarray]],
    shared: Sequence[int],
    start: int,
) -> MetricTask:
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
    task = MetricTask(
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
