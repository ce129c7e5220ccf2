"""The original and the compressed model on the same samples, batch by batch.

Only scores per sample stay in memory (and embeddings, where retrieval needs all of them at once). Of scores over a
vocabulary, which are by far the largest, only the token that each position ranks first outlives the forward pass that made
them, so that those of the two models are never there together.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimodal.core import Latency, Metric, Sample
from trimodal.data import (
    VERIFICATION,
    BatchLimits,
    batch_samples,
    check_modalities,
    collect_labels,
    count_ids,
    encode_samples,
    load_masks,
    part_batch,
)
from trimodal.errors import DataError, ModelError
from trimodal.models.encoding import NO_LABEL
from trimodal.models.foreign import run_forward
from trimodal.models.maps import enlarge_map, find_image_size
from trimodal.models.model import Batch, Model, Output
from trimodal.models.pooling import pool_embedding
from trimodal.verification import tasks
from trimodal.verification.metrics import EmbeddingPairs, MetricTask, make_metrics
from trimodal.verification.overlaps import overlap_with_mask

Progress = Callable[[str, int, int], None]
LEAST_BATCHES = 4
FEW_ROWS = 8
_PLURALS = {"pixel": "pixels", "query": "queries"}
SCORE_BYTES = 1 << 28  # of one model's scores over a vocabulary at once


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

    Class scores with labels give an accuracy, scores of pixels with masks Dice and IoU; without, the agreement with the original
    and a cosine. Token scores give the agreement of the next token and, where a decoder's batch has targets, the share of these that
    it says; embeddings the cosine to the original's, and a model with two encoders also retrieval both ways where there are enough
    distinct pairs. Modules are put into eval mode and left there.

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
    masked = any(sample.mask is not None for sample in samples)
    for rows, batch in _iterate_batches(original, samples, batch_size, outputs):
        size = find_image_size(batch) if masked else None
        before, first = _run_forward(original, batch, outputs, size)
        after, second = (before, first) if compressed is original else _run_forward(compressed, batch, outputs, size)
        for one in watched:
            one.measure_batch_(samples, rows, batch, before, after)
        times.append((len(rows), first, second))
        done += len(rows)
        if progress is not None:
            progress("verify", done, len(samples))
    return ComparisonResult(_summarize_meters(watched, samples, seed), _summarize_latency(times))


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


def _run_forward(
    model: Model, batch: Batch, outputs: Sequence[Output], size: tuple[int, int] | None = None
) -> tuple[dict[str, Tensor], float]:
    """What one forward pass says of each output that it has, in as little memory as comparing needs, and its seconds. Maps of pixels are
    brought to the `size` of their masks, if there is one."""
    device = next((t.device for t in (*model.module.parameters(), *model.module.buffers())), torch.device("cpu"))
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    start = time.perf_counter()
    with torch.inference_mode():
        result = run_forward(model.module, inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        found = {output.field: value for output in outputs if (value := _extract_output(output, result, size)) is not None}
    return found, seconds


def _extract_output(output: Output, result: Any, size: tuple[int, int] | None) -> Tensor | None:
    """The tensor called `output.field`, on the CPU: of scores over a vocabulary which token they rank first, others in
    float32. None where this batch has none, as without the modality it comes from."""
    if size is not None and output.rows == "pixel" and (places := output.select_map(result)) is not None:
        return tasks.top1_tokens(enlarge_map(places, size).flatten(2).transpose(1, 2)).cpu()
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
        self.masked = output.rows == "pixel" and any(sample.mask is not None for sample in samples)
        self.tasks = _make_mask_tasks(output, outputs) if self.masked else _make_tasks(output, samples, outputs)
        self.number = _make_number_task(output, outputs)
        note = "samples whose whole target is what the model says next, token after token (greedy)"
        self.answers = MetricTask(f"answer accuracy{_name_suffix_of(output, outputs)}", output.modality, "percent", note, primary=False)
        self.embeddings = EmbeddingPairs(output.modality) if _is_dual_encoder(outputs) else None
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
        if self.masked:
            self._add_masks_(samples, rows, find_image_size(batch), reference, other)
        elif self.output.kind == "tokens":
            found = tasks.token_agreement(reference, other, mask)
            self.tasks[0].add_scores_(rows, np.full(len(rows), 100.0), found)
            self._add_answers_(rows, batch, reference, other)
        elif self.output.kind == "boxes":
            self.tasks[0].add_scores_(rows, np.full(len(rows), 100.0), tasks.box_agreement(reference, other))
        elif self.output.kind == "embedding":
            self._add_embedding_(rows, pool_embedding(self.output, reference, mask), pool_embedding(self.output, other, mask))
        else:
            self._add_logits_(samples, rows, reference, other)

    def _add_answers_(self, rows: Sequence[int], batch: Batch, reference: Tensor, other: Tensor) -> None:
        """Of a decoder that is given targets behind its prompts, how many it says by itself."""
        labels = batch["labels"].cpu() if "labels" in batch else None
        if self.output.rows or labels is None or labels.shape != reference.shape:
            return
        asked = (labels[:, 1:] != NO_LABEL).any(dim=1)
        kept = [row for row, is_asked in zip(rows, asked.tolist(), strict=True) if is_asked]
        if kept:
            self.answers.add_scores_(kept, *(tasks.answer_accuracy(said[asked], labels[asked]) for said in (reference, other)))

    def _add_masks_(self, samples: Sequence[Sample], rows: Sequence[int], size: tuple[int, int], reference: Tensor, other: Tensor) -> None:
        labels = load_masks([samples[row] for row in rows], size).flatten(1)  # (batch, pixels)
        known = (labels != NO_LABEL).any(dim=1)
        kept = [row for row, is_known in zip(rows, known.tolist(), strict=True) if is_known]
        if not kept:
            return
        overlaps = [overlap_with_mask(value[known], labels[known]) for value in (reference, other)]
        for task, before, after in zip(self.tasks, *overlaps, strict=True):
            task.add_scores_(kept, before, after)

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


def _make_number_task(output: Output, outputs: Sequence[Output]) -> MetricTask:
    """The metric of an output that is one number per sample, as a regression's is."""
    note = (
        "one number y per sample: cosine between (y − m, s) of the two models, with the mean m and the standard deviation s of "
        "the original's"
    )
    name = f"{output.modality} output cosine{_name_suffix_of(output, outputs)}"
    return MetricTask(name, output.modality, "cosine", note, likeness=True, number=True)


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


def _make_tasks(output: Output, samples: Sequence[Sample], outputs: Sequence[Output]) -> list[MetricTask]:
    suffix, modality = _name_suffix_of(output, outputs), output.modality
    if output.kind == "embedding":
        note = "cosine between the two models' embeddings of the same sample"
        return [MetricTask(f"{modality} embedding cosine{suffix}", modality, "cosine", note, likeness=True)]
    if output.kind == "boxes":
        note = "overlap of the original's boxes with the nearest that the other model calls the same, weighed by how sure the original is"
        return [MetricTask(f"box agreement{suffix}", modality, "percent", note, likeness=True)]
    if output.kind == "tokens":
        what, name = ("frames at", "frame") if modality == "audio" else ("tokens after", "next-token")
        what, name = (f"{_PLURALS[output.rows]} at", output.rows) if output.rows else (what, name)
        first = "class" if output.rows else "token"
        note = f"share of a sample's {what} which both models rank the same {first} first, averaged over samples"
        return [MetricTask(f"{name} agreement{suffix}", modality, "percent", note, likeness=True)]
    if output.label and any(label is not None for label in collect_labels(samples, output.label)):
        note = f"right answers, against {output.label}"
        return [MetricTask(_name_accuracy(output) + suffix, modality, "percent", note)]
    return [
        MetricTask(
            f"agreement with the original{suffix}",
            modality,
            "percent",
            "no labels: share of samples for which both models rank the same class first",
            likeness=True,
        ),
        MetricTask(
            f"logit cosine{suffix}",
            modality,
            "cosine",
            "cosine between the two models' class scores",
            primary=False,
            likeness=True,
        ),
    ]


def _make_mask_tasks(output: Output, outputs: Sequence[Output]) -> list[MetricTask]:
    """What is said of pixels against masks."""
    suffix, what = _name_suffix_of(output, outputs), "of each sample the mean over the classes that its mask or the answer shows"
    return [
        MetricTask(f"Dice{suffix}", output.modality, "percent", f"2 · both / (said + there), against mask: {what}"),
        MetricTask(f"IoU{suffix}", output.modality, "percent", f"both / either, against mask: {what}", primary=False),
    ]


def _name_accuracy(output: Output) -> str:
    if output.label == "label":
        return "answer accuracy" if output.modality == "all" else "accuracy"
    return f"{output.label.removeprefix('labels.')} accuracy"


def _summarize_meters(meters: Sequence[_OutputMeter], samples: Sequence[Sample], seed: int) -> list[Metric]:
    """What the meters have seen, as metrics."""
    measured = [task for one in meters for task in (*one.tasks, one.number, one.answers) if task.rows]
    _check_any_output([one.output for one in meters], bool(measured))
    sides = [one.embeddings for one in meters if one.embeddings is not None and one.embeddings.rows]
    return make_metrics(measured, sides, samples, seed)
