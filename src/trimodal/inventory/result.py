"""The inventory of a model: sites, towers, totals. Plain data, and the file `inventory.json`, which a later plan can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trimodal.core import UntouchedTensors
from trimodal.core.showing import format_size, html_table
from trimodal.core.untouched import DERIVED
from trimodal.core.validation import omit_keys, read_record
from trimodal.errors import InputError


@dataclass(frozen=True)
class SiteRow:
    """One site. `parameters` are the numbers that its weight and bias stand for; `bytes` what they take as stored."""

    name: str
    path: str
    tower: str
    role: str
    shape: tuple[int, ...]
    stored: str
    parameters: int
    bytes: int
    tied: tuple[str, ...] = ()


@dataclass(frozen=True)
class OtherParameters:
    """A parameter that is no site's weight or bias: a class token, a scale, a recurrent weight. `tower` is empty where
    it belongs to none."""

    name: str
    tower: str
    parameters: int
    bytes: int


@dataclass(frozen=True)
class TowerRow:
    """One tower with its sites and other parameters. `share` is its part of all bytes, in [0, 1]; `macs` are the
    multiply-accumulates of a forward pass for one sample, None where they could not be counted."""

    name: str
    modality: str
    blocks: int
    sites: int
    parameters: int
    bytes: int
    share: float
    macs: int | None


@dataclass(frozen=True, repr=False)
class Inventory:
    """What a model is made of. Every parameter is counted once, tied ones too.

    `parameters` and `bytes` are those of sites and `other`, so they exceed the sum over towers by what belongs to none.
    `in_no_place` are the tensors that no method can work on: parameters of no site, and further tensors.
    `buffer_bytes` are further tensors of the checkpoint (running statistics of batch norms). `macs` are the
    multiply-accumulates of one forward for one sample with inputs of the shapes `input_shapes`; None where no
    forward could be run, and then `macs_note` says why.
    `fingerprint` is that of the model that was counted (`models/tensors.py`); empty where its tensors hold no values, or nobody asked.
    """

    name: str
    family: str
    parameters: int
    bytes: int
    buffer_bytes: int
    macs: int | None
    towers: tuple[TowerRow, ...]
    sites: tuple[SiteRow, ...]
    other: tuple[OtherParameters, ...]
    input_shapes: dict[str, tuple[int, ...]]
    macs_note: str = ""
    in_no_place: UntouchedTensors = field(default_factory=lambda: UntouchedTensors(0))
    fingerprint: str = ""

    def __repr__(self) -> str:
        towers = ", ".join(tower.name for tower in self.towers)
        return f"<Inventory of {self.name} ({self.family}): {self.parameters:,} parameters, {format_size(self.bytes)}, towers {towers}>"

    def _repr_html_(self) -> str:
        rows = [
            (tower.name, f"{tower.blocks:,}", f"{tower.sites:,}", f"{tower.parameters:,}", format_size(tower.bytes), f"{tower.share:.0%}")
            for tower in self.towers
        ]
        return html_table(repr(self)[1:-1], ("tower", "blocks", "sites", "parameters", "bytes", "share"), rows)

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return {**asdict(self), "in_no_place": self.in_no_place.to_json()}

    @staticmethod
    def from_json(data: Any, where: str = "the inventory", advice: str = "") -> Inventory:
        """The inverse of `to_json`. Files of older versions say `operations` where today's say `macs`.

        Raises:
            InputError: a key is missing or unknown, or a value is not what it must be; the message begins with `where`, names
                the key, and ends with `advice`.
        """
        if isinstance(data, Mapping):
            told = _rename_macs(data)
            towers = told.get("towers")
            rows = [_rename_macs(row) for row in towers] if isinstance(towers, list | tuple) else towers
            data = {**told, "towers": rows, "in_no_place": omit_keys(told.get("in_no_place") or {"of_bytes": 0}, *DERIVED)}
        return read_record(Inventory, data, where, InputError, advice)


def _rename_macs(data: Any) -> Any:
    """`data` with today's names; as it is where it is no mapping."""
    return {str(name).replace("operations", "macs"): value for name, value in data.items()} if isinstance(data, Mapping) else data
