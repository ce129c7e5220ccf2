"""Relations of tokens: how each token of a sample stands to all others, in queries, keys or values of one attention.

    R_a(X) = softmax(X_a X_aᵀ / √d)      X_a (tokens, d), the a-th of A equal parts of X (tokens, A · d)
    L      = mean over parts a, tokens t, samples of KL(R_a(teacher)_t ‖ R_a(student)_t)

(MiniLMv2, Wang et al. 2021, arXiv 2012.15828; values alone: MiniLM, Wang et al. 2020, arXiv 2002.10957.) Widths are parted into A relation
heads whatever heads the attention has, so teacher and student may have different widths and numbers of heads, and no projection is
needed. With queries on one side and keys on the other it is the attention itself, as far as no rotation is put between.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_LOWEST = -1e9


def part_into_heads(states: Tensor, heads: int) -> Tensor:
    """(samples, tokens, heads · d) → (samples, heads, tokens, d)."""
    found: Tensor = states.unflatten(-1, (heads, -1)).transpose(1, 2)  # type: ignore[no-untyped-call]
    return found


def relate_tokens(queries: Tensor, keys: Tensor, real: Tensor, causal: bool = False) -> Tensor:
    """log softmax(q kᵀ / √d) over the tokens that are `real`, bool (samples, tokens): float32 (samples, heads, tokens, tokens).

    Both are (samples, heads, tokens, d). With `causal` a token sees itself and those before it.
    """
    scores = queries.float() @ keys.float().transpose(-1, -2) / math.sqrt(queries.shape[-1])
    hidden = ~real[:, None, None, :]
    if causal:
        size = scores.shape[-1]
        hidden = hidden | torch.ones(size, size, dtype=torch.bool, device=scores.device).triu(1)
    return functional.log_softmax(scores.masked_fill(hidden, _LOWEST), dim=-1)


def relation_distance(teacher: Tensor, student: Tensor, real: Tensor) -> Tensor:
    """KL(teacher ‖ student) of two `relate_tokens`, mean over heads, real tokens of a sample, and samples: a scalar."""
    each = (teacher.exp() * (teacher - student)).sum(dim=-1).mean(dim=1)  # (samples, tokens)
    kept = real.to(each.dtype)
    return ((each * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1)).mean()


def compare_relations(teacher: Tensor, student: Tensor, real: Tensor, heads: int) -> Tensor:
    """The relation loss of states (samples, tokens, width), whose widths may differ but must be multiples of `heads`; `real`, bool
    (samples, tokens), says which tokens are no padding.

        Width 1, one head, tokens 0 and 1: the relations are [½, ½] and [1, e] / (1 + e).
    """
    a, b = (part_into_heads(states, heads) for states in (teacher, student))
    return relation_distance(relate_tokens(a, a, real), relate_tokens(b, b, real), real)


def choose_relation_heads(teacher: int, student: int, usual: int) -> int:
    """Into how many parts widths `teacher` and `student` go: `usual`, the teacher's heads, if it divides both; else the largest number
    below it that does."""
    return next(heads for heads in range(max(1, usual), 0, -1) if teacher % heads == 0 and student % heads == 0)
