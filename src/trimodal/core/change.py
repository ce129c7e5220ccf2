"""What a method returns: pure data that the edits in `edits/`, alone, turn into a changed model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from trimodal.core.site import Fold

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_SHARE = 0.75  # of a tower's tokens that can be merged
MOST_UNREAD = 0.95  # of the tokens of an image or a sound that a decoder need not read
ChosenBy = Literal["attention", "diversity", "norm", "question"]
Rest = Literal["discard", "join", "context"]


@dataclass(frozen=True)
class Treatment:
    """How one site's weight is to be stored from now on.

    `kind` and `options` are plain data that go into the manifest, and `tensors` what goes into the file; which there
    are is said in `core/storage.py`. `bias` replaces the site's bias where it is given. `table` is the path of the layer
    whose table of numbers is used, where the storage has none of its own.
    """

    kind: str
    options: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    bias: Tensor | None = None
    table: str = ""


@dataclass(frozen=True)
class Cut:
    """Units of one axis label that stay, ascending; and the consumer's weight (and bias) after the cut, if it
    was updated to make up for what was removed, or such `tensors` of any layer by name."""

    label: str
    kept: tuple[int, ...]
    weight: Tensor | None = None
    bias: Tensor | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Merge:
    """Tokens of one tower that are merged from now on: a `share` of them, after each of the blocks `first` to `last`
    (counted from 0) an equal part; see `methods/merge/tokens.py` for the options."""

    tower: str
    kind: Literal["matching", "strided"]
    share: float
    first: int
    last: int
    proportional: bool


@dataclass(frozen=True)
class Thin:
    """Tokens of one tower that a decoder reads no more: a `share` of those of every image or sound, chosen `by` what,
    `question` behind so many (`block`) blocks of the decoder; see `methods/prune/tokens.py` for the options."""

    tower: str
    share: float
    by: ChosenBy
    rest: Rest
    block: int


@dataclass(frozen=True)
class Drop:
    """Blocks of one tower that stay, by number and ascending; all others are removed."""

    tower: str
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Folded:
    """One fold, and the values of the weights and biases that take it over, by name."""

    fold: Fold
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """The outcome of solving one place: new storage per site path, or one cut, or one merge, or one fold, or blocks removed,
    or fewer tokens read.

    `shared` lists paths of layers that use one weight from now on, that of the first, after the treatments are done.

    `error` is the relative squared output error per modality, where it is more than the changed weight's own: a layer
    whose input is quantized too.
    `settled` holds options that only solving could settle, such as a rank that follows from the data.
    """

    treatments: Mapping[str, Treatment] = field(default_factory=dict)
    cut: Cut | None = None
    merge: Merge | None = None
    thin: Thin | None = None
    drop: Drop | None = None
    shared: tuple[tuple[str, ...], ...] = ()
    fold: Folded | None = None
    notes: tuple[str, ...] = ()
    error: Mapping[str, float] | None = None
    settled: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_of_tokens(self) -> bool:
        """Whether it leaves every weight as it is, and changes how many tokens there are."""
        return self.merge is not None or self.thin is not None
