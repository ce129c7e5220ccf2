"""Drop: blocks of a tower are removed; those that stay move up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from trimodal.core import Change, Layout, Place
from trimodal.core.model_edit import Effect, ModelEdit, Resize
from trimodal.edits.alignment import remap_alignment_blocks_
from trimodal.edits.edit import UnfitEditError, Whole, read_fields
from trimodal.errors import ModelError
from trimodal.models.blocks import block_list_of, renumber_blocks_


@dataclass(frozen=True)
class DropBlocks(ModelEdit):
    """Of the blocks of `tower` only those with the numbers `kept` stay, ascending."""

    verb: ClassVar[str] = "drop"
    effect: ClassVar[Effect] = "sizes"
    moves_paths: ClassVar[bool] = True

    tower: str
    kept: tuple[Whole, ...]

    @classmethod
    def from_change(cls, change: Change, place: Place) -> Iterator[tuple[Self, Mapping[str, Tensor]]]:
        """The blocks that stay."""
        if change.drop is not None:
            yield cls(change.drop.tower, tuple(change.drop.kept)), {}

    @classmethod
    def from_fields(cls, what: Any, size: int) -> Self:
        """The drop that a file tells of."""
        return read_fields(cls, cls.verb, what)

    def to_fields(self) -> dict[str, Any]:
        """Tower and blocks."""
        return {"tower": self.tower, "kept": list(self.kept)}

    def check_fits(self, module: nn.Module, layout: Layout) -> None:
        """Whether the tower is there, may lose blocks, and has those that are kept."""
        tower = next((tower for tower in layout.towers if tower.name == self.tower), None)
        if tower is None or tower.whole_blocks:
            raise UnfitEditError(f"drops blocks of {self.tower:.80}: {'no such tower' if tower is None else tower.whole_blocks}")
        kept = list(self.kept)
        if not kept or sorted(set(kept)) != kept or kept[-1] >= len(tower.blocks):
            raise UnfitEditError(f"keeps {len(kept)} blocks of {tower.name:.80}, of which there are {len(tower.blocks)}")
        try:
            blocks = block_list_of(module, tower)
        except ModelError as reason:
            raise UnfitEditError(f"drops blocks of {tower.name:.80}: {reason}") from reason
        gone = {part for number, block in enumerate(blocks) if number not in kept for part in block.modules()}
        used = (getattr(part, name, None) for part in module.modules() if part not in gone for name in ("lender", "table_of"))
        if not gone.isdisjoint(used):
            raise UnfitEditError(f"drops blocks of {tower.name:.80} that others use a weight or a table of")

    def apply_(self, module: nn.Module, layout: Layout, values: Mapping[str, Tensor] | None = None) -> None:
        """Remove all blocks but the kept ones, and let all that counts them count anew."""
        tower = layout.get_tower(self.tower)
        blocks = block_list_of(module, tower)
        for number in sorted(set(range(len(blocks))) - set(self.kept), reverse=True):
            del blocks[number]
        renumber_blocks_(module, tower, self.kept)

    def layout_after(self, layout: Layout) -> Layout:
        """What stays is numbered anew."""
        return layout.drop_blocks(self.tower, self.kept)

    def update_references_(self, module: nn.Module, layout: Layout) -> str:
        """The heads that tell the times of words are named by the new numbers of their blocks."""
        return remap_alignment_blocks_(module, layout, self.tower, self.kept)

    def find_touched_paths(self, layout: Layout) -> set[str]:
        """All blocks of the tower."""
        return set(self._find_blocks(layout))

    def find_resize(self, layout: Layout) -> Resize | None:
        """How many blocks there are."""
        return Resize(frozenset({(len(self._find_blocks(layout)), len(self.kept))}))

    def _find_blocks(self, layout: Layout) -> tuple[str, ...]:
        return next((tower.blocks for tower in layout.towers if tower.name == self.tower), ())
