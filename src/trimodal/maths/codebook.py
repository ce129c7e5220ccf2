"""Codebooks: a weight may take one of 2^b numbers that need not be evenly spaced.

    ŵ = levels[code] · s

Fixed tables are known by name, stored once per tensor, and scaled per group so that their largest number meets the
group's largest weight:

    nf    quantiles of the normal distribution, zero among them (Dettmers et al. 2023, QLoRA, arXiv 2305.14314)
    sf    quantiles of Student's t with 5 degrees of freedom, likewise (Dotzel et al. 2024, arXiv 2405.03103): heavier tails
    fp    small floats: one sign bit, then exponent and mantissa (at 4 bits 0, ½, 1, 1½, 2, 3, 4, 6)
    pot   powers of two, 1, ½, ¼ … and 0 (Miyashita, Lee, Murmann 2016, arXiv 1603.01025)
    log   powers of √2, the same at twice the density

`kmeans` learns its numbers from the weights, each counted with its importance; one table per tensor, row or group (Han,
Mao, Dally 2016, arXiv 1510.00149; weighted after Kim et al. 2024, SqueezeLLM, arXiv 2306.07629). Its tables are stored in
float16 and cost 16·2^b bits each. 0 is among its numbers only where so many weights are 0 that they fill a level of
their own.

Several weights may share one table (`fit_shared_table`). Then each counts by its relative error: the importances of W are
divided by Σ c·w², so that layers with large and small weights, seen on data or not, can be fitted together. With a scale per group
beside the table its numbers are those of w over its group's largest weight, stretched until the largest of them is 1, and
each weight's scales are chosen as for a fixed table. Of a weight with many entries those that fall into one of
65,536 equal intervals stand together, at their mean, which bounds memory.

By hand. Weights (0, 0.1, 0.9, 1) with importances (1, 1, 3, 1), two levels: of the three cuts the one into 2 + 2 leaves
least: 0.005 + 0.0075; means 0.05 and (3·0.9 + 1)/4 = 0.925 are the levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from trimodal.core.storage import group_size
from trimodal.maths.grid import Rounder, expand_groups, to_half_scales
from trimodal.maths.kmeans import kmeans, nearest_levels
from trimodal.maths.packing import decode_codes, pack_codes

Table = Literal["nf", "sf", "fp", "pot", "log", "kmeans"]
Per = Literal["tensor", "channel", "group", "tower", "borrowed"]
TABLES: tuple[Table, ...] = get_args(Table)
_INTERVALS = 2**16
_SHRINK = torch.linspace(1.0, 0.5, 21).tolist()
_FP_EXPONENT_BITS = {2: 1, 3: 2, 4: 2, 5: 2, 6: 3, 7: 3, 8: 4}
_NF_TAIL = 0.9677083  # QLoRA's: the mean of 1 − 1/32 and 1 − 1/30, so that both ends of the normal get the same share


@dataclass(frozen=True)
class Codebook:
    """Levels float16 (tables, 2^bits), ascending, and for fixed and shared tables a scale per group, float16 (rows, groups).

    The scale, or where there is none the levels, are to be multiplied by 2^`exponent`. There is one table per
    `tensor`, per row (`channel`) or per `group` of columns; or one that several weights use (`tower`), which is stored
    with one of them and `borrowed` by the others.
    """

    levels: Tensor
    scale: Tensor | None
    exponent: int
    bits: int
    group: int
    columns: int
    per: Per

    kind = "codebook"

    def _float_levels(self) -> Tensor:
        """The levels as floats, (1, 1, 2^b), (rows, 1, 2^b) or (rows, groups, 2^b)."""
        levels = self.levels.float() * (1.0 if self.scale is not None else 2.0**self.exponent)
        groups = -(-self.columns // self.group) if self.per == "group" else 1
        return levels.view(-1, groups, levels.shape[1])

    def _float_scale(self) -> Tensor | None:
        return None if self.scale is None else self.scale.float() * 2.0**self.exponent

    def select_rows(self, rows: slice) -> Codebook:
        """The codebook of these rows alone."""
        levels = self.levels
        if len(levels) > 1:
            per_row = -(-self.columns // self.group) if self.per == "group" else 1
            levels = levels.view(-1, per_row, levels.shape[1])[rows].flatten(0, 1)
        return replace(self, levels=levels, scale=None if self.scale is None else self.scale[rows])

    def encode(self, weight: Tensor) -> Tensor:
        """Codes uint8 (rows, columns) of the levels nearest to `weight`."""
        scale, levels = self._float_scale(), self._float_levels()
        if scale is not None:
            weight = weight / expand_groups(scale, self.group, self.columns)
        codes = torch.empty(weight.shape, dtype=torch.int64, device=weight.device)
        size = self.group if self.per == "group" else self.columns
        for number in range(levels.shape[1]):
            part = slice(number * size, (number + 1) * size)
            codes[:, part] = nearest_levels(weight[:, part], levels[:, number])
        return self.as_codes(codes)

    def decode(self, codes: Tensor) -> Tensor:
        """The numbers float32 (rows, columns) that `codes` stand for."""
        levels, scale, at = self._float_levels(), self._float_scale(), codes.long()
        if levels.shape[:2] == (1, 1):
            found = levels[0, 0][at]
        else:
            size = self.group if self.per == "group" else self.columns
            parts = at.split(size, dim=1)
            found = torch.cat([levels[:, g].gather(1, part) for g, part in enumerate(parts)], dim=1)
        return found if scale is None else found * expand_groups(scale, self.group, self.columns)

    def make_rounder(self) -> Rounder:
        """A function from one column (rows,) and its number to codes and values (rows,) of the nearest levels."""
        levels = self._float_levels().transpose(0, 1).contiguous()  # (groups, rows or 1, 2^b)
        found = self._float_scale()
        scale = None if found is None else found.T.contiguous()
        several = len(levels) > 1

        def nearest(column: Tensor, number: int) -> tuple[Tensor, Tensor]:
            table = levels[number // self.group if several else 0]
            s = None if scale is None else scale[number // self.group]
            codes = nearest_levels((column if s is None else column / s)[:, None], table)
            values = (table[0][codes] if len(table) == 1 else table.gather(1, codes))[:, 0]
            return codes[:, 0], values if s is None else values * s

        return nearest

    def as_codes(self, codes: Tensor) -> Tensor:
        """Whole numbers (rows, columns) as the dtype that codes have: uint8."""
        return codes.to(torch.uint8)

    def storage_options(self) -> dict[str, Any]:
        """What storage says of it; see `core/storage.py`."""
        return {
            "bits": self.bits, "group": self.group, "exponent": self.exponent, "tables": self.per,
            "scaled": self.scale is not None,
        }  # fmt: skip

    def storage_tensors(self, codes: Tensor) -> dict[str, Tensor]:
        """The tensors to store for `codes` (rows, columns), of the shapes and dtypes in `core/storage.py`."""
        found = {"codes": pack_codes(codes, self.bits)}
        if self.per != "borrowed":
            found["levels"] = self.levels.contiguous()
        return found if self.scale is None else {**found, "scale": self.scale.contiguous()}

    @staticmethod
    def from_storage(options: Mapping[str, Any], tensors: Mapping[str, Tensor], columns: int) -> tuple[Codebook, Tensor]:
        """The codebook and the codes (rows, columns) that `options` and `tensors` hold."""
        book = Codebook(tensors["levels"], tensors.get("scale"), options["exponent"], options["bits"],
                        options["group"], columns, options["tables"])  # fmt: skip
        return book, decode_codes(options, tensors, columns)

    @staticmethod
    def take_rows(tensors: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
        """The tensors of only the rows at `index` int64 (count,)."""
        rows, levels = len(tensors["codes"]), tensors["levels"]
        found = {name: t[index] for name, t in tensors.items() if name != "levels"}
        if len(levels) > 1:
            levels = levels.view(rows, -1, levels.shape[1])[index].flatten(0, 1)
        return {**found, "levels": levels}


def make_fixed_table(name: Table, bits: int) -> Tensor:
    """The numbers float32 (2^bits,) of a fixed table, ascending, the largest magnitude 1."""
    if name == "nf":
        found = _make_quantile_table(bits, torch.special.ndtri)
    elif name == "sf":
        found = _make_quantile_table(bits, _find_student_quantile)
    elif name == "fp":
        found = _make_float_table(bits)
    else:
        steps = torch.arange(2 ** (bits - 1), dtype=torch.float64) * (1.0 if name == "pot" else 0.5)
        powers = 2.0**-steps
        found = torch.cat([powers, -powers[:-1], torch.zeros(1, dtype=torch.float64)])
    return (found / found.abs().max()).sort().values.float()


def find_table_name(levels: Tensor) -> Table | None:
    """The fixed table whose numbers the float16 `levels` (2^b,) are, None if they are those of none."""
    bits = len(levels).bit_length() - 1
    named = (name for name in TABLES if name != "kmeans" and bits >= 2)
    return next((name for name in named if make_fixed_table(name, bits).half().equal(levels.half().cpu())), None)


def _make_quantile_table(bits: int, quantile: Callable[[Tensor], Tensor]) -> Tensor:
    half_of = 2 ** (bits - 1)
    probabilities = torch.linspace(_NF_TAIL, 0.5, half_of + 1, dtype=torch.float64)[:-1]
    fewer = torch.linspace(_NF_TAIL, 0.5, half_of, dtype=torch.float64)[:-1]
    return torch.cat([quantile(probabilities), torch.zeros(1, dtype=torch.float64), -quantile(fewer)])


def _find_student_quantile(probabilities: Tensor) -> Tensor:
    """Where Student's t with 5 degrees of freedom has passed `probabilities` (n,), ½ or more: √5·tan θ, θ found by bisection."""
    low, high = torch.zeros_like(probabilities), torch.full_like(probabilities, torch.pi / 2)
    for _ in range(60):
        angle = (low + high) / 2
        passed = 0.5 + (angle + angle.sin() * angle.cos() * (1 + angle.cos().square() * 2 / 3)) / torch.pi
        low, high = torch.where(passed < probabilities, angle, low), torch.where(passed < probabilities, high, angle)
    return 5**0.5 * low.tan()


def _make_float_table(bits: int) -> Tensor:
    """All values of a float without infinities; zero stands twice, so one code is never used."""
    exponents = _FP_EXPONENT_BITS[bits]
    mantissas = 2 ** (bits - 1 - exponents)
    e, m = torch.meshgrid(torch.arange(2**exponents), torch.arange(mantissas), indexing="ij")
    normal = (1 + m / mantissas) * 2.0 ** (e - 1)
    positive = torch.where(e == 0, m / mantissas, normal).flatten().double()  # e = 0: subnormal
    return torch.cat([positive, -positive])


def fit_codebook(
    weight: Tensor, bits: int, group: int | str, name: Table, clip: str = "mse", importance: Tensor | None = None,
    kept: Tensor | None = None,
) -> Codebook:  # fmt: skip
    """Choose scales of a fixed table, or with `kmeans` the levels, for `weight` (rows, columns).

    `importance` (columns,) counts each column's weights in k-means, such as the diagonal of the second moment. With the
    mask `kept` (rows, columns) only those weights need a level; k-means then leaves the others out, and spends no level
    on zero. `clip` is `max`, or otherwise scales are searched per group for the least Σ(w − ŵ)²; fixed tables only.
    """
    if name == "kmeans":
        return _learn_codebook(weight, bits, group, importance, kept)
    return _fit_scales(weight, make_fixed_table(name, bits).to(weight.device), bits, group, clip, "tensor")


def fit_to_table(
    weight: Tensor, levels: Tensor, bits: int, group: int | str, per: Per, clip: str = "mse",
    importance: Tensor | None = None, kept: Tensor | None = None,
) -> Codebook:  # fmt: skip
    """The codebook of `weight` (rows, columns) with `levels` (2^bits,) that are shared and known, from `fit_shared_table`.

    With the group `tower` there is no scale beside them, else one per group. `importance` and `kept` as in `fit_codebook`.
    """
    if group == "tower":
        stored, exponent = to_half_scales(levels, levels == 0)
        stored = stored.masked_fill(levels == 0, 0.0)
        return Codebook(stored[None], None, exponent, bits, weight.shape[1], weight.shape[1], per)
    return _fit_scales(weight, levels, bits, group, clip, per, _importance_counts(weight, importance, kept))


def _fit_scales(
    weight: Tensor, levels: Tensor, bits: int, group: int | str, clip: str, per: Per, counts: Tensor | None = None
) -> Codebook:
    """A scale per group for `levels` (2^bits,) of largest magnitude 1; each weight counts as `counts` (rows, columns) say."""
    columns = weight.shape[1]
    groups, size = _split_groups(weight, group)
    largest = _largest_magnitudes(groups, group)
    empty = (groups == 0).all(dim=1)
    scale = largest.masked_fill(largest == 0, 1.0)
    if clip != "max" and group != "tensor":
        scale = _search_scale(groups, scale, levels, None if counts is None else _split_groups(counts, group)[0])
    stored, exponent = to_half_scales(scale, empty)
    return Codebook(levels.half()[None], stored.view(len(weight), -1), exponent, bits, size, columns, per)


def _split_groups(weight: Tensor, group: int | str) -> tuple[Tensor, int]:
    """`weight` (rows, columns) as one row per group, (n, size), filled up with zeros; and the size."""
    size = group_size(group, weight.shape[1])
    return torch.nn.functional.pad(weight.float(), (0, -weight.shape[1] % size)).view(-1, size), size


def _largest_magnitudes(groups: Tensor, group: int | str) -> Tensor:
    """The largest magnitude (n,) per row of `groups` (n, size), or of all."""
    largest = groups.abs().amax(dim=1)
    return largest.max().expand_as(largest) if group == "tensor" else largest


def _search_scale(groups: Tensor, scale: Tensor, levels: Tensor, counts: Tensor | None = None) -> Tensor:
    """The scale (n,) per row of `groups` (n, size) with the least squared error, among shrunken ones."""
    best, least = scale, torch.full_like(scale, float("inf"))
    for factor in _SHRINK:
        tried = scale * factor
        codes = nearest_levels(groups / tried[:, None], levels[None])
        squares = (levels[codes] * tried[:, None] - groups).square_()
        error = (squares if counts is None else squares.mul_(counts)).sum(dim=1)
        better = error < least
        best, least = torch.where(better, tried, best), torch.where(better, error, least)
    return best


def _learn_codebook(
    weight: Tensor, bits: int, group: int | str, importance: Tensor | None, kept: Tensor | None = None
) -> Codebook:
    columns = weight.shape[1]
    counted = _importance_counts(weight, importance, kept)
    per: Per = "group"
    size = group_size(group, columns)
    if group == "tensor":
        per, values, counts = "tensor", weight.reshape(1, -1), counted.reshape(1, -1)
    elif size == columns:
        per, values, counts = "channel", weight, counted
    else:
        padding = (0, -columns % size)
        values = torch.nn.functional.pad(weight, padding).view(-1, size)
        counts = torch.nn.functional.pad(counted, padding).reshape(-1, size)  # padding counts for nothing
    if kept is not None:  # tables without a weight get levels too, which no code uses
        counts = counts.masked_fill((counts == 0).all(dim=1, keepdim=True), 1.0)
    levels = _snap_to_zero(kmeans(values.float(), counts, 2**bits), values, counts)
    stored, exponent = to_half_scales(levels.flatten(), levels.flatten() == 0)
    stored = stored.view_as(levels).masked_fill(levels == 0, 0.0).sort(dim=1).values
    return Codebook(stored, None, exponent, bits, size, columns, per)


def _importance_counts(weight: Tensor, importance: Tensor | None, kept: Tensor | None) -> Tensor:
    """What each of `weight` (rows, columns) counts: nothing outside of the mask, else more than nothing."""
    counted = torch.ones(weight.shape[1], device=weight.device) if importance is None else importance.float()
    counted = counted.clamp(min=1e-6 * float(counted.max()) or 1e-30).expand(len(weight), -1)
    return counted if kept is None else counted * kept


@dataclass(frozen=True)
class CodebookSamples:
    """What one weight puts into a table that it shares: `values` (k,), what each counts, and how many weights it stands for."""

    values: Tensor
    counts: Tensor
    numbers: Tensor


def gather_codebook_samples(
    weight: Tensor, group: int | str, importance: Tensor | None = None, kept: Tensor | None = None
) -> CodebookSamples:
    """What `weight` (rows, columns) puts into a shared table that has a scale per `group` beside it (`tower`: none)."""
    values, counts = weight.double(), _importance_counts(weight, importance, kept).double()
    energy = float((counts * values.square()).sum())
    if group != "tower":
        groups, _ = _split_groups(weight, group)
        largest = _largest_magnitudes(groups, group).double()[:, None]
        values = (groups / largest.clamp(min=1e-300)).double()
        counts = _split_groups(counts, group)[0] * largest.square()  # an error at scale s counts s² times; none where all is 0
    used = counts > 0
    values, counts = values[used], counts[used] / (energy or 1.0)
    if len(values) <= _INTERVALS:
        return CodebookSamples(values, counts, torch.ones_like(counts))
    low, high = float(values.min()), float(values.max())
    width = (high - low) / _INTERVALS or 1.0
    at = ((values - low) / width).long().clamp_(0, _INTERVALS - 1).masked_fill_(values == 0, _INTERVALS)
    mass, moment, numbers = (
        torch.bincount(at, weights, minlength=_INTERVALS + 1) for weights in (counts, counts * values, torch.ones_like(counts))
    )
    there = mass > 0
    return CodebookSamples((moment / mass)[there], mass[there], numbers[there])


def fit_shared_table(crowds: Sequence[CodebookSamples], bits: int, scaled: bool) -> Tensor:
    """The numbers (2^bits,), ascending, for all that the `crowds` hold; with `scaled` the largest magnitude is 1."""
    values, counts, numbers = (torch.cat([getattr(one, name) for one in crowds]) for name in ("values", "counts", "numbers"))
    if not len(values):
        return torch.linspace(-1, 1, 2**bits)
    levels = kmeans(values[None], counts[None], 2**bits)
    if float(numbers[values == 0].sum()) * 2**bits >= float(numbers.sum()):
        levels = levels.scatter(1, levels.abs().argmin(dim=1, keepdim=True), 0.0)
    levels = levels[0].sort().values
    return levels / levels.abs().max().clamp(min=1e-30) if scaled else levels


def _snap_to_zero(levels: Tensor, values: Tensor, counts: Tensor) -> Tensor:
    """`levels` (t, k) with the one nearest to 0 at 0, in rows where the zeros of `values` are enough for a level of their
    own: pruned weights stay pruned."""
    counted = counts > 0
    zeros = ((values == 0) & counted).sum(dim=1) * levels.shape[1] >= counted.sum(dim=1)
    nearest = torch.zeros_like(levels, dtype=torch.bool).scatter(1, levels.abs().argmin(dim=1, keepdim=True), True)
    return levels.masked_fill(nearest & zeros[:, None], 0.0)
