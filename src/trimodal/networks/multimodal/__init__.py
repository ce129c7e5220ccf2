"""Models that fuse any streams of image, audio, text and signals: towers of Transformers or small ones of our own, four ways of fusion.

``register()`` makes Transformers' Auto classes know them. As in `networks/fusion`, nothing here imports torch or Transformers before a
name is used: this file is loaded while Transformers is still being imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimodal.networks.multimodal.configuration import MultimodalConfig, Stream
    from trimodal.networks.multimodal.modeling import MultimodalModel, MultimodalOutput
    from trimodal.networks.multimodal.pretrained import save_processors

__all__ = ["MultimodalConfig", "MultimodalModel", "MultimodalOutput", "Stream", "register", "save_processors"]

_HOMES = {
    "MultimodalConfig": "configuration",
    "MultimodalModel": "modeling",
    "MultimodalOutput": "modeling",
    "Stream": "configuration",
    "save_processors": "pretrained",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def register() -> None:
    """Tell Transformers' Auto classes about the model. Calling it again changes nothing."""
    import_module(f"{__name__}.registration").register_auto_classes()
