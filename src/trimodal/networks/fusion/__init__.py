"""Our own multimodal models: an image tower, an audio tower, a text tower and a fusion.

``register()`` makes Transformers' Auto classes know them, after which ``AutoModel.from_pretrained(folder)``
works. Nothing here imports torch or Transformers before a name is used: this file is loaded while Transformers is still being
imported, so all that it names is looked up by `import_module` when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimodal.networks.fusion.configuration import FusionConfig
    from trimodal.networks.fusion.modeling import FusionModel, FusionOutput
    from trimodal.networks.fusion.processing import FusionFeatureExtractor, FusionProcessor, make_processor

__all__ = [
    "FusionConfig",
    "FusionFeatureExtractor",
    "FusionModel",
    "FusionOutput",
    "FusionProcessor",
    "make_processor",
    "register",
]

_HOMES = {
    "FusionConfig": "configuration",
    "FusionFeatureExtractor": "processing",
    "FusionModel": "modeling",
    "FusionOutput": "modeling",
    "FusionProcessor": "processing",
    "make_processor": "processing",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def register() -> None:
    """Tell Transformers' Auto classes about the fused model. Calling it again changes nothing."""
    import_module(f"{__name__}.registration").register_auto_classes()
