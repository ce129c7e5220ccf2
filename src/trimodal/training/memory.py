"""How much memory a run will take, before it starts: parameters are known, activations are measured on two samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.errors import InputError
from trimodal.machine import free_memory_bytes
from trimodal.training.objective import Batch, Objective, count_rows
from trimodal.training.settings import EngineSettings

_ADAM_NUMBERS = 2  # moments per trained parameter, in float32
_NUMBER_BYTES = 4


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of a run on each device: what the model takes already, and what training adds."""

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int

    @property
    def more_bytes(self) -> int:
        """Beyond what the model takes already."""
        return self.gradients_bytes + self.optimizer_bytes + self.activations_bytes

    def describe(self) -> str:
        """In one line for people."""
        parts = {
            "parameters": self.parameters_bytes, "gradients": self.gradients_bytes, "optimizer": self.optimizer_bytes,
            "activations": self.activations_bytes,
        }  # fmt: skip
        return ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in parts.items())


def estimate_memory(module: nn.Module, objective: Objective, batch: Batch, settings: EngineSettings, processes: int = 1) -> MemoryEstimate:
    """What training `module` will take; `batch` is a small one, whose activations are measured and scaled to a whole part."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    held = sum(p.numel() * p.element_size() for p in module.parameters())
    rows, part = count_rows(batch), settings.part_size(processes)
    saved = measure_activations(module, lambda: objective.loss(module, batch)["loss"])
    if settings.precision != "fp32":
        saved = saved * 2 // 3  # products in half the bytes; norms, softmax and losses in float32
    copies = 2 if processes > 1 else 1  # processes send copies of the gradients to each other
    return MemoryEstimate(held, copies * trained * _NUMBER_BYTES, _ADAM_NUMBERS * trained * _NUMBER_BYTES, saved * part // rows)


def measure_activations(module: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass, each tensor once, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in (*module.parameters(), *module.buffers())}
    sizes: dict[int, int] = {}
    kept: list[Tensor] = []

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.random.fork_rng(devices=[]), torch.autograd.graph.saved_tensors_hooks(count, _give_back):
        run()
    return sum(sizes.values())


def _give_back(tensor: Any) -> Any:
    return tensor


def check_memory(estimate: MemoryEstimate, device: str, processes: int = 1) -> None:
    """Refuse a run that cannot fit.

    Raises:
        InputError: saying how much of what is needed, how much is free, and what makes it less.
    """
    on_cpu = device == "cpu"
    free = free_memory_bytes() if on_cpu else int(torch.cuda.mem_get_info(device)[0])
    needed = estimate.more_bytes * (processes if on_cpu else 1)
    if free is not None and needed > free:
        raise InputError(
            f"training needs about {needed / 1e9:.1f} GB more ({estimate.describe()}), but only {free / 1e9:.1f} GB are free; give a "
            "smaller batch or more accumulate, gradient_checkpointing: true, freeze a part, or try it anyway with --ignore-limits"
        )
