"""Checks that need no forward pass: the bytes that a model holds beside its plan, and whose compressed model it is."""

from __future__ import annotations

from collections.abc import Sequence

from trimodal.core import Check, FitRecord, PlaceRecord, Plan, TowerSize
from trimodal.core.record import LEFT_ALONE
from trimodal.inventory import Inventory
from trimodal.models.model import Model
from trimodal.models.tensors import tensor_bytes, unique_tensors

_ESTIMATE = 0.05  # by how much an estimate of the bytes may be off


def bytes_check(model: Model, planned: Plan, records: Sequence[PlaceRecord | FitRecord]) -> Check:
    """Whether the model holds the bytes that the plan promised. Where the plan could but estimate them, it must hold those
    that were forecast when it was settled how much goes where, and these must be near the plan's."""
    found, expected = tensor_bytes(unique_tensors(model.module).values()), planned.expected_tensor_bytes
    detail = f"{found:,} bytes of tensors, planned {expected:,}"
    alone = len(find_skipped_places(records))
    if planned.certainty == "exact" and not alone:
        return Check.from_outcome("bytes as planned", found == expected, detail)
    settled = planned.source.tensor_bytes - sum(
        r.bytes_before - r.bytes_after for r in records if isinstance(r, PlaceRecord)
    )
    if alone:
        return Check.from_outcome("bytes as planned", found == settled, f"{detail}; {alone} places were left alone, see their notes")
    if planned.certainty == "at most":
        return Check.from_outcome("bytes as planned", found == settled and found <= expected, f"{detail} at most (settled while it runs)")
    off = f"an estimate, since places are ranked together: {found / expected - 1:+.2%}, allowed ±{_ESTIMATE:.0%}"
    return Check.from_outcome("bytes as planned", found == settled and abs(found / expected - 1) <= _ESTIMATE, f"{detail} ({off})")


def find_skipped_places(records: Sequence[PlaceRecord | FitRecord]) -> set[tuple[int, str]]:
    """Edit and place of what could not be worked on after all."""
    places = (record for record in records if isinstance(record, PlaceRecord))
    return {(r.edit, r.place) for r in places if any(note.startswith(LEFT_ALONE) for note in r.notes)}


def source_check(fingerprint: str, planned: Plan) -> Check:
    """Whether the model with `fingerprint` is the one that the plan was made for."""
    expected = planned.source.fingerprint
    return Check.from_outcome(
        "compared with the model it was made from",
        fingerprint == expected,
        f"fingerprint {fingerprint[:12]}, in the plan {expected[:12]}",
    )


def compare_towers(before: Inventory, after: Inventory) -> tuple[TowerSize, ...]:
    """Parameters and bytes of each tower, in one model and the other."""
    later = {tower.name: tower for tower in after.towers}
    return tuple(
        TowerSize(t.name, t.parameters, later[t.name].parameters, t.bytes, later[t.name].bytes) for t in before.towers
    )
