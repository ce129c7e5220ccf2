"""What is asked of a distillation: which terms count how much, and how they are taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trimodal.training.distilling.matching import Matching

TERMS = ("labels", "logits", "features", "embeddings", "attentions", "relations", "affinity")
Projection = Literal["auto", "always", "never"]
StoredType = Literal["fp16", "fp32"]


@dataclass(frozen=True)
class DistillSettings:
    """Weights of the terms, 0 for not at all, and how they are taken.

    `labels` is the task's own loss, `logits` the divergence of scores at `temperature`, `features` the relative distance of matched
    blocks' states, `embeddings` 1 − cosine of what the model gives out, `attentions` that of queries to keys, `relations` those of queries,
    keys and values among themselves, `affinity` image-text similarities. `layers` matches blocks; attentions and relations are taken `at`
    the `last` matched block of each tower, or at `all`. With `projection` a learned map goes from the student's width to the teacher's:
    where they differ, always, or never. `top` scores of a row are stored, 0 for all, in `stored`.
    """

    labels: float = 0.0
    logits: float = 0.0
    features: float = 0.0
    embeddings: float = 0.0
    attentions: float = 0.0
    relations: float = 0.0
    affinity: float = 0.0
    temperature: float = 2.0
    layers: Matching = field(default="uniform")
    at: Literal["last", "all"] = "last"
    relation_heads: int = 0
    projection: Projection = "auto"
    top: int = 0
    stored: StoredType = "fp16"

    @property
    def asked(self) -> tuple[str, ...]:
        """The terms that count."""
        return tuple(term for term in TERMS if getattr(self, term))
