"""What is left of a norm once the layers after it have taken over its weight and bias."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class AffineFreeNorm(nn.Module):
    """x (…, width) divided by its root mean square, `centred` before that as a layer norm does."""

    def __init__(self, width: int, epsilon: float | None, centred: bool) -> None:
        super().__init__()
        self.width, self.epsilon, self.centred = width, epsilon, centred

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, width) -> (…, width)."""
        if self.centred:
            return F.layer_norm(hidden_states, (self.width,), eps=self.epsilon or 0.0)
        return F.rms_norm(hidden_states, (self.width,), eps=self.epsilon)

    def extra_repr(self) -> str:
        """Its sizes, for printing."""
        return f"{self.width}, epsilon={self.epsilon}, centred={self.centred}"


def strip_norm_affine(norm: nn.Module) -> AffineFreeNorm:
    """The norm without its weight and bias."""
    weight = norm._parameters["weight"]
    assert weight is not None
    epsilon = next(
        (getattr(norm, name) for name in ("eps", "variance_epsilon", "epsilon") if hasattr(norm, name)), None
    )
    return AffineFreeNorm(weight.shape[0], epsilon, isinstance(norm, nn.LayerNorm))
