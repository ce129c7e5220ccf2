"""What a target says of one site: it takes what is stored there, takes it as floats, or cannot take it; and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Level = Literal["native", "decoded", "refused"]
LEVELS: tuple[Level, ...] = get_args(Level)
MEANINGS = {
    "native": "taken as it is stored",
    "decoded": "taken, but decoded to float when loaded: only the file is small",
    "refused": "cannot be taken",
}
"""What the levels mean, best first."""


@dataclass(frozen=True)
class Answer:
    """How a target takes what is stored at a site.

    `reasons` say why it is not `native`, worst first. `cautions` are what else a user should know, such as a wider type in the
    file; there may be some at any level. `weight_type` is that of the codes in the file (`u8`, `s4`, …), None for plain numbers
    and for what is refused.
    """

    level: Level
    reasons: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    weight_type: str | None = None

    @property
    def text(self) -> str:
        """The reasons in one line; empty where there are none."""
        return "; ".join(self.reasons)


def combine_answers(answers: Iterable[Answer]) -> Answer:
    """One answer for a site of which several things are asked: the worst level, and all reasons, those of the worst level first."""
    ordered = sorted(answers, key=lambda answer: -LEVELS.index(answer.level))
    level = ordered[0].level if ordered else "native"
    weight_type = next((answer.weight_type for answer in ordered if answer.weight_type), None)
    return Answer(
        level,
        tuple(reason for answer in ordered for reason in answer.reasons if answer.level == level),
        tuple(caution for answer in ordered for caution in answer.cautions),
        None if level == "refused" else weight_type,
    )
