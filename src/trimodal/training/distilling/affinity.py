"""Affinity mimicking: how alike the student finds images and texts, it finds as the teacher does.

    A = softmax(s · a bᵀ) and B = softmax(s · b aᵀ)         a, b (n, width) of unit length, s the model's own scale
    L = ½ · [mean over rows KL(A_teacher ‖ A_student) + mean over rows KL(B_teacher ‖ B_student)]

(TinyCLIP, Wu et al. 2023, arXiv 2309.12314, up to the teacher's entropy, which has no gradient: so it is 0 where both agree.) Only n × n
similarities are compared: teacher and student may have spaces of different width, and no labels are needed, nor must images and texts of
a batch belong together.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def affinity_distance(
    teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor], teacher_scale: Tensor | float, student_scale: Tensor | float
) -> Tensor:
    """The loss of embeddings (n, width) of both sides of n samples, of any length: a scalar.

        Teacher a = b = (1, 0), (0, 1) at scale ln 3: each row is [¾, ¼]. A student that finds all alike has [½, ½]: ¾ ln 1.5 + ¼ ln ½.
    """
    expected, found = (compute_similarities(*side) for side in (teacher, student))
    ways = ((expected, found), (expected.T, found.T))
    losses = [_compare_rows(teacher_scale * t, student_scale * s) for t, s in ways]
    return (losses[0] + losses[1]) / 2


def compute_similarities(a: Tensor, b: Tensor) -> Tensor:
    """Cosines (n, m) of the rows of a (n, width) and b (m, width), in float32."""
    return functional.normalize(a.float(), dim=-1) @ functional.normalize(b.float(), dim=-1).T


def _compare_rows(teacher: Tensor, student: Tensor) -> Tensor:
    expected, found = functional.log_softmax(teacher, dim=1), functional.log_softmax(student, dim=1)
    return functional.kl_div(found, expected, reduction="batchmean", log_target=True)
