"""Which token comes next: the likeliest, or one that is drawn.

    p_i = exp(z_i / T) / Σ_j exp(z_j / T)         z the scores, T the temperature; T = 0 takes the largest score
    with `top_p`: only the likeliest tokens whose probabilities come to `top_p` together, at least one
                  (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def choose_tokens(scores: NDArray[np.float32], temperature: float, top_p: float, chance: np.random.Generator) -> NDArray[np.int64]:
    """One token per row of scores (batch, vocabulary): int64 (batch,). Those at minus infinity are never chosen.

        Scores ln 0.5, ln 0.3, ln 0.2 with T = 1 and top_p 0.6: the first two, with 0.625 and 0.375.
    """
    if temperature == 0:
        likeliest: NDArray[np.int64] = scores.argmax(axis=-1).astype(np.int64)
        return likeliest
    order = np.argsort(-scores, axis=-1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=-1).astype(np.float64)
    shares = np.exp((ranked - ranked[:, :1]) / temperature)
    shares /= shares.sum(axis=-1, keepdims=True)
    ahead = shares.cumsum(axis=-1) - shares
    shares[(ahead >= top_p) & (ahead > 0)] = 0
    reached = shares.cumsum(axis=-1)
    drawn = chance.random((len(scores), 1)) * reached[:, -1:]
    place = (reached <= drawn).sum(axis=-1, keepdims=True)
    last = (shares > 0).sum(axis=-1, keepdims=True) - 1
    chosen: NDArray[np.int64] = np.take_along_axis(order, np.minimum(place, last), axis=-1)[:, 0].astype(np.int64)
    return chosen
