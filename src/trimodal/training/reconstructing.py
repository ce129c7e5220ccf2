"""Reconstruction: what goes in must come out. No labels are needed.

    images, sounds, vectors   mean (out − in)², where forward gives a tensor of its input's shape (an autoencoder), or the model's own loss
                              where it has one (ViTMAE masks and reconstructs by itself)
    text                      a share of the tokens is hidden, and is to be said (BERT, Devlin et al. 2018, arXiv 1810.04805; all
                              of them become the mask token). Which ones depends on the seed and the place in the run, on nothing else
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trimodal.core import Sample
from trimodal.data import encode_samples
from trimodal.errors import InputError
from trimodal.models.encoding import get_processor
from trimodal.models.foreign import run_forward
from trimodal.models.model import Model, find_first_tensor
from trimodal.training.objective import IGNORED, LABELS, Batch, Drawn, Objective, count_labels, count_rows, split_labels

_SPREAD = 1_000_003  # between the seeds of two places


def make_reconstruct(model: Model, samples: Sequence[Sample], hidden: float, seed: int) -> Objective:
    """The objective for `model`; of texts a share `hidden` of the tokens is hidden.

    Raises:
        InputError: the model gives nothing that can be held against its input.
    """
    if any(output.kind == "tokens" for output in model.family.outputs(model.module)):
        tokenizer = get_processor(model.processors, "text")
        if tokenizer.mask_token_id is None:
            raise InputError("the tokenizer has no mask token, so that no token can be hidden; use task: generate for a decoder")
        return Objective("reconstruct", partial(_encode_hidden, model, tokenizer, hidden, seed), _compute_hidden_loss, count_labels)
    batch = encode_samples(model, samples[:1])
    with torch.no_grad():
        result = run_forward(model.module.eval(), batch)
    compare = _find_comparison(batch, result, type(model.module).__name__)
    return Objective("reconstruct", partial(_encode, model), partial(_compute_loss, compare), count_rows)


def _find_comparison(batch: Batch, result: Any, name: str) -> Callable[[Batch, Any], Tensor]:
    if isinstance(getattr(result, "loss", None), Tensor):
        return lambda inputs, found: found.loss
    out = find_first_tensor(result)
    shapes = {key: value for key, value in batch.items() if value.is_floating_point()}
    alike = next((key for key, value in shapes.items() if out is not None and value.shape == out.shape), None)
    if alike is None:
        given = ", ".join(f"{key} {tuple(value.shape)}" for key, value in shapes.items()) or "no numbers"
        raise InputError(
            f"task: reconstruct needs a model whose output has the shape of its input; {name} takes {given} and gives "
            f"{None if out is None else tuple(out.shape)}"
        )
    return partial(_compare_tensors, alike)


def _compare_tensors(name: str, inputs: Batch, result: Any) -> Tensor:
    found = find_first_tensor(result)
    assert found is not None  # it was there when the objective was made
    return functional.mse_loss(found.float(), inputs[name].float())


def _encode(model: Model, drawn: Sequence[Drawn]) -> dict[str, Tensor]:
    return encode_samples(model, [sample for _, sample in drawn])


def _compute_loss(compare: Callable[[Batch, Any], Tensor], module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    return {"loss": compare(batch, module(**batch))}


def _encode_hidden(model: Model, tokenizer: Any, hidden: float, seed: int, drawn: Sequence[Drawn]) -> dict[str, Tensor]:
    """The family's batch with tokens hidden, and `labels` (batch, tokens): what they were, ignored elsewhere."""
    batch = encode_samples(model, [sample for _, sample in drawn])
    ids = batch["input_ids"]
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids, device=ids.device))
    chosen = torch.stack([_draw(row.numel(), hidden, seed * _SPREAD + place) for row, (place, _) in zip(ids, drawn, strict=True)])
    chosen = chosen.to(ids.device) & ~special & (batch.get("attention_mask", torch.ones_like(ids)) > 0)
    labels = ids.masked_fill(~chosen, IGNORED)
    return {**batch, "input_ids": ids.masked_fill(chosen, int(tokenizer.mask_token_id)), LABELS: labels}


def _draw(length: int, share: float, seed: int) -> Tensor:
    return torch.rand(length, generator=torch.Generator().manual_seed(seed)) < share


def _compute_hidden_loss(module: nn.Module, batch: Batch) -> dict[str, Tensor]:
    inputs, labels = split_labels(batch)
    scores = module(**inputs).logits
    total = functional.cross_entropy(scores.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return {"loss": total / max(1, count_labels(batch))}
