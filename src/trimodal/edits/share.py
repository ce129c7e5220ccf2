"""Share: several layers use one weight, that of the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeGuard

from torch import Tensor, nn

from trimodal.core import Change, Layout, Place
from trimodal.core.model_edit import Effect, ModelEdit
from trimodal.edits.edit import UnfitEditError, read_fields
from trimodal.layers import share_weight_


@dataclass(frozen=True)
class ShareWeight(ModelEdit):
    """The layers at `paths` use the weight of the first of them; each keeps its own bias."""

    verb: ClassVar[str] = "share"
    effect: ClassVar[Effect] = "structure"

    paths: tuple[str, ...]

    @classmethod
    def from_change(cls, change: Change, place: Place) -> Iterator[tuple[Self, Mapping[str, Tensor]]]:
        """One for each weight that is shared."""
        for paths in change.shared:
            yield cls(tuple(paths)), {}

    @classmethod
    def from_fields(cls, what: Any, size: int) -> Self:
        """The sharing that a file tells of."""
        found = read_fields(cls, cls.verb, what)
        different = len(set(found.paths))
        if different != len(found.paths) or different < 2:
            raise UnfitEditError(f"lets {different} different layers share a weight {len(found.paths)} times")
        return found

    def to_fields(self) -> dict[str, Any]:
        """The layers."""
        return {"paths": list(self.paths)}

    def check_fits(self, module: nn.Module, layout: Layout) -> None:
        """Whether all layers are plain linear ones of one shape and type."""
        modules = dict(module.named_modules())
        first = modules.get(self.paths[0])
        for path in self.paths:
            layer = modules.get(path)
            if not _is_plain_linear(layer) or not _is_plain_linear(first):
                raise UnfitEditError(f"lets {path:.80} share a weight, which is no plain linear layer")
            if layer.weight.shape != first.weight.shape or layer.weight.dtype != first.weight.dtype:
                raise UnfitEditError(f"lets {path:.80} use the weight of {self.paths[0]:.80}, which has another shape or type")

    def apply_(self, module: nn.Module, layout: Layout, values: Mapping[str, Tensor] | None = None) -> None:
        """Let all but the first give up their weight."""
        owner, *others = map(module.get_submodule, self.paths)
        for other in others:
            share_weight_(other, owner)

    def layout_after(self, layout: Layout) -> Layout:
        """The weight takes its bytes once."""
        return layout.mark_weight_shared(self.paths)


def _is_plain_linear(layer: nn.Module | None) -> TypeGuard[nn.Linear]:
    """Whether it is a linear layer whose weight is its own plain parameter."""
    return isinstance(layer, nn.Linear) and "weight" in layer._parameters
