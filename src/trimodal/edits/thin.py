"""Thin: a decoder reads fewer of the tokens that a tower makes of an image or a sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field
from torch import Tensor, nn

from trimodal.core import Change, Layout, Place, Site, Tower
from trimodal.core.change import MOST_UNREAD, ChosenBy, Rest
from trimodal.core.model_edit import Effect, ModelEdit
from trimodal.edits.edit import UnfitEditError, Whole, read_fields
from trimodal.errors import ModelError
from trimodal.layers import (
    QuestionThinning,
    TokenThinning,
    WatchedAttention,
    mark_unread_,
    note_unread_share_,
    skip_marked_,
    thin_by_question_,
    watch_attention_,
)
from trimodal.models.blocks import count_read_blocks


@dataclass(frozen=True)
class ThinTokens(ModelEdit):
    """A `share` of the tokens that `tower` makes of every image or sound is not read, chosen `by` what: see `core.Thin`."""

    verb: ClassVar[str] = "thin"
    effect: ClassVar[Effect] = "structure"
    is_local: ClassVar[bool] = True

    tower: str
    share: Annotated[float, Field(ge=0, le=MOST_UNREAD, strict=True, allow_inf_nan=False)]
    by: ChosenBy
    rest: Rest
    block: Whole

    @classmethod
    def from_change(cls, change: Change, place: Place) -> Iterator[tuple[Self, Mapping[str, Tensor]]]:
        """The tokens that are read no more."""
        if change.thin is not None:
            yield cls(**asdict(change.thin)), {}

    @classmethod
    def from_fields(cls, what: Any, size: int) -> Self:
        """The thinning that a file tells of."""
        return read_fields(cls, cls.verb, what)

    def to_fields(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def check_fits(self, module: nn.Module, layout: Layout) -> None:
        """Whether the tower is there, with a decoder that reads its tokens and the attention that chooses them."""
        tower = next((tower for tower in layout.towers if tower.name == self.tower), None)
        if tower is None or tower.whole_reading:
            raise UnfitEditError(f"thins tokens of {self.tower:.80}: {'no such tower' if tower is None else tower.whole_reading}")
        if self.by == "question" and _find_question(layout, tower, self.block) is None:
            raise UnfitEditError(f"thins tokens of {tower.name:.80} behind block {self.block} of a decoder that has no such attention")
        if self.by != "question" and not tower.handed:
            raise UnfitEditError(f"thins tokens of {tower.name:.80} before a decoder, and their number varies")
        if self.by == "attention" and _find_attention(module, layout, tower) is None:
            raise UnfitEditError(f"thins tokens of {tower.name:.80} by an attention that it has not")

    def apply_(self, module: nn.Module, layout: Layout, values: Mapping[str, Tensor] | None = None) -> None:
        """Let the projector mark tokens and the decoder skip them, or the decoder's own blocks.

        Raises:
            ModelError: nobody has declared the attention that chooses.
        """
        tower = layout.get_tower(self.tower)
        note_unread_share_(module.get_submodule(tower.reader), self.share, 0 if self.by == "question" else tower.handed)
        if self.by == "question":
            self._follow_question_(module, layout, tower)
            return
        if self.by == "attention":
            found = _find_attention(module, layout, tower)
            if found is None:
                raise ModelError(f"nobody has declared the attention of {tower.name}; choose its tokens by diversity")
            watch_attention_(module.get_submodule(found[0]), found[1])
        mark_unread_(module.get_submodule(tower.projector), TokenThinning(self.share, self.by, self.rest))
        skip_marked_(module.get_submodule(tower.reader))

    def _follow_question_(self, module: nn.Module, layout: Layout, tower: Tower) -> None:
        found = _find_question(layout, tower, self.block)
        if found is None:
            raise ModelError(f"the decoder that reads {tower.name} has no attention behind block {self.block} that could choose its tokens")
        blocks, attention, query = found
        owner = module.get_submodule(tower.projector.rpartition(".")[0])
        settings = QuestionThinning(self.share, attention, query)
        thin_by_question_(
            owner, module.get_submodule(tower.reader), [module.get_submodule(path) for path in blocks], tower.placeholder, settings
        )

    def layout_after(self, layout: Layout) -> Layout:
        """Tokens are thinned once."""
        return layout.mark_tokens_thinned(self.tower, self.by)

    @classmethod
    def explain_unsaid(cls, edits: Sequence[Self]) -> str:
        """Configurations know nothing of it."""
        return "a decoder reads fewer tokens" if edits else ""


def _find_attention(module: nn.Module, layout: Layout, tower: Tower) -> tuple[str, WatchedAttention] | None:
    """The block that makes what is read, by path, and where its attention is seen; None where nobody has declared that."""
    number = count_read_blocks(module, tower) - 1
    query, key = (_find_projection(layout, tower.name, number, role) for role in ("query", "key"))
    if number < 0 or query is None or key is None or key.output_axis is None:
        return None
    block = tower.blocks[number]
    paths = [site.path.removesuffix(".second") for site in (query, key)]
    if not all(path.startswith(f"{block}.") for path in paths):
        return None
    within = [path.removeprefix(f"{block}.") for path in paths]
    return block, WatchedAttention(within[0], within[1], key.output_axis.width, tower.protected > 0)


def _find_question(layout: Layout, tower: Tower, block: int) -> tuple[tuple[str, ...], str, str] | None:
    """The blocks of the decoder from the one that chooses on, behind which so many (`block`) and at least one are left, by path; and of
    that one the paths, from it, of its attention and of what gives its queries. None where nobody has declared them."""
    reader = layout.find_reader(tower.name)
    number = min(block, len(reader.blocks) - 1) - 1 if reader is not None else -1
    if reader is None or number < 0:
        return None
    query = _find_projection(layout, reader.name, number, "query")
    norms = [s for s in layout.sites if (s.tower, s.block, s.role, s.branch) == (reader.name, number, "norm", "query")]
    if query is None:
        return None
    stem = f"{reader.blocks[number]}."
    paths = [path.removesuffix(".second").removeprefix(stem) for path in (query.path, *(norm.path for norm in norms))]
    return reader.blocks[number:], paths[0].rpartition(".")[0], paths[-1]


def _find_projection(layout: Layout, tower: str, block: int, role: str) -> Site | None:
    """The site that gives queries or keys of the self-attention in a block; of a factorised one, the second factor."""
    here = (site for site in layout.sites if (site.tower, site.block, site.role) == (tower, block, role))
    return next((site for site in here if site.branch in ("", "second")), None)
