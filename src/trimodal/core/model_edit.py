"""What every change of a model that is recorded can do. The kinds stand in `edits/`, one file each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trimodal.core.change import Change
    from trimodal.core.layout import Layout
    from trimodal.core.plan import Place

Effect = Literal["sizes", "storage", "structure"]


@dataclass(frozen=True)
class Resize:
    """What one edit did to numbers: (before, after) each. `head_dim` is the width of a head where it cut heads, or with
    `stream` all that is as wide as the stream."""

    numbers: frozenset[tuple[int, int]]
    head_dim: int | None = None
    stream: bool = False


class ModelEdit(ABC):
    """One change of a model, as it is recorded in an artifact and carried out again on the bare architecture when that loads.

    Attributes:
        verb: what it is called in a file.
        effect: what it leaves behind: plain layers of other `sizes`, the same layers with a weight in another `storage`, or
            another `structure`, of which no configuration and no plain layer can tell.
        is_local: whether it leaves all other layers as and where they are, so that edits of other layers may change places
            with it.
        moves_paths: whether layers stand at other paths afterwards.
    """

    verb: ClassVar[str]
    effect: ClassVar[Effect]
    is_local: ClassVar[bool] = False
    moves_paths: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def from_change(cls, change: Change, place: Place) -> Iterator[tuple[Self, Mapping[str, Tensor]]]:
        """The edits of this kind that carry out `change` at `place`, each with the new values that it brings, of the shapes that
        `apply_` takes."""

    @classmethod
    @abstractmethod
    def from_fields(cls, what: Any, size: int) -> Self:
        """The edit that `what` in a file of `size` bytes, which may come from anybody, tells of.

        Raises:
            UnfitEditError: it is not of the form that `to_fields` writes, or claims more than the file can hold.
        """

    @abstractmethod
    def to_fields(self) -> dict[str, Any]:
        """The fields as plain data for a JSON file; `from_fields` is the inverse."""

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file; `edits.read_edit` is the inverse."""
        return {self.verb: self.to_fields()}

    @abstractmethod
    def check_fits(self, module: nn.Module, layout: Layout) -> None:
        """Refuse what cannot be carried out on `module` as it is now, with this `layout`.

        Raises:
            UnfitEditError: it names something that is not there, or that is of another kind.
        """

    @abstractmethod
    def apply_(self, module: nn.Module, layout: Layout, values: Mapping[str, Tensor] | None = None) -> None:
        """Change `module`, which has this `layout`. `values` are new tensors by name, each of the shape and dtype that the module
        has afterwards; None when a saved model is rebuilt, whose tensors come later: what the edit makes anew lies on the meta
        device then."""

    @abstractmethod
    def layout_after(self, layout: Layout) -> Layout:
        """The layout that `layout` becomes."""

    def rebase(self, path: str, layout: Layout) -> str | None:
        """Where what stands at `path` before the edit stands after it, None if it is gone. `layout` is any that the model has or
        had."""
        return path

    def update_references_(self, module: nn.Module, layout: Layout) -> str:
        """Let what names layers by number name them as they will be; returns what became of it, in words. A saved model holds
        the names of afterwards already."""
        return ""

    def record_(self, steps: list[ModelEdit]) -> None:
        """Write it down behind the `steps` that were taken before."""
        steps.append(self)

    def find_touched_paths(self, layout: Layout) -> set[str]:
        """The paths of what it changes, as far as it is known from `layout`, that before it."""
        return set()

    @property
    def is_expressible(self) -> bool:
        """Whether it leaves plain layers behind, so that a configuration might say it."""
        return self.effect == "sizes"

    @classmethod
    def explain_unsaid(cls, edits: Sequence[Self]) -> str:
        """Why no configuration can say these `edits` of this kind; empty if one might."""
        return ""

    def find_resize(self, layout: Layout) -> Resize | None:
        """The numbers that it changes, by `layout`, that before it; None if there are none."""
        return None

    @property
    def narrows_stream(self) -> bool:
        """Whether a tower's stream has fewer dimensions afterwards."""
        return False

    @property
    def aliases(self) -> dict[str, str]:
        """Tensors that are stored under another's name from now on, with that name."""
        return {}

    def list_packed_codes(self) -> dict[str, tuple[int, int]]:
        """The tensors that it packs codes into, by name: bits of a code, and codes in a row."""
        return {}

    def with_dtype(self, old: str, new: str) -> ModelEdit:
        """The same where weights that were decoded as `old` are decoded as `new`."""
        return self
