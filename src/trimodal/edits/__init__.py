"""The only code that changes a model: one file per kind of edit, carried out when a place was solved, and again when an
artifact is loaded."""

from __future__ import annotations

from typing import Any

from trimodal.core.model_edit import ModelEdit
from trimodal.edits.cut import CutUnits
from trimodal.edits.drop import DropBlocks
from trimodal.edits.edit import UnfitEditError
from trimodal.edits.fold import FoldLayer
from trimodal.edits.merge import MergeTokens
from trimodal.edits.share import ShareWeight
from trimodal.edits.thin import ThinTokens
from trimodal.edits.treat import TreatWeight

EDIT_KINDS: tuple[type[ModelEdit], ...] = (  # in the order in which those of one change are carried out
    CutUnits,
    FoldLayer,
    TreatWeight,
    ShareWeight,
    DropBlocks,
    MergeTokens,
    ThinTokens,
)

__all__ = [
    "EDIT_KINDS", "CutUnits", "DropBlocks", "FoldLayer", "MergeTokens", "ModelEdit", "ShareWeight", "ThinTokens", "TreatWeight",
    "UnfitEditError", "read_edit",
]  # fmt: skip


def read_edit(data: Any, size: int) -> ModelEdit:
    """The edit that `data` in a file of `size` bytes tells of: the inverse of `ModelEdit.to_json`.

    Raises:
        UnfitEditError: it is not of a form that trimodal writes.
    """
    kinds = {kind.verb: kind for kind in EDIT_KINDS}
    if not isinstance(data, dict) or len(data) != 1 or not data.keys() <= kinds.keys():
        raise UnfitEditError(f"is none of {', '.join(sorted(kinds))}")
    ((verb, fields),) = data.items()
    return kinds[verb].from_fields(fields, size)
