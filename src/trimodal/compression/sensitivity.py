"""What the loss's gradient says: how much each modality's tokens matter to the output, and what each weight is worth.

MBQ (Li et al. 2025, arXiv 2412.19509) weighs modalities by the first; `prune.gradient` ranks weights by the second, and
`score: fisher` whole units by what the weights that read them say together. No labels are needed: the loss is the negative
log-likelihood of labels drawn from the model's own predictions, whose gradient is that of the Fisher information, and for
embeddings their scalar product with a random direction. For weights, labels and next tokens are used where the data has
them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core import Sample
from trimodal.data import collect_labels
from trimodal.models.foreign import run_forward
from trimodal.models.model import Batch, Model, Output
from trimodal.statistics import MaskGradient, WeightGradient, find_token_codes, split_rows_by_modality

_IGNORED = -100


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
            model.module.get_submodule(site.path).register_forward_hook(_make_output_hook(seen, site.path))
            for site in model.layout.sites
        ]
        try:
            with torch.enable_grad():
                loss = _sum_losses(model, run_forward(model.module, batch), batch, generator)
                gradients = torch.autograd.grad(loss, list(seen.values()), allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        for path, gradient in zip(seen, gradients, strict=True):
            if gradient is not None:
                site = model.layout.get_site(path)
                modality = model.layout.get_tower(site.tower).modality
                for name, rows in split_rows_by_modality(gradient, find_token_codes(codes, site.stream, gradient), modality).items():
                    size, count = totals.setdefault(path, {}).get(name, (0.0, 0))
                    totals[path][name] = size + float(rows.norm(dim=-1).sum()), count + len(rows)
    return {path: {name: size / count for name, (size, count) in by.items()} for path, by in totals.items()}


Examples = Iterable[tuple[Sample, Batch]]


def weight_gradients(model: Model, examples: Examples, paths: Collection[str], seed: int) -> dict[str, WeightGradient]:
    """The gradients of the weights at `paths` (plain parameters) over `examples`, each one sample and the batch that it
    makes alone, one backward pass each; zero where the loss does not depend on a weight."""
    weights = _get_weights(model, paths)
    found = {path: WeightGradient(len(w), w[0].numel(), device=w.device) for path, w in weights.items()}
    for gradients in _gradients_by_sample(model, examples, weights, seed):
        for path, gradient in gradients.items():
            found[path].update(gradient)
    return found


def mask_gradients(
    model: Model, examples: Examples, readers: Mapping[str, Mapping[str, Tensor]], seed: int
) -> dict[str, MaskGradient]:
    """The gradients of masks that multiply units wherever they are read. `readers` says for every set of units, by name,
    at which paths that is, and which columns (u, width) of the weight there read each unit."""
    found = {name: MaskGradient(len(next(iter(columns.values())))) for name, columns in readers.items()}
    weights = _get_weights(model, dict.fromkeys(path for columns in readers.values() for path in columns))
    for gradients in _gradients_by_sample(model, examples, weights, seed):
        products = {path: (weights[path].detach() * g).flatten(1).double().sum(0) for path, g in gradients.items()}
        for name, columns in readers.items():
            parts = [products[path][index.to(products[path].device)].sum(1) for path, index in columns.items()]
            found[name].update(torch.stack(parts).sum(0))
    return found


def _get_weights(model: Model, paths: Iterable[str]) -> dict[str, nn.Parameter]:
    found = {path: model.module.get_submodule(path)._parameters["weight"] for path in paths}
    return {path: weight for path, weight in found.items() if weight is not None}


def _gradients_by_sample(
    model: Model, examples: Examples, weights: Mapping[str, nn.Parameter], seed: int
) -> Iterator[dict[str, Tensor]]:
    """For every example the gradients of `weights` by path."""
    needed = {path: weight.requires_grad for path, weight in weights.items()}
    generator = torch.Generator().manual_seed(seed)
    model.module.eval()
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        for sample, batch in examples:
            with torch.enable_grad():
                loss = _sum_losses(model, run_forward(model.module, batch), batch, generator, sample)
                gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            yield {
                path: torch.zeros_like(weight) if gradient is None else gradient
                for (path, weight), gradient in zip(weights.items(), gradients, strict=True)
            }
    finally:
        for path, weight in weights.items():
            weight.requires_grad_(needed[path])


def _make_output_hook(seen: dict[str, Tensor], path: str) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            seen[path] = output

    return hook


def _sum_losses(model: Model, result: Any, batch: Batch, generator: torch.Generator, sample: Sample | None = None) -> Tensor:
    """The sum over the outputs that a person cares about; with `sample`, the batch's only one, by what it is labelled."""
    total = torch.zeros(())
    for output in model.family.outputs(model.module):
        value = output.select_tensor(result)
        if value is not None:
            total = total + _output_loss(output, value.float(), batch, generator, sample)
    return total


def _output_loss(output: Output, value: Tensor, batch: Batch, generator: torch.Generator, sample: Sample | None) -> Tensor:
    if output.is_one_number(value):
        return (value * torch.randn(value.shape, generator=generator).to(value.device)).sum()
    if output.kind == "boxes":
        value = value[..., :4]  # which of them the detector is sure of, its scores say
    if output.kind in ("embedding", "boxes"):
        direction = torch.randn(value.shape, generator=generator).to(value.device)
        return (nn.functional.normalize(value, dim=-1) * direction).sum()
    scores = value.log_softmax(dim=-1)
    expected = None if sample is None else _expected_classes(output, scores, batch, sample)
    if expected is not None:
        return nn.functional.nll_loss(scores.flatten(0, -2), expected.flatten(), ignore_index=_IGNORED, reduction="sum")
    if output.kind == "tokens" and output.mask in batch and batch[output.mask].shape == scores.shape[:-1]:
        scores = scores[batch[output.mask].bool()]
    scores = scores.reshape(-1, scores.shape[-1])
    drawn = torch.multinomial(scores.detach().exp().cpu(), 1, generator=generator).to(scores.device)
    return -scores.gather(1, drawn).sum()


def _expected_classes(output: Output, scores: Tensor, batch: Batch, sample: Sample) -> Tensor | None:
    """The classes that `sample` calls for: its label, or every next token that is not padding; None if it says none."""
    if output.kind == "logits":
        (label,) = collect_labels([sample], output.label) if output.label else (None,)
        return None if label is None else torch.tensor([label], device=scores.device)
    ids = batch.get("input_ids")
    if ids is None or output.mask not in batch or ids.shape != scores.shape[:-1]:
        return None
    following = ids.masked_fill(~batch[output.mask].bool(), _IGNORED)[:, 1:]
    return nn.functional.pad(following, (0, 1), value=_IGNORED)
