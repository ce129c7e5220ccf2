"""How a target takes what a plan will store: part of a plan, and so plain data without the target itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

TakenAs = Literal["refused", "decoded", "native"]


@dataclass(frozen=True)
class TargetCaution:
    """What to know of one place: a site that the target refuses, or decodes to float when the file is loaded, or takes (`native`) with
    something to know all the same. `path` is the site's; a whole tower has none."""

    name: str
    path: str
    taken_as: TakenAs
    reason: str


@dataclass(frozen=True)
class TargetFit:
    """How the `target` takes what will not be plain numbers in layers of their own shape.

    `asked` counts such places; of these `refused` cannot be taken and `decoded` are floats once the file is loaded. `machine` says why
    this machine is not of the target's kind, empty if it is. `cautions` are by place, refused ones first.
    """

    target: str
    asked: int
    refused: int
    decoded: int
    machine: str = ""
    cautions: tuple[TargetCaution, ...] = ()

    @property
    def takes_nothing(self) -> bool:
        """Whether there is something, and the target can take none of it."""
        return self.asked > 0 and self.refused == self.asked

    def group_names(self, taken_as: str) -> dict[str, list[str]]:
        """The places of the cautions of one kind by their reason, in order."""
        found: dict[str, list[str]] = {}
        for caution in self.cautions:
            if caution.taken_as == taken_as:
                found.setdefault(caution.reason, []).append(caution.name)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def name_briefly(names: Iterable[str], most: int = 3) -> str:
    """The first of `names`, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return f"{', '.join(listed[:most])}{more}"
