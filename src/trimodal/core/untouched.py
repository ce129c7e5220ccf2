"""What stays as it was: bytes of a model that stand in no place, or that no edit of a plan works on.

Tensors are gathered by name, with `*` for the numbers in which they differ:

    transformer.h.0.attn.c_attn.weight, transformer.h.1.attn.c_attn.weight  ->  transformer.h.*.attn.c_attn.weight
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from trimodal.core.validation import omit_keys, read_record

DERIVED = ("bytes", "share")
"""What `UntouchedTensors.to_json` adds for readers: it follows from the rest."""
Why = Literal["in no place", "declined", "not asked for"]


@dataclass(frozen=True)
class StoredTensor:
    """One stored tensor of a model: its dotted name, the tower it belongs to (empty if none), and its bytes."""

    name: str
    tower: str
    bytes: int


@dataclass(frozen=True)
class TensorGroup:
    """Tensors whose names differ in numbers only. `why` they are left: no method can work on them (`in no place`), a
    method of the plan looked at them and left them alone (`declined`), or the recipe names them nowhere (`not asked for`)."""

    name: str
    tower: str
    tensors: int
    bytes: int
    why: Why


@dataclass(frozen=True)
class UntouchedTensors:
    """What is left as it was, largest first, out of `of_bytes` of tensors."""

    of_bytes: int
    alike: tuple[TensorGroup, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of all that is left as it was."""
        return sum(one.bytes for one in self.alike)

    @property
    def share(self) -> float:
        """Its part of all bytes, in [0, 1]."""
        return self.bytes / self.of_bytes if self.of_bytes else 0.0

    def select_reasons(self, *whys: Why) -> UntouchedTensors:
        """What is left for one of these reasons."""
        return UntouchedTensors(self.of_bytes, tuple(one for one in self.alike if one.why in whys))

    def bytes_by_tower(self) -> dict[str, int]:
        """Bytes per tower, largest first."""
        found: dict[str, int] = {}
        for one in self.alike:
            found[one.tower] = found.get(one.tower, 0) + one.bytes
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return {**asdict(self), "bytes": self.bytes, "share": self.share}

    @staticmethod
    def from_json(data: dict[str, Any] | None, where: str = "untouched") -> UntouchedTensors | None:
        """The inverse of `to_json`; None where a file of an older version has none.

        Raises:
            IntegrityError: a key is missing or unknown, or a value is not what it must be; `where` begins the message.
        """
        return read_record(UntouchedTensors, omit_keys(data, *DERIVED), where) if data is not None else None


def group_untouched(left: Iterable[tuple[StoredTensor, Why]], of_bytes: int) -> UntouchedTensors:
    """The tensors by name, reason and tower, largest first."""
    groups: dict[tuple[str, str, Why], list[StoredTensor]] = {}
    for tensor, why in left:
        groups.setdefault((_replace_numbers(tensor.name), tensor.tower, why), []).append(tensor)
    found = [
        TensorGroup(_common_name([t.name for t in tensors]), tower, len(tensors), sum(t.bytes for t in tensors), why)
        for (_, tower, why), tensors in groups.items()
    ]
    return UntouchedTensors(of_bytes, tuple(sorted(found, key=lambda one: (-one.bytes, one.name))))


def _replace_numbers(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _common_name(names: list[str]) -> str:
    """What the names have in common: a part in which they differ becomes `*`."""
    return ".".join(
        parts[0] if len(set(parts)) == 1 else "*" for parts in zip(*(n.split(".") for n in names), strict=True)
    )
