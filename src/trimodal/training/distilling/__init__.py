"""Learning from another model: distances of what both give, and the loss that is made of them."""

from trimodal.training.distilling.block_outputs import find_real_tokens, record_block_outputs
from trimodal.training.distilling.distances import (
    box_distance,
    embedding_distance,
    feature_distance,
    number_distance,
    score_distance,
)
from trimodal.training.distilling.loss import DistillationWeights, compute_distillation_loss

__all__ = [
    "DistillationWeights", "box_distance", "compute_distillation_loss", "embedding_distance", "feature_distance",
    "find_real_tokens", "number_distance", "record_block_outputs", "score_distance",
]  # fmt: skip
