"""Our own fused models, and miniatures of every family. Nothing here imports torch before it is used."""

from __future__ import annotations

from trimodal.networks import fusion, multimodal


def register() -> None:
    """Tell Transformers' Auto classes about all models of our own. Calling it again changes nothing."""
    fusion.register()
    multimodal.register()
