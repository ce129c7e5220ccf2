"""What is left of a layer that never ran: its name, and an error for whoever calls it after all."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn

from trimodal.errors import ModelError

_PLAIN = (bool, int, float, str, tuple, type(None))


class RemovedLayer(nn.Module):
    """Stands at `path` instead of `layer`, without its tensors. Plain attributes such as `in_features` stay, as somebody may
    ask for them."""

    def __init__(self, path: str, layer: nn.Module) -> None:
        super().__init__()
        self.path, self.kind = path, type(layer).__name__
        for name, value in vars(layer).items():
            if not name.startswith("_") and name not in vars(self) and isinstance(value, _PLAIN):
                setattr(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Nothing can be computed.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"{self.path} ({self.kind}) was removed, since it never ran in what the model was watched doing; compress again "
            "with data that uses it, or without the option dead of fold.exact"
        )

    def extra_repr(self) -> str:
        """What it was, for printing."""
        return f"{self.path}, {self.kind}"
