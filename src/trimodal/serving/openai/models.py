"""`/v1/models`: what is served, with what each takes and does, which OpenAI's own list does not say."""

from __future__ import annotations

from typing import Any

from trimodal.serving.requests import ModelCard


def tell_model(card: ModelCard) -> dict[str, Any]:
    """One model."""
    return {
        "id": card.name, "object": "model", "created": 0, "owned_by": "trimodal", "version": card.version, "family": card.family,
        "tasks": list(card.tasks), "modalities": list(card.inputs), "runtime": card.runtime, "bytes": card.bytes,
    }  # fmt: skip
