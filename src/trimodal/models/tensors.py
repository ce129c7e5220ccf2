"""The tensors of a module, each counted once, and what they amount to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import nn


def fingerprint_module(module: nn.Module) -> str:
    """sha256 over every tensor's name, type, shape and bytes, in order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous()
        digest.update(plain.view(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
    return digest.hexdigest()


def unique_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict with every tensor once, under the first of its names. Two are one if they share memory and shape."""
    seen: set[tuple[int, torch.Size]] = set()
    found = {}
    for name, tensor in module.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        found[name] = tensor
    return found


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of all `tensors`, of whatever shape and dtype."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
