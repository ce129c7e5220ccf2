"""Statistics of batch norms, taken anew: those of the float model are wrong for what a compressed one gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trimodal.models.foreign import run_forward
from trimodal.models.model import Batch

BatchNormRule = Literal["estimate", "keep"]


def estimate_batch_norms_(module: nn.Module, batches: Sequence[Batch]) -> int:
    """Set mean and variance of every batch norm in `module` to the average over `batches`, and give the number of norms.

    Each batch counts alike. All norms see what those before them give in training, normalised by the batch's own statistics.
    Batches of one sample tell no variance and are left out; where there are no others everything stays.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    used = [batch for batch in batches if max((len(value) for value in batch.values() if value.dim()), default=1) > 1] if norms else []
    if not used:
        return 0
    kept = [(norm.momentum, norm.training) for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average
        norm.train()
    try:
        with torch.no_grad():
            for batch in used:
                run_forward(module, batch)
    finally:
        for norm, (momentum, training) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.train(training)
    return len(norms)
