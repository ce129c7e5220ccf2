"""Merge: the blocks of a tower merge tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field
from torch import Tensor, nn

from trimodal.core import Change, Layout, Place, Site
from trimodal.core.change import LARGEST_SHARE
from trimodal.core.model_edit import Effect, ModelEdit
from trimodal.edits.edit import Truth, UnfitEditError, Whole, read_fields
from trimodal.errors import ModelError
from trimodal.layers import BlockMerging, merge_tokens_


@dataclass(frozen=True)
class MergeTokens(ModelEdit):
    """A `share` of the tokens of `tower` is merged, after each of the blocks `first` to `last` an equal part: see `core.Merge`."""

    verb: ClassVar[str] = "merge"
    effect: ClassVar[Effect] = "structure"
    is_local: ClassVar[bool] = True

    tower: str
    kind: Literal["matching", "strided"]
    share: Annotated[float, Field(ge=0, le=LARGEST_SHARE, strict=True, allow_inf_nan=False)]
    first: Whole
    last: Whole
    proportional: Truth

    @classmethod
    def from_change(cls, change: Change, place: Place) -> Iterator[tuple[Self, Mapping[str, Tensor]]]:
        """The merge."""
        if change.merge is not None:
            yield cls(**asdict(change.merge)), {}

    @classmethod
    def from_fields(cls, what: Any, size: int) -> Self:
        """The merge that a file tells of."""
        found = read_fields(cls, cls.verb, what)
        if found.first > found.last:
            raise UnfitEditError(f"merges tokens of {found.tower:.80} from block {found.first} to {found.last}")
        return found

    def to_fields(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def check_fits(self, module: nn.Module, layout: Layout) -> None:
        """Whether the tower is there with all that merging its tokens needs."""
        tower = next((tower for tower in layout.towers if tower.name == self.tower), None)
        if tower is None or tower.whole_tokens:
            raise UnfitEditError(f"merges tokens of {self.tower:.80}: {'no such tower' if tower is None else tower.whole_tokens}")
        if self.last >= len(tower.blocks):
            raise UnfitEditError(f"merges tokens of {tower.name:.80} up to block {self.last} of {len(tower.blocks)}")
        for number, block in enumerate(tower.blocks):
            site = _find_key_site(layout, tower.name, number)
            if site is None or site.output_axis is None or not site.path.startswith(f"{block}."):
                raise UnfitEditError(f"merges tokens of {tower.name:.80}, of which block {number} has no keys")

    def apply_(self, module: nn.Module, layout: Layout, values: Mapping[str, Tensor] | None = None) -> None:
        """Let the blocks merge tokens: those before `first` stay as they are, those after `last` only heed what was merged.

        Raises:
            ModelError: nobody has declared the keys of a block.
        """
        tower = layout.get_tower(self.tower)
        factor = round(1 / (1 - self.share)) if self.kind == "strided" else 0
        for number, path in enumerate(tower.blocks[self.first :], start=self.first):
            site = _find_key_site(layout, self.tower, number)
            if site is None or site.output_axis is None:
                raise ModelError(f"nobody has declared the keys of {path}, so its tokens cannot be compared")
            done = (number - self.first + 1) / (self.last - self.first + 1)
            merge_tokens_(module.get_submodule(path), BlockMerging(
                start=number == self.first,
                removed=self.share * done if self.kind == "matching" and number <= self.last else None,
                factor=factor if number == self.first else 0,
                key=site.path.removesuffix(".second").removeprefix(f"{path}."),
                width=site.output_axis.width,
                protected=tower.protected,
                proportional=self.proportional,
                restore=tower.restored and number == len(tower.blocks) - 1,
            ))  # fmt: skip

    def layout_after(self, layout: Layout) -> Layout:
        """Tokens are merged once, and the blocks stay."""
        return layout.mark_tokens_merged(self.tower)

    @classmethod
    def explain_unsaid(cls, edits: Sequence[Self]) -> str:
        """Configurations know nothing of it."""
        return "tokens are merged" if edits else ""


def _find_key_site(layout: Layout, tower: str, block: int) -> Site | None:
    """The site that gives the keys of the self-attention in a block; of a factorised one, the second factor."""
    here = (site for site in layout.sites if (site.tower, site.block, site.role) == (tower, block, "key"))
    return next((site for site in here if site.branch in ("", "second")), None)
