"""Retrieval: two encoders learn one space, in which what belongs together lies together.

    L = ½ · [CE(s · a bᵀ, right) + CE(s · b aᵀ, right)]      a, b (batch, width) of unit length, s the model's logit scale

(CLIP, Radford et al. 2021, arXiv 2103.00020.) A model with a logit bias is trained with the pairwise sigmoid instead (SigLIP, Zhai et
al. 2023, arXiv 2303.15343). Pairs that share a text or an image are right for each other: none of them is a wrong answer. With several
processes each pair is compared with those of all of them; with accumulation only with those of its own part.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional

from trimodal.core import Sample
from trimodal.data import encode_samples
from trimodal.errors import DataError, InputError
from trimodal.models.model import Model, Output
from trimodal.training.objective import LABELS, Batch, Drawn, Objective, count_rows, split_labels

_LARGEST_SCALE = 100.0
_USUAL_SCALE = 1 / 0.07
_SCALES = ("logit_scale", "logit_scale_a")


def make_retrieve(model: Model, samples: Sequence[Sample], part: int) -> Objective:
    """The objective for `model`, two encoders into one space; `part` samples go through at once.

    Raises:
        InputError: the model is no such, or a part holds but one pair.
        DataError: a sample lacks one side.
    """
    outputs = [output for output in model.family.outputs(model.module) if output.kind == "embedding" and not output.pool]
    sides = {output.modality for output in outputs}
    if len(outputs) != 2 or len(sides) != 2:
        found = ", ".join(f"{o.field} ({o.modality})" for o in model.family.outputs(model.module)) or "nothing"
        raise InputError(
            f"task: retrieve needs a model with an embedding from each of two modalities, such as CLIPModel; "
            f"{type(model.module).__name__} gives {found}"
        )
    if part < 2:
        raise InputError("task: retrieve compares the pairs of a batch with each other; give a batch of at least 2 per part")
    for sample in samples:
        if not sides <= sample.modalities and sample.inputs is None:
            missing = " and no ".join(sorted(sides - sample.modalities))
            raise DataError(f"{sample.where}: no {missing}; task: retrieve needs both in every line")
    numbers = {side: _number_contents(samples, side) for side in sides}
    keys = [(output.modality, numbers[output.modality]) for output in outputs]
    return Objective("retrieve", partial(_encode, model, keys), partial(_compute_loss, outputs, model.module), count_rows)


def _number_contents(samples: Sequence[Sample], side: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for sample in samples:
        found.setdefault(str(getattr(sample, side)), len(found))
    return found


def _encode(model: Model, keys: Sequence[tuple[str, dict[str, int]]], drawn: Sequence[Drawn]) -> dict[str, Tensor]:
    """The inputs, and `labels` int64 (batch, 2): which image and which text it is, so that equal ones are known."""
    samples = [sample for _, sample in drawn]
    batch = encode_samples(model, samples)
    ids = [[numbers[str(getattr(sample, side))] for side, numbers in keys] for sample in samples]
    return {**batch, LABELS: torch.tensor(ids, device=next(iter(batch.values())).device)}


def _compute_loss(outputs: Sequence[Output], owner: nn.Module, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    inputs, ids = split_labels(batch)
    result = module(**inputs)
    a, b = (functional.normalize(_select(output, result).float(), dim=-1) for output in outputs)  # (batch, width)
    a, b, ids = gather_rows(a, b, ids)
    scores = read_scale(owner) * a @ b.T  # (batch, batch)
    right = (ids[:, None, :] == ids[None, :, :]).any(dim=-1)
    bias = getattr(owner, "logit_bias", None)
    return {"loss": compute_contrastive_loss(scores, right) if bias is None else compute_sigmoid_loss(scores + bias.float(), right)}


def read_scale(owner: nn.Module) -> Tensor:
    """What a model multiplies its similarities by, a scalar; the usual where it has no such parameter."""
    scale = next((getattr(owner, name) for name in _SCALES if hasattr(owner, name)), None)
    return torch.tensor(_USUAL_SCALE) if scale is None else scale.float().exp().clamp(max=_LARGEST_SCALE)


def gather_rows(*parts: Tensor) -> tuple[Tensor, ...]:
    """Tensors (batch, …) of all processes that train together, one process after the other, (processes · batch, …); gradients go back."""
    if not (torch.is_grad_enabled() and is_distributed()):  # one process alone evaluates
        return parts
    return tuple(torch.cat(list(all_gather(part.contiguous()))) for part in parts)  # type: ignore[no-untyped-call]


def is_distributed() -> bool:
    """Whether several processes train together."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _select(output: Output, result: object) -> Tensor:
    found = output.select_tensor(result)
    assert found is not None  # `make_retrieve` has asked for both sides
    return found


def compute_contrastive_loss(scores: Tensor, right: Tensor) -> Tensor:
    """Cross-entropy of `scores` (n, n) both ways, a scalar; `right`, bool (n, n), says which pairs belong together, the diagonal always.

        Two pairs, scores 0 everywhere: every row has ln 2.
    """
    target = right.float()
    ways = ((scores, target), (scores.T, target.T))
    losses = [-(functional.log_softmax(s, dim=1) * (t / t.sum(dim=1, keepdim=True))).sum(dim=1).mean() for s, t in ways]
    return (losses[0] + losses[1]) / 2


def compute_sigmoid_loss(scores: Tensor, right: Tensor) -> Tensor:
    """Σ softplus(∓ scores) / n over all pairs of `scores` (n, n), a scalar: − where `right`, bool (n, n), + elsewhere."""
    signs = torch.where(right, 1.0, -1.0)
    return functional.softplus(-signs * scores).sum() / len(scores)
