"""Modules opened up, so that each of their weight matrices is a layer of its own that can be observed, replaced and cut.

Some classes keep matrices where nobody but they can use them: as bare parameters that are read without a call, or turned round. Each
has an *opener* here, which puts another module in its place, with the same numbers, arguments and results:

    nn.LSTM, nn.GRU, nn.RNN      `Recurrent`: one linear layer per matrix             layers/recurrent.py
    nn.LSTMCell and the like     `RecurrentCell`: the same for one step               layers/recurrent.py
    Conv1D of Transformers       `TransposedLinear`: a linear layer, out × in         layers/transposed.py
    nn.ConvTranspose1d, 2d, 3d   weight out × in × kernel                             layers/transposed_convolution.py
    nn.MultiheadAttention        query, key, value and output as linear layers       layers/attention.py
    WavLM's attention            its four linear layers called      layers/handed_attention.py
    fused experts                `ExpertMatrix` per tensor, (experts · out) × in      layers/experts.py
    Llama 4's experts            the same                                             layers/dense_experts.py

What is opened can be *closed* again where its layers are plain: under the names and in the shapes of the original class, so that the
model's own class loads it. Then it is an `OpenedLayer`. All else of the library sees opened models only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from trimodal.layers.attention import OpenedAttention, can_open_attention
from trimodal.layers.dense_experts import can_open_dense_experts, open_dense_experts
from trimodal.layers.experts import can_open_experts, open_experts
from trimodal.layers.handed_attention import can_open_handed_attention, open_handed_attention
from trimodal.layers.opened import OpenedLayer, has_hooks
from trimodal.layers.recurrent import Recurrent, RecurrentCell, can_open_cell, can_open_recurrent
from trimodal.layers.transposed import can_open_transposed, open_transposed
from trimodal.layers.transposed_convolution import can_open_transposed_convolution, open_transposed_convolution

Opener = tuple[Callable[[nn.Module], bool], Callable[..., nn.Module]]

_OPENERS: tuple[Opener, ...] = (
    (can_open_recurrent, Recurrent),
    (can_open_cell, RecurrentCell),
    (can_open_transposed, open_transposed),
    (can_open_experts, open_experts),
    (can_open_dense_experts, open_dense_experts),
    (can_open_attention, OpenedAttention),
    (can_open_handed_attention, open_handed_attention),
    (can_open_transposed_convolution, open_transposed_convolution),
)


def open_layers_(module: nn.Module) -> nn.Module:
    """Open every part of `module` that can be; returns `module`, or what stands in its own place. One part under two names stays one.

    Left as they are: subclasses of such classes, which may compute otherwise; layers with hooks; and what is opened already.
    """
    opened = {id(part): found for part in list(module.modules()) if (found := _open_part(part)) is not None}
    return _replace_parts_(module, opened)


def close_layers_(module: nn.Module) -> nn.Module:
    """Put modules of the original classes in the place of opened ones whose layers are all plain; returns `module`, or what stands in
    its own place."""
    opened = [part for part in module.modules() if isinstance(part, OpenedLayer)]
    return _replace_parts_(module, {id(part): closed for part in opened if (closed := part.close()) is not None})


def close_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `tensors` of `module`, whose opened layers are all plain, by the names and in the shapes of the original classes."""
    found = dict(tensors)
    for path, part in module.named_modules():
        if isinstance(part, OpenedLayer):
            prefix = f"{path}." if path else ""
            own = {name.removeprefix(prefix): found.pop(name) for name in list(found) if name.startswith(prefix)}
            found |= {f"{prefix}{name}": tensor for name, tensor in part.close_tensors(own).items()}
    return found


def _open_part(part: nn.Module) -> nn.Module | None:
    if has_hooks(part):
        return None
    make = next((make for can_open, make in _OPENERS if can_open(part)), None)
    return None if make is None else make(part)


def _replace_parts_(module: nn.Module, new: Mapping[int, nn.Module]) -> nn.Module:
    """Put what `new` has, by the id of the old, wherever the old stands in `module`."""
    for parent in list(module.modules()) if new else ():
        for name, child in parent._modules.items():
            if id(child) in new:
                parent._modules[name] = new[id(child)]
    return new.get(id(module), module)
