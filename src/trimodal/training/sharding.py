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
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

_MARK = "_is_fsdp_managed_module"


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


def get_class(module: object) -> type[Any]:
    """The class of a module that may be sharded: PyTorch gives it another one."""
    return next(kind for kind in type(module).__mro__ if not issubclass(kind, FSDPModule))


def gather_module_(module: nn.Module) -> None:
    """Make the parameters plain and whole again, in every process, and the modules what they were. All processes must come here."""
    sharded = _reshard(module)
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


def gather_weights(module: nn.Module, keeps: bool) -> dict[str, Tensor]:
    """Whole tensors of a sharded module under their names, on the CPU of the processes that `keeps` them, one after the other. All
    processes must come here."""
    _reshard(module)
    gathered = ((name, _gather(value)) for name, value in module.state_dict().items())
    return {name: whole.to("cpu", copy=True) for name, whole in gathered if keeps}


def part_weights_(module: nn.Module, whole: Mapping[str, Tensor]) -> None:
    """Put what `gather_weights` gave into a sharded module; every process has read all of it.

    Raises:
        ValueError: these are tensors of another module.
    """
    _reshard(module)
    own = module.state_dict()
    if own.keys() != whole.keys():
        raise ValueError(f"names differ: {', '.join(sorted(own.keys() ^ whole.keys())[:3])}")
    for name, value in own.items():
        if value.shape != whole[name].shape:
            raise ValueError(f"{name} is {tuple(whole[name].shape)}, expected {tuple(value.shape)}")
        value.copy_(_part_like(value, whole[name]))


def gather_moments(module: nn.Module, optimizer: Optimizer, keeps: bool) -> dict[str, Any]:
    """What `optimizer` keeps for each parameter of a sharded module, whole, under its name, and the settings of its groups, on the CPU
    of the processes that `keeps` them. A parameter that has had no gradient yet has nothing. All processes must come here."""
    _reshard(module)
    moments = {}
    for name, parameter in module.named_parameters():
        gathered = ((key, _gather(value)) for key, value in optimizer.state.get(parameter, {}).items())
        found = {key: whole.cpu() if isinstance(whole, Tensor) else whole for key, whole in gathered if keeps}
        if found:
            moments[name] = found
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return {"moments": moments, "groups": groups}


def part_moments_(module: nn.Module, optimizer: Optimizer, whole: Mapping[str, Any]) -> None:
    """Put what `gather_moments` gave into the optimizer of a sharded module."""
    _reshard(module)
    for name, parameter in module.named_parameters():
        if name in whole["moments"]:
            optimizer.state[parameter] = {
                key: _part_like(parameter, value) if isinstance(value, Tensor) and value.shape == parameter.shape else value
                for key, value in whole["moments"][name].items()
            }
    for group, settings in zip(optimizer.param_groups, whole["groups"], strict=True):
        group.update(settings)


def agree(is_so: bool, device: torch.device) -> bool:
    """Whether it is so in all processes, each of which must come here."""
    everywhere = torch.tensor(int(is_so), device=device)
    torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
    return bool(everywhere)


def _reshard(module: nn.Module) -> list[FSDPModule]:
    """The sharded parts, each with its parameters parted, which are whole after a forward without a backward."""
    found: list[FSDPModule] = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in found:
        part.reshard()
    return found


def _gather(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _part_like(own: Tensor, whole: Tensor) -> Tensor:
    """This process's part of `whole`, parted as `own` is; a tensor of the same shape."""
    if not isinstance(own, DTensor):
        return whole
    return distribute_tensor(whole.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def _remove_hooks_(part: FSDPModule) -> None:
    """Take away what `fully_shard` put on a module: its hooks, its state, its class. PyTorch has no function for it."""
    state = part._get_fsdp_state()
    for handle in (state._pre_forward_hook_handle, state._post_forward_hook_handle):
        handle.remove()
    for key in [key for key in part.__dict__ if "composable" in str(key)]:
        del part.__dict__[key]
    part.__class__ = get_class(part)


def read_scalar(value: Tensor | float) -> float:
    """A scalar, such as a gradient's norm, as a number, put together of all processes where it is parted."""
    return float(_gather(value))


def _find_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The members of lists of modules, but for those inside of others, each with parameters of its own."""
    for part in module.children():
        if isinstance(part, nn.ModuleList):
            yield from (block for block in part if any(True for _ in block.parameters()))
        else:
            yield from _find_blocks(part)
