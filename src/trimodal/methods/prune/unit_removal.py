"""Units of a layer's columns removed one after the other, all that stay making up for each: steps 1 to 3 of `prune/structured.py`."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_ROUNDS = 64


def remove_units(weight: Tensor, inverse: Tensor, units: Tensor, keep: int) -> tuple[list[int], Tensor]:
    """Steps 1 to 3: the units kept, ascending, and the updated weight (m, n), zero on the columns removed.

    `weight` (m, n) and `inverse` (n, n) are float64; `units` (u, width) holds the columns of every unit. Columns
    in no unit are never removed.
    """
    w, gone = weight.clone(), set()
    for chosen, _ in _iterate_removals_(w, inverse.clone(), units, keep):
        gone.update(chosen.tolist())
    return [unit for unit in range(len(units)) if unit not in gone], w


def compute_removal_losses(weight: Tensor, inverse: Tensor, units: Tensor) -> Tensor:
    """The loss that each unit adds when its turn comes, until one is left: (u − 1,). Units that go at once share theirs.

    The arguments are those of `remove_units`.
    """
    found = [
        loss / len(chosen)
        for chosen, loss in _iterate_removals_(weight.clone(), inverse.clone(), units, keep=1)
        for _ in range(len(chosen))
    ]
    return torch.tensor(found, dtype=torch.float64)


def _iterate_removals_(w: Tensor, h: Tensor, units: Tensor, keep: int) -> Iterator[tuple[Tensor, float]]:
    """Carry out steps 1 to 3 on `w` and `h`: each time the units that went and the loss that they added."""
    alive = torch.ones(len(units), dtype=torch.bool, device=units.device)
    at_once = max(1, len(units) // _ROUNDS)
    while int(alive.sum()) > keep:
        remaining = alive.nonzero().squeeze(1)
        losses = _compute_unit_losses(w, h, units[remaining])
        count = min(at_once, len(remaining) - keep)
        chosen = remaining[torch.sort(losses, stable=True).indices[:count]]
        columns = units[chosen].reshape(-1)
        solved = torch.linalg.solve(h[columns][:, columns], h[columns])  # (|S|, n)
        parts = w[:, columns]
        loss = float((parts.T * torch.linalg.solve(h[columns][:, columns], parts.T)).sum())
        w -= parts @ solved
        h -= h[:, columns] @ solved
        w[:, columns] = 0.0
        alive[chosen] = False
        yield chosen, loss


def _compute_unit_losses(w: Tensor, h: Tensor, units: Tensor) -> Tensor:
    """Step 1 for `units` (k, width): (k,)."""
    blocks = h[units[:, :, None], units[:, None, :]]  # (k, width, width)
    parts = w[:, units].permute(1, 2, 0)  # (k, width, m)
    losses: Tensor = (parts * torch.linalg.solve(blocks, parts)).sum((1, 2))
    return losses
