"""Gradual removal: how much is gone after each round.

A step that removes something may say `gradual`, and is then planned as several rounds with training in between:

    prune.magnitude:
      sparsity: 0.9
      gradual: {rounds: 6, begin: 0.3, shape: cubic, recover: {steps: 100}}

After round t of n the sparsity is, with s_b where it begins and s_f the step's own,

    cubic     s_f + (s_b − s_f)(1 − t/n)³     (Zhu and Gupta 2017, arXiv 1710.01878): much at first, little at the end
    linear    s_f + (s_b − s_f)(1 − t/n)
    constant  s_f from the first round on: prune at once, and go on training

By hand. s_b = 0.2, s_f = 0.8, n = 3: cubic 0.8 − 0.6·8/27 = 0.622222, 0.8 − 0.6/27 = 0.777778, 0.8.

Units that are cut out physically are gone when the next round begins. There round t removes 1 − (1 − s_t)/(1 − s_{t−1}) of
what is left, so that after it s_t of the original are gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trimodal.errors import RecipeError, nearest

_POWERS = {"cubic": 3, "linear": 1, "constant": 0}
_KEYS = ("rounds", "begin", "shape", "recover")


@dataclass(frozen=True)
class Schedule:
    """`rounds` of removal; `recover` holds the options of the `distill` step after each, None for none."""

    rounds: int
    begin: float
    shape: str
    recover: dict[str, Any] | None

    def sparsity(self, final: float, number: int, of_what_is_left: bool) -> float:
        """What the step in round `number`, from 1, is to remove, so that `final` is gone after the last."""
        now = self._gone(final, number)
        before = self._gone(final, number - 1) if number > 1 else 0.0
        if not of_what_is_left:
            return now
        return 1 - (1 - now) / (1 - before) if before < 1 else 0.0

    def _gone(self, final: float, number: int) -> float:
        power = _POWERS[self.shape]
        if power == 0:
            return final
        return final + (min(self.begin, final) - final) * (1 - number / self.rounds) ** power


def read_schedule(value: Any, place: str) -> Schedule:
    """The schedule that a recipe's `gradual` describes.

    Raises:
        RecipeError: naming the place and what is wrong.
    """
    if not isinstance(value, dict):
        raise RecipeError(f"{place} is {value!r:.60}, but must be a mapping such as {{rounds: 6, recover: {{steps: 100}}}}")
    for key in value:
        if key not in _KEYS:
            raise RecipeError(f"{place} has no option '{key}'; {nearest(str(key), _KEYS)}")
    rounds, begin, shape = value.get("rounds"), value.get("begin", 0.0), value.get("shape", "cubic")
    if type(rounds) is not int or not 1 <= rounds <= 1000:
        raise RecipeError(f"{place}.rounds is {rounds!r:.40}, but must be a whole number from 1 to 1000")
    if type(begin) not in (int, float) or not 0 <= begin < 1:
        raise RecipeError(f"{place}.begin is {begin!r:.40}, but must be a fraction from 0 to below 1")
    if shape not in _POWERS:
        raise RecipeError(f"{place}.shape is {shape!r:.40}, but must be one of {', '.join(_POWERS)}")
    recover = value.get("recover")
    if recover is not None and not isinstance(recover, dict):
        raise RecipeError(f"{place}.recover is {recover!r:.40}, but must hold options of distill, such as {{steps: 100}}")
    return Schedule(rounds, float(begin), shape, recover)
