"""From a module, or a function that returns one, to a module of our own, which can be compressed and of which the user's knows nothing.

Wrappers that only run what is inside of them (`DataParallel`, `torch.compile`) are taken off. What cannot be compressed is
refused here, in one sentence, rather than failing somewhere further on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm

from trimodal.errors import ModelError
from trimodal.layers import set_dequantize_policy_
from trimodal.models.copying import copy_module, is_plain_tensor
from trimodal.models.foreign import run_foreign

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
_OLD_NORMS: dict[str, Callable[..., nn.Module]] = {"WeightNorm": remove_weight_norm, "SpectralNorm": remove_spectral_norm}


def make_module(factory: nn.Module | Callable[[], nn.Module], name: str) -> nn.Module:
    """A copy, in eval mode, of the module that `factory` is or returns.

    Raises:
        ModelError: the function fails, returns something else, or a module that cannot be compressed.
    """
    given = isinstance(factory, nn.Module)
    made = factory if given else run_foreign(f"calling {name}", factory, "it must return a torch.nn.Module without being given anything")
    if not isinstance(made, nn.Module):
        raise ModelError(f"{name} returned {type(made).__name__}, expected a torch.nn.Module")
    module = _unwrap_module(made)
    for problem in _find_problems(module):
        raise ModelError(f"{type(module).__name__} cannot be compressed: {problem}")
    own = _unwrap_compiled_parts_(copy_module(module))
    _fold_parametrizations_(own)
    _untie_biases_(own)
    _apply_max_norm_(own)
    set_dequantize_policy_(own, "memory")  # its weights are about to change
    return own.eval()


def _unwrap_module(module: nn.Module) -> nn.Module:
    """What the outermost wrappers run."""
    while _is_compiled(module) or isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        module = cast("nn.Module", module._orig_mod if _is_compiled(module) else module.module)
    return module


def _is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` made it. Its class is told by name: importing it takes seconds."""
    return type(module).__name__ == "OptimizedModule" and "_orig_mod" in module._modules


def _unwrap_compiled_parts_(module: nn.Module) -> nn.Module:
    """`module` with every part that `torch.compile` wraps in its place: layers are watched and replaced one by one."""
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child is not None and _is_compiled(child):
                parent._modules[name] = _unwrap_module(child)
    return module


def _fold_parametrizations_(module: nn.Module) -> None:
    """Give every layer whose weight is worked out from other tensors (weight norm, spectral norm, orthogonal) that weight itself: the
    same numbers come out, and they are what is compressed. Both forms that PyTorch has for it."""
    with torch.no_grad():
        for part in list(module.eval().modules()):
            if parametrize.is_parametrized(part):
                _remove_parametrizations_(part)
            hook: Any
            for hook in list(part._forward_pre_hooks.values()):
                remove = _OLD_NORMS.get(type(hook).__name__)
                if remove is not None and type(hook).__module__.startswith("torch.nn.utils."):
                    remove(part, hook.name)


def _remove_parametrizations_(part: Any) -> None:
    """As PyTorch's own function does it, which would take the properties off the class that the user's module has too."""
    values = {name: (getattr(part, name).detach().clone(), _learns(found)) for name, found in part.parametrizations.items()}
    del part._modules["parametrizations"]
    part.__class__ = type(part).__bases__[0]
    for name, (value, learns) in values.items():
        part.register_parameter(name, nn.Parameter(value, requires_grad=learns))


def _learns(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())


def _untie_biases_(module: nn.Module) -> None:
    """Give every layer a bias of its own where several have one together: what is cut off a layer, or made up for in its
    bias, is not the other's."""
    taken: set[int] = set()
    for part in module.modules():
        bias = part._parameters.get("bias")
        if bias is not None and isinstance(part, _WEIGHTED):
            if id(bias) in taken:
                part.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
            taken.add(id(bias))


def _apply_max_norm_(module: nn.Module) -> None:
    """Shorten once what an embedding with `max_norm` would shorten whenever it looks rows up: the same numbers come out, and
    they are all in its weight, which is what is compressed."""
    for part in module.modules():
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.max_norm is not None:
            weight = part.weight.data
            torch.embedding_renorm_(weight, torch.arange(len(weight), device=weight.device), part.max_norm, part.norm_type)
            part.max_norm = None


def _find_problems(module: nn.Module) -> Iterator[str]:
    """Why `module` cannot be compressed."""
    for path, part in module.named_modules():
        where = f"{path} is a" if path else "it is a"
        if isinstance(part, torch.jit.ScriptModule):
            yield f"{where} TorchScript module, whose layers cannot be replaced; give the plain module that it was made from"
            return
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            if tensor is not None:
                yield from _find_tensor_problems(f"{path}.{name}".lstrip("."), name, part, tensor)
    yield from (
        f"its state dict holds a {type(value).__name__} under '{name}', where only tensors can be stored; "
        "give the model as it was before it was quantized or exported"
        for name, value in _get_state_dict(module).items()
        if not isinstance(value, Tensor)
    )


def _find_tensor_problems(name: str, role: str, part: nn.Module, tensor: Tensor) -> Iterator[str]:
    """What is wrong with one of its tensors."""
    if is_lazy(tensor):
        yield f"{name} of its {type(part).__name__} has no size yet; run the model once on an input before"
    elif tensor.is_meta:
        yield f"{name} is on the device meta, which holds no values; load the weights before"
    elif not is_plain_tensor(tensor):
        kind = "quantized" if tensor.is_quantized else type(tensor).__name__
        kind = str(tensor.layout).removeprefix("torch.") if tensor.layout is not torch.strided else kind
        yield f"{name} is a {kind} tensor, expected a dense one; give the model with plain weights"
    elif role == "weight" and isinstance(part, _WEIGHTED) and not tensor.numel():
        yield f"{name} of its {type(part).__name__} has the shape {list(tensor.shape)} and holds no number; leave that layer out"
    elif role == "weight" and isinstance(part, _WEIGHTED) and not (tensor.is_floating_point() or tensor.is_complex()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        yield f"{name} of its {type(part).__name__} is {dtype}: it is quantized already; give the model as it was before"


def _get_state_dict(module: nn.Module) -> dict[str, Any]:
    """The state dict, which a part may make as it likes."""
    return run_foreign(f"the state dict of {type(module).__name__}", module.state_dict)
