"""Real samples for an export: what it is tried on, and how large becomes what layers give that a runtime takes as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.core import Sample
from trimodal.data import Data, batch_samples, check_media, check_modalities, is_no_data, read_samples
from trimodal.exporting.map_grids import find_map_makers
from trimodal.models.model import Batch, Model

SAMPLES, AT_ONCE = 64, 8
_ROLES = ("query", "key")


def read_batches(model: Model, data: Data | None) -> list[Batch]:
    """Up to 64 samples of `data`, eight at a time, evenly taken from those that are not held out; none where there is no data.

    Raises:
        DataError: they cannot be read, or do not fit the model.
    """
    if data is None or is_no_data(data):
        return []
    samples = read_samples(data)
    check_modalities(model, samples)
    chosen = _take_evenly([sample for sample in samples if sample.split != "test"] or list(samples))
    check_media(chosen)
    return list(batch_samples(model, chosen, AT_ONCE))


def measure_output_ranges(model: Model, batches: Sequence[Batch]) -> dict[str, tuple[float, float]]:
    """The least and the largest number that each query and key projection, each convolution and each ReLU gives on `batches`, by path."""
    paths = [site.path for site in model.layout.sites if site.role in _ROLES and len(site.shape) == 2]
    paths += find_map_makers(model.module)
    found: dict[str, tuple[float, float]] = {}

    def keep(path: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            low, high = found.get(path, (0.0, 0.0))
            found[path] = min(low, float(output.detach().min())), max(high, float(output.detach().max()))

        return hook

    handles = [model.module.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    try:
        with torch.no_grad():
            for batch in batches:
                model.module(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _take_evenly(samples: Sequence[Sample]) -> list[Sample]:
    step = max(1, len(samples) // SAMPLES)
    return list(samples[::step][:SAMPLES])
