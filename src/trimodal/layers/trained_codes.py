"""A coded weight while it is trained: float weights stand behind the codes, and what the layer sees is what would be stored.

    latent float32 (rows, columns), in the coordinates of the codes ──encode──> codes ──decode──> the weight, with all that
    is applied after decoding (`core/storage.py`)

Every forward rounds the latent weights with the very functions, scales (float16), zero-points and levels that an artifact has, so that
what is stored in the end decodes to the numbers of the last forward. Backward goes straight through (`maths/straight_through.py`).

Latent weights begin as near to the original ones as their codes allow: the first forward is that of the codes as they were, which
may come from error feedback and be no nearest ones. What is learned beside them moves by `rate` × the learning rate of its own size
per step, since Adam's steps do not see how large a gradient is. Masks, factors of columns, rotations, corrections and outliers stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trimodal.layers.input_range import InputRule, LearnedInputRange, weaken_gradient
from trimodal.layers.kept_weight import DequantizePolicy
from trimodal.layers.stored import CodedWeight, Levels
from trimodal.maths.codebook import Codebook
from trimodal.maths.grid import Grid
from trimodal.maths.integers import IntegerGrid
from trimodal.maths.packing import pack_codes, unpack_codes
from trimodal.maths.straight_through import round_on_grid, round_to_levels, round_to_multiples, substitute_values
from trimodal.maths.transform import rotate_columns

StepRule = Literal["lsq", "lsq+", "fixed"]
LevelRule = Literal["hard", "soft", "fixed"]
_BOUNDS = (1 / 16, 16.0)  # of a scale, in what it was
_LIKE = 0.5  # the cosine from which an original weight is taken for the one behind the codes
_TRIES = (0.25, 0.5, 0.75, 1.0)
_LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class LearnedParts:
    """What is learned beside the weights: `steps` (scales, with `lsq+` zero-points too), the `levels` of codebooks that k-means has
    found, and static ranges of `inputs`; `rate` is how fast, relative to the weights."""

    steps: StepRule = "lsq"
    levels: LevelRule = "hard"
    inputs: InputRule = "lsq"
    rate: float = 1.0


class TrainedCodes(CodedWeight):
    """A `CodedWeight` between `begin_training_` and `finish_training_`."""

    latent: nn.Parameter
    _parts: LearnedParts
    _first: Levels
    _input_range: LearnedInputRange | None

    def forward(self) -> Tensor:
        """The decoded weight, in its own shape."""
        return self._apply_parts(self._round_latent(None), None).to(self.dtype).view(self.shape)

    def decode_rows(self, index: Tensor) -> Tensor:
        """The decoded rows (count, columns) at `index` int64 (count,)."""
        return self._apply_parts(self._round_latent(index), index).to(self.dtype)

    def _round_scaled_input(self, scaled: Tensor) -> Tensor:
        return super()._round_scaled_input(scaled) if self._input_range is None else self._input_range(scaled)

    def _storage_tensors(self) -> dict[str, Tensor]:
        lent = {} if self.table_of is None else {"levels": self.table_of.table}
        return {**{name: t for name, t in self._buffers.items() if t is not None}, **lent}

    def _round_latent(self, index: Tensor | None) -> Tensor:
        levels, scale, other = self.find_levels()
        latent: Tensor = self.latent
        if index is not None:
            levels, scale, other, latent = _take_rows(levels, scale, other, latent, index)
        if isinstance(levels, Grid):
            assert scale is not None and other is not None
            return round_on_grid(latent, scale, other, levels)
        if isinstance(levels, IntegerGrid):
            assert scale is not None
            return round_to_multiples(latent, scale, levels)
        assert other is not None
        return round_to_levels(latent, scale, other, levels, self._parts.levels == "soft")

    def find_levels(self) -> tuple[Levels, Tensor | None, Tensor | None]:
        """The levels as they would be stored now; and their scales, and their zero-points or numbers, which take the gradients."""
        levels = self._first
        if isinstance(levels, IntegerGrid):
            half, scale = self._find_scale(levels.float_steps(), levels.scale, levels.exponent)
            return replace(levels, scale=half), scale, None
        if isinstance(levels, Codebook):
            return self._find_book(levels)
        half, scale = self._find_scale(levels.float_scales(), levels.scale, levels.exponent)
        zero = levels.float_zeros()
        if levels.zero is not None and (move := self._parameters.get("zero_move")) is not None:
            moved = zero + self._parts.rate * (2**levels.bits - 1) * move
            stored = _store_zeros(moved.detach(), levels)
            levels, zero = replace(levels, zero=stored), substitute_values(stored.float(), moved)
        return replace(levels, scale=half), scale, zero

    def find_table(self) -> tuple[Tensor, Tensor]:
        """The levels (tables, 2^bits) as they would be stored now, float16 and ascending, and as they take the gradients, float32."""
        numbers, unit = self._parameters.get("numbers"), 2.0 ** (0 if self.options["scaled"] else self.options["exponent"])
        if numbers is None:
            return self.table, self.table.float() * unit
        order = numbers.detach().argsort(dim=1, stable=True)
        ascending = numbers.gather(1, order)
        half = (ascending.detach() / unit).clamp(-_LARGEST_HALF, _LARGEST_HALF).half()
        return half, substitute_values(half.float() * unit, ascending)

    def _find_book(self, book: Codebook) -> tuple[Levels, Tensor | None, Tensor | None]:
        lender = self if self.table_of is None else self.table_of
        half, numbers = lender.find_table() if isinstance(lender, TrainedCodes) else (book.levels, lender.table.float())
        if book.scale is None:
            return replace(book, levels=half), None, numbers
        stored, scale = self._find_scale(book.scale.float() * 2.0**book.exponent, book.scale, book.exponent)
        return replace(book, levels=half, scale=stored), scale, numbers

    def _find_scale(self, first: Tensor, stored: Tensor, exponent: int) -> tuple[Tensor, Tensor]:
        """Scales as they would be stored now, float16, and as they take the gradients; `first` and `stored` are those of the beginning."""
        if (move := self._parameters.get("scale_move")) is None:
            return stored, first
        moved = first * (1 + self._parts.rate * move).clamp(*_BOUNDS)
        half = (moved.detach() * 2.0**-exponent).half()
        half = torch.where((half == 0) | ~half.isfinite(), stored, half)
        return half, substitute_values(half.float() * 2.0**exponent, moved)


def begin_training_(store: CodedWeight, original: Tensor | None, parts: LearnedParts) -> None:
    """Put float weights behind the codes of `store`. Of the `original` weight, of its shape, they keep as much as the codes allow."""
    levels, codes = store.levels_and_codes
    start = levels.decode(codes)
    latent = start if original is None else _approach_original(start, codes, _undo_parts(store, original), levels)
    store.drop_kept_()
    store.__class__ = TrainedCodes
    vars(store).update(_parts=parts, _first=levels, _input_range=None)
    store.register_parameter("latent", nn.Parameter(latent.contiguous()))
    columns = latent.shape[1]
    if parts.steps != "fixed" and "scale" in store._buffers:
        scale = store.get_buffer("scale")
        largest = _find_largest_code(levels)
        _add_move(store, "scale_move", scale.shape, latent.numel() / scale.numel() * largest)
        if isinstance(levels, Grid) and levels.zero is not None and parts.steps == "lsq+":
            _add_move(store, "zero_move", scale.shape, latent.numel() / scale.numel() * largest)
    if parts.levels != "fixed" and store.has_own_levels:
        _free_levels(store, len(latent) * columns)


def finish_training_(store: CodedWeight) -> None:
    """Store what was learned: codes, scales, zero-points, levels and the input's range decode to what the last forward saw."""
    assert isinstance(store, TrainedCodes)
    with torch.no_grad():
        levels, _, _ = store.find_levels()
        codes, mask = levels.encode(store.latent), store._buffers.get("mask")
        if mask is not None:
            codes = codes[unpack_codes(mask, 1, codes.shape[1]).bool()][None]
        if isinstance(levels, Codebook) and store.table_of is None and "numbers" in store._parameters:
            store._buffers["levels"] = store.find_table()[0].contiguous()
        if levels.scale is not None:
            store._buffers["scale"] = levels.scale.contiguous()
        if isinstance(levels, Grid) and levels.zero is not None:
            store._buffers["zero"] = levels.zero.contiguous()
        store._buffers["codes"] = levels.as_codes(codes) if isinstance(levels, IntegerGrid) else pack_codes(codes, levels.bits)
        if store._input_range is not None:
            scale, zero = store._input_range.find_grid()
            store._buffers["input_scale"], store._buffers["input_zero"] = scale.float().view(1, 1), zero.to(torch.uint8).view(1, 1)
    store._parameters.clear()


@contextmanager
def train_codes(
    module: nn.Module, parts: LearnedParts, find_original: Callable[[str], Tensor | None] = lambda path: None
) -> Iterator[list[TrainedCodes]]:
    """While open, all coded weights of `module` are trained; afterwards they are what is stored again.

    Args:
        module: has the weights.
        parts: what is learned beside them.
        find_original: the path of a layer -> its weight before it was coded, of any shape, or None.
    """
    stores = [(path, part) for path, part in module.named_modules() if isinstance(part, CodedWeight)]
    policies: list[DequantizePolicy] = [store.dequantize_policy for _, store in stores]
    for path, store in stores:
        original = find_original(path.removesuffix(".stored"))
        fits = original is not None and original.shape == store.shape
        store.dequantize_policy = "memory"
        begin_training_(store, original if fits else None, parts)
    trained: list[TrainedCodes] = [store for _, store in stores if isinstance(store, TrainedCodes)]
    _learn_input_ranges_(trained, parts)
    try:
        yield trained
    finally:
        for store in trained:  # borrowers read the lenders' levels, so all are written before any is closed
            finish_training_(store)
        for store, policy in zip(trained, policies, strict=True):
            _close_(store, policy)


def _close_(store: TrainedCodes, policy: DequantizePolicy) -> None:
    store._modules.pop("_input_range", None)
    for name in ("_input_range", "_parts", "_first"):
        store.__dict__.pop(name, None)
    store.__class__ = CodedWeight  # type: ignore[assignment]
    store.dequantize_policy = policy
    store.drop_kept_()


def _learn_input_ranges_(stores: list[TrainedCodes], parts: LearnedParts) -> None:
    """One range for all layers that have the same now: they read one input. The first has it as a part, the others refer to it."""
    if parts.inputs == "fixed":
        return
    known: dict[tuple[float, float, int], LearnedInputRange] = {}
    for store in stores:
        scale, zero = store._buffers.get("input_scale"), store._buffers.get("input_zero")
        if scale is None or zero is None:
            continue
        bits = store.options["inputs"]["bits"]
        key = float(scale), float(zero), bits
        if key in known:
            object.__setattr__(store, "_input_range", known[key])
            continue
        del store._input_range
        store._input_range = known[key] = LearnedInputRange(scale, zero, bits, parts.inputs, parts.rate, math.prod(store.shape[1:]))


def _add_move(store: CodedWeight, name: str, shape: torch.Size, numbers: float) -> None:
    move = nn.Parameter(torch.zeros(shape, device=store.get_buffer("codes").device))
    move.register_hook(weaken_gradient(1 / math.sqrt(max(1.0, numbers))))
    store.register_parameter(name, move)


def _free_levels(store: CodedWeight, weights: int) -> None:
    """Levels become a parameter; one that is zero stays zero."""
    stored = store.get_buffer("levels")
    numbers = stored.float() * 2.0 ** (0 if store.options["scaled"] else store.options["exponent"])
    free, weaken = (numbers != 0).float(), 1 / math.sqrt(max(1, weights // numbers.numel()))
    trained = nn.Parameter(numbers)
    trained.register_hook(lambda gradient: gradient * free * weaken)
    store.register_parameter("numbers", trained)


def _find_largest_code(levels: Levels) -> float:
    """LSQ's Q_P: the largest multiple of the step above zero."""
    if isinstance(levels, Grid):
        return float(2**levels.bits - 1 if levels.zero is not None else max(1, 2 ** (levels.bits - 1) - 1))
    return 127.0 if isinstance(levels, IntegerGrid) else 1.0


def _store_zeros(moved: Tensor, grid: Grid) -> Tensor:
    assert grid.zero is not None
    if grid.zero.is_floating_point():
        return moved.half()
    return moved.round().clamp(0, 2**grid.bits - 1).to(grid.zero.dtype)


def _undo_parts(store: CodedWeight, original: Tensor) -> Tensor:
    """`original` as a matrix float32 (rows, columns) in the coordinates of the codes of `store`."""
    weight, parts = original.detach().flatten(1).float(), store._buffers
    left, right = parts.get("left"), parts.get("right")
    if left is not None and right is not None:
        weight = weight - left.float() @ right.float()
    if (factor := parts.get("columns")) is not None:
        weight = weight / torch.where(factor == 0, torch.ones_like(factor), factor).float()
    if (signs := parts.get("signs")) is not None:
        weight = rotate_columns(weight, unpack_codes(signs, 1, weight.shape[1]).float() * 2 - 1, store.options["rotation"])
    return weight


def _approach_original(start: Tensor, codes: Tensor, original: Tensor, levels: Levels) -> Tensor:
    """From the decoded weights `start` (rows, columns) as far to the original ones as the `codes` stay what they are."""
    if float(nn.functional.cosine_similarity(start.flatten(), original.flatten(), dim=0)) < _LIKE:
        return start  # it has been turned, folded or put into another order since
    found = start
    for share in _TRIES:
        tried = torch.lerp(start, original, share)
        found = torch.where(levels.encode(tried) == codes, tried, found)
    return found


def _take_rows(levels: Any, scale: Tensor | None, other: Tensor | None, latent: Tensor, index: Tensor) -> tuple[Any, ...]:
    """Levels, scales, zero-points or numbers, and latent weights of the rows at `index`."""

    def take(tensor: Tensor | None) -> Tensor | None:
        return tensor if tensor is None or len(tensor) == 1 else tensor[index]

    if isinstance(levels, Codebook):
        rows = len(latent)

        def take_tables(tables: Tensor) -> Tensor:
            return tables if len(tables) == 1 else tables.view(rows, -1, tables.shape[1])[index].flatten(0, 1)

        assert other is not None
        chosen = replace(levels, levels=take_tables(levels.levels), scale=take(levels.scale))
        return chosen, take(scale), take_tables(other), latent[index]
    if isinstance(levels, Grid):
        levels = replace(levels, scale=levels.scale if len(levels.scale) == 1 else levels.scale[index], zero=take(levels.zero))
    return levels, take(scale), take(other), latent[index]
