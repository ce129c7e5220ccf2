"""Scores of which only the largest are kept: of a vocabulary of 50,000 a teacher is sure of some, and the rest hardly matters.

The k largest are kept with the mass of all others at the temperature, log Σ exp(z / T), so that the student is held to k shares and to what
is left over. That is the divergence after all other classes are thrown together, so never more than the whole one, and 0 where both agree.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def keep_top_scores(scores: Tensor, count: int, temperature: float) -> tuple[Tensor, Tensor]:
    """(rows, classes) → log-probabilities at `temperature` (rows, count + 1), the last that of all others together, and the classes
    int64 (rows, count)."""
    shares = functional.log_softmax(scores.float() / temperature, dim=-1)
    kept, classes = shares.topk(count, dim=-1)
    return torch.cat((kept, _sum_others(shares, classes)), dim=-1), classes


def _sum_others(shares: Tensor, classes: Tensor) -> Tensor:
    others = shares.scatter(1, classes, float("-inf"))
    return torch.logsumexp(others, dim=-1, keepdim=True)


def top_score_distance(teacher: Tensor, classes: Tensor, student: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student), mean over rows, for what `keep_top_scores` gave and the student's scores (rows, classes): a scalar.

        Teacher ¾, ⅛, ⅛ of which one is kept: ¾ and ¼. A student that finds all alike has ⅓ and ⅔.
    """
    shares = functional.log_softmax(student.float() / temperature, dim=-1)
    found = torch.cat((shares.gather(1, classes), _sum_others(shares, classes)), dim=-1)
    terms = teacher.float().exp() * (teacher.float() - found)
    return torch.where(teacher.isinf(), 0.0, terms).sum(dim=-1).mean() * temperature**2
