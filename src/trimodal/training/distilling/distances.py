"""How far a student's answers and states are from a teacher's: one function per kind, each a scalar that is 0 where both agree.

Means are over rows (tokens, samples), never over classes or widths, so that a vocabulary's size does not change a term's weight.
Padding is left out. Hinton, Vinyals, Dean 2015, arXiv 1503.02531, for scores; FitNets, Romero et al. 2015, arXiv 1412.6550, for
features, made relative so that blocks count alike whatever their scale.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_EPSILON = 1e-12


def score_distance(teacher: Tensor, student: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """T² · KL(teacher ‖ student) for scores (..., classes), mean over rows; rows where `mask` (...) is 0 left out."""
    expected = functional.log_softmax(teacher / temperature, dim=-1).flatten(0, -2)
    found = functional.log_softmax(student / temperature, dim=-1).flatten(0, -2)
    rows = functional.kl_div(found, expected, reduction="none", log_target=True).sum(-1)
    if mask is not None and mask.numel() == rows.numel():
        rows = rows[mask.flatten() > 0]
    return rows.mean() * temperature**2


def feature_distance(teacher: Tensor, student: Tensor, mask: Tensor | None = None) -> Tensor:
    """‖h_s − h_t‖² / ‖h_t‖² over the tokens (batch, tokens, width) where `mask` (batch, tokens) is True."""
    if mask is not None and teacher.shape[: mask.dim()] == mask.shape:
        teacher, student = teacher[mask], student[mask]
    return (student - teacher).square().sum() / teacher.square().sum().clamp(min=_EPSILON)


def embedding_distance(teacher: Tensor, student: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 − cos(teacher, student) for vectors (..., width), mean over rows; rows where `mask` (...) is 0 left out.

    A map (batch, channels, height, width) counts as one vector per sample.
    """
    if teacher.dim() == 4:
        teacher, student = teacher.flatten(1), student.flatten(1)
    rows = 1 - functional.cosine_similarity(teacher, student, dim=-1).flatten()
    if mask is not None and mask.numel() == rows.numel():
        rows = rows[mask.flatten() > 0]
    return rows.mean()


def box_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean |difference| of where boxes (batch, boxes, 6; see `models/boxes.py`) lie, those more that the teacher is sure of: a scalar.

    Box for box, which two-stage detectors do not put in the same order; their scores and features are held to the teacher's all the same.
    """
    sure = teacher[..., 4:5]
    apart = (teacher[..., :4] - student[..., :4]).abs()
    return (sure * apart).sum() / (4 * sure.sum()).clamp(min=_EPSILON)


def number_distance(teacher: Tensor, student: Tensor) -> Tensor:
    """E(teacher − student)² / E teacher², a scalar, for one number per sample, whose cosine would be a sign."""
    size = teacher.square().mean().clamp(min=torch.finfo(teacher.dtype).tiny)
    return (teacher - student).square().mean() / size
