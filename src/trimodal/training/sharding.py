"""FSDP: every process holds a part of each weight, its gradient and its moments, and gathers the rest while a block runs.

The module stays the object that it is: `fully_shard` (FSDP2; Zhao et al. 2023, arXiv 2304.11277) makes its parameters DTensors, and
`gather_module_` makes them plain tensors again when training is done. Transformers' Trainer takes a module that is sharded so as it is,
on a processor too, where Accelerate knows DDP alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as states
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

_MARK = "_is_fsdp_managed_module"
_WHOLE = states.StateDictOptions(full_state_dict=True)
_WHOLE_IN_ONE = states.StateDictOptions(full_state_dict=True, cpu_offload=True)


def shard_module_(module: nn.Module, device: torch.device, processes: int) -> None:
    """Part the parameters of `module` among the processes, block by block: the members of its lists, then what is left."""
    mesh = init_device_mesh(device.type, (processes,))
    module.to(device)
    for block in _find_blocks(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    setattr(module, _MARK, True)  # by which Transformers knows it


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard_module_` has parted it."""
    return isinstance(module, FSDPModule)


def gather_module_(module: nn.Module) -> None:
    """Make the parameters plain and whole again, in every process, and the modules what they were. All processes must come here."""
    sharded = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for piece in sharded:
        piece.reshard()
    whole: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            if isinstance(value, DTensor):
                if id(value) not in whole:
                    whole[id(value)] = nn.Parameter(value.full_tensor().detach(), requires_grad=value.requires_grad)
                setattr(part, name, whole[id(value)])
    for piece in sharded:
        _remove_hooks_(piece)
    delattr(module, _MARK)


def gather_weights(module: nn.Module) -> dict[str, Tensor]:
    """Whole tensors of a sharded module under their names, on the CPU of the first process. All processes must come here."""
    whole: dict[str, Any] = states.get_model_state_dict(module, options=_WHOLE_IN_ONE)
    return whole


def gather_moments(module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """What `optimizer` keeps for each parameter of a sharded module, under its name, whole, on the CPU of the first process.
    All processes must come here."""
    return states.get_optimizer_state_dict(module, optimizer, options=_WHOLE_IN_ONE)


def part_weights_(module: nn.Module, whole: Mapping[str, Tensor]) -> None:
    """Put what `gather_weights` gave into a sharded module; every process has read all of it."""
    states.set_model_state_dict(module, dict(whole), options=_WHOLE)


def part_moments_(module: nn.Module, optimizer: Optimizer, whole: Mapping[str, Any]) -> None:
    """The same for what `gather_moments` gave."""
    states.set_optimizer_state_dict(module, optimizer, dict(whole), options=_WHOLE)


def _remove_hooks_(part: FSDPModule) -> None:
    """Take away what `fully_shard` put on a module: its hooks, its state, its class. PyTorch has no function for it."""
    state = part._get_fsdp_state()
    for handle in (state._pre_forward_hook_handle, state._post_forward_hook_handle):
        handle.remove()
    for key in [key for key in part.__dict__ if "composable" in str(key)]:
        del part.__dict__[key]
    part.__class__ = next(kind for kind in type(part).__mro__ if not issubclass(kind, FSDPModule))  # type: ignore[assignment]


def read_scalar(value: Tensor | float) -> float:
    """A scalar, such as a gradient's norm, as a number, put together of all processes where it is parted."""
    return float(value.full_tensor() if isinstance(value, DTensor) else value)


def _find_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of lists of modules, but for those inside of others, each with parameters of its own."""
    for part in module.children():
        if isinstance(part, nn.ModuleList):
            yield from (block for block in part if any(True for _ in block.parameters()))
        else:
            yield from _find_blocks(part)
