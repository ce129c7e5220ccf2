"""Numbers that one part of a model reads from the configuration that all parts have, and that are its own once it was cut.

Phi-3's attention counts its heads by `config.num_attention_heads`. When heads of one block go the others' stay, so that block gets a
configuration which is the model's but for that number.
"""

from __future__ import annotations

from typing import Any

from torch import nn

_CONFIG = "config."


class OwnConfig:
    """What `whole` says, and says later, but for the entries that are given by name."""

    def __init__(self, whole: Any, **own: Any) -> None:
        vars(self).update(own, _whole=whole)

    def __getattr__(self, name: str) -> Any:
        whole = vars(self).get("_whole")  # a copy that is being made has none yet
        if whole is None or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        return getattr(whole, name)


def set_size_(part: nn.Module, attribute: str, size: int) -> None:
    """Let `attribute` of `part` be `size`; one of its configuration, `config.NAME`, becomes its own."""
    if not attribute.startswith(_CONFIG):
        setattr(part, attribute, size)
        return
    name, config = attribute.removeprefix(_CONFIG), part.config
    if isinstance(config, OwnConfig):
        setattr(config, name, size)
    else:
        part.config = OwnConfig(config, **{name: size})  # type: ignore[assignment]


def get_size(part: nn.Module, attribute: str) -> int:
    """What `attribute` of `part`, or of its configuration, says."""
    owner: Any = part.config if attribute.startswith(_CONFIG) else part
    return int(getattr(owner, attribute.removeprefix(_CONFIG)))
