"""fp16 on a processor: losses are scaled, so that small gradients do not vanish (Micikevicius et al. 2018, arXiv 1710.03740).

PyTorch's autocast and its scaler work on the CPU; Accelerate turns both on for accelerators only.
"""

from __future__ import annotations

from accelerate import Accelerator
from torch.amp import GradScaler


def scale_losses_on_cpu_(accelerator: Accelerator) -> None:
    """Let `accelerator` compute products in fp16 on the CPU and scale losses, as it does on a GPU. Before a model is prepared."""
    accelerator.native_amp = True
    accelerator.scaler = GradScaler("cpu")
