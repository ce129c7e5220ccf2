"""What a module is that stands for one of another class and can be turned back into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class OpenedLayer(nn.Module):
    """A module in the place of one of a class that keeps its weights in another form."""

    def close_tensors(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors `own` of this module, all of plain layers, as the original class has them."""
        raise NotImplementedError

    def make_original(self) -> nn.Module:
        """A module of the original class and of this one's sizes, on the meta device."""
        raise NotImplementedError

    def close(self) -> nn.Module | None:
        """A module of the original class with this one's numbers; None where a layer of it is not plain."""
        made = self.make_original().train(self.training)
        closed = self.close_tensors(self.state_dict(keep_vars=True))
        if {name: t.shape for name, t in closed.items()} != {name: t.shape for name, t in made.state_dict().items()}:
            return None
        made.load_state_dict({name: t.detach() for name, t in closed.items()}, assign=True)
        trained = {name: t.requires_grad for name, t in closed.items()}
        for name, parameter in made.named_parameters():
            parameter.requires_grad_(trained[name])
        return made


def has_hooks(part: nn.Module) -> bool:
    """Whether somebody listens to the calls of `part`."""
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)


def copy_state(part: nn.Module) -> dict[str, Any]:
    """What `vars` says of `part`, with tables of its own for parameters, buffers and modules."""
    return {name: dict(value) if name in ("_parameters", "_buffers", "_modules") else value for name, value in vars(part).items()}
