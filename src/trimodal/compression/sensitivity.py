"""How much each modality's tokens matter to the output: the mean size of the loss's gradient, per layer.

MBQ (Li et al. 2025, arXiv 2412.19509) weighs modalities so. No labels are needed: the loss is the negative
log-likelihood of labels drawn from the model's own predictions, whose gradient is that of the Fisher information, and
for embeddings their scalar product with a random direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.models.model import Batch, Model, Output
from trimodal.statistics import rows_by_modality


def gradient_sizes(model: Model, batches: Sequence[Batch], seed: int) -> dict[str, dict[str, float]]:
    """E‖∂loss/∂y‖ per token of every site's output y, by path and modality; sites that were not reached are missing.

    One forward and one backward pass per batch. Parameters' own gradients are not computed beyond what backward needs
    and are dropped.
    """
    totals: dict[str, dict[str, tuple[float, int]]] = {}
    generator = torch.Generator().manual_seed(seed)
    model.module.eval()
    for batch in batches:
        codes = model.family.tokens(model.module, batch)
        seen: dict[str, Tensor] = {}
        handles = [
            model.module.get_submodule(site.path).register_forward_hook(_keep(seen, site.path))
            for site in model.layout.sites
        ]
        try:
            with torch.enable_grad():
                loss = _loss(model, model.module(**batch), batch, generator)
                gradients = torch.autograd.grad(loss, list(seen.values()), allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        for path, gradient in zip(seen, gradients, strict=True):
            if gradient is not None:
                site = model.layout.site(path)
                modality = model.layout.tower(site.tower).modality
                for name, rows in rows_by_modality(gradient, codes.get(site.stream), modality).items():
                    size, count = totals.setdefault(path, {}).get(name, (0.0, 0))
                    totals[path][name] = size + float(rows.norm(dim=-1).sum()), count + len(rows)
    return {path: {name: size / count for name, (size, count) in by.items()} for path, by in totals.items()}


def _keep(seen: dict[str, Tensor], path: str) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            seen[path] = output

    return hook


def _loss(model: Model, result: Any, batch: Batch, generator: torch.Generator) -> Tensor:
    """The sum over the outputs that a person cares about."""
    total = torch.zeros(())
    for output in model.family.outputs(model.module):
        value = output.of(result)
        if value is not None:
            total = total + _one(output, value.float(), batch, generator)
    return total


def _one(output: Output, value: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
    if output.kind == "embedding":
        direction = torch.randn(value.shape, generator=generator).to(value.device)
        return (nn.functional.normalize(value, dim=-1) * direction).sum()
    scores = value.log_softmax(dim=-1)
    if output.kind == "tokens" and output.mask in batch and batch[output.mask].shape == scores.shape[:-1]:
        scores = scores[batch[output.mask].bool()]
    scores = scores.reshape(-1, scores.shape[-1])
    drawn = torch.multinomial(scores.detach().exp().cpu(), 1, generator=generator).to(scores.device)
    return -scores.gather(1, drawn).sum()
