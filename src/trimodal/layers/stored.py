"""How a weight may be kept: a store holds the packed tensors and decodes them when called.

A store is a module of its own, so that two layers with tied weights can share one. Its kinds, and which tensors each
has, are those of `core/storage.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trimodal.layers.affine import BEYOND, Affine, NotAffine, fill_pruned_codes
from trimodal.layers.kept_weight import Held, WeightKeeper
from trimodal.maths.codebook import Codebook
from trimodal.maths.grid import Grid
from trimodal.maths.integers import IntegerGrid
from trimodal.maths.observers import fake_quantize, fake_quantize_dynamic
from trimodal.maths.packing import unpack_codes
from trimodal.maths.straight_through import round_inputs, round_inputs_dynamic
from trimodal.maths.transform import unrotate_columns

Levels = Grid | Codebook | IntegerGrid
LEVELS: dict[str, type[Levels]] = {"quantized": Grid, "codebook": Codebook, "integers": IntegerGrid}
_PARTS = ("signs", "columns", "left", "right", "outliers", "places", "input_scale", "input_zero")
_LARGEST_HALF = 65504.0


class StoredWeight(WeightKeeper):
    """A weight that is kept as something else, and decodes itself when it is called."""

    kind: str
    options: dict[str, Any]
    shape: torch.Size

    @property
    def decoded_weight(self) -> Tensor:
        """The weight, in its own shape: decoded now, or kept from before under the policy `speed`."""
        return self.recall("weight", self.forward)

    def forward(self) -> Tensor:
        """The weight, in its own shape, decoded now."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """What is stored, and whether it is kept decoded, for printing."""
        bits = f", {self.options['bits']} bits" if "bits" in self.options else ""
        kept = f" ({self.kept_bytes:,} bytes kept)" if self.dequantize_policy == "speed" else ""
        return f"{self.kind}{bits}, {list(self.shape)}, dequantize={self.dequantize_policy}{kept}"


class CodedWeight(StoredWeight):
    """Codes, and the numbers that they stand for: on a grid, from a codebook, or whole multiples of a step.

    Buffers are the tensors that `core/storage.py` lists for `kind` and `options`. Where the table of numbers is another
    store's, `share_table_` says whose: it is referred to and no submodule, so that it is counted, moved, trained and saved once.
    """

    table_of: CodedWeight | None = None

    def __init__(self, kind: str, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.kind = kind
        self.options = dict(options)
        self.shape = torch.Size(options["shape"])
        self._dtype: torch.dtype = getattr(torch, options["dtype"])
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the decoded weight."""
        return self._dtype

    @dtype.setter
    def dtype(self, dtype: torch.dtype) -> None:
        """Decode to `dtype` from now on."""
        self._dtype = dtype
        self.drop_kept_()

    def list_tensors_behind(self) -> Iterator[tuple[Held, str]]:
        """Where the tensors are of which the weight is made; a borrowed table is one of them."""
        yield from super().list_tensors_behind()
        if self.table_of is not None:
            yield from ((held, name) for held, name in self.table_of.list_tensors_behind() if name == "levels")

    @property
    def levels_and_codes(self) -> tuple[Levels, Tensor]:
        """The numbers that there are, and the codes (rows, columns)."""
        return LEVELS[self.kind].from_storage(self._effective_options(), self._storage_tensors(), math.prod(self.shape[1:]))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CodedWeight:
        """What `to`, `half`, `double` and the like do with every tensor: here a new type is that of the decoded weight. What is
        stored keeps its own, since scales in another type would be other scales."""
        like = next(iter(self._storage_tensors().values()), torch.empty(0))
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=like.device)).dtype

        def keep(tensor: Tensor) -> Tensor:
            new = fn(tensor)
            return new if new.dtype == tensor.dtype else tensor.to(new.device)

        super()._apply(keep, recurse)
        return self

    def share_table_(self, lender: CodedWeight) -> None:
        """Use the table of `lender`."""
        object.__setattr__(self, "table_of", lender)
        self.drop_kept_()

    def forward(self) -> Tensor:
        """The decoded weight, in its own shape."""
        return self._decode_weight(self._storage_tensors(), None).to(self.dtype).view(self.shape)

    def decode_rows(self, index: Tensor) -> Tensor:
        """The decoded rows (count, columns) at `index` int64 (count,); without a mask, the rest is not decoded."""
        if "kept" in self.options:
            whole: Tensor = self()
            return whole.flatten(1)[index]
        return self._decode_weight(LEVELS[self.kind].take_rows(self._storage_tensors(), index), index).to(self.dtype)

    def affine(self) -> Affine | NotAffine:
        """Codes, scales and zero-points with which the weight, in float32, is exactly scale · (codes − zero); or why not."""
        levels, codes = self.levels_and_codes
        if isinstance(levels, Codebook):
            return NotAffine("its codes name the numbers of a table, which are not evenly spaced")
        if isinstance(levels, IntegerGrid):
            return NotAffine("its codes are whole numbers meant for entropy coding, with a step for each column instead of each row")
        zero = levels.float_zeros() if levels.zero is not None and levels.zero.is_floating_point() else levels.float_zeros().int()
        codes, mask = codes.int(), self._buffers.get("mask")
        if mask is not None:
            codes = fill_pruned_codes(codes, zero, levels.group, unpack_codes(mask, 1, levels.columns).bool())
        found = Affine(codes, levels.float_scales(), zero, levels.bits, levels.group, tuple(self.shape))
        beyond = tuple(name for name in BEYOND if name in self.options)
        return NotAffine("; ".join(BEYOND[name] for name in beyond), beyond, found) if beyond else found

    @property
    def quantizes_inputs(self) -> bool:
        """Whether the layer's input is quantized too."""
        return "inputs" in self.options

    def channel_factors(self) -> Tensor | None:
        """The factor of every entry of the input float32, shaped so that it multiplies a row (n,) or an image (channels, 1 …); None
        where it has none."""
        factor = self._buffers.get("columns")
        if factor is None:
            return None
        if len(self.shape) > 2:  # a convolution's columns are channels × kernel, one factor per channel
            return factor.view(self.shape[1], -1)[:, 0].view(-1, *(1 for _ in self.shape[2:])).float()
        return factor[0].float()

    @property
    def input_dims(self) -> tuple[int, ...]:
        """Along which dimensions of the input one range per token is taken: a row, or a whole sample of a convolution."""
        return tuple(range(-1, -len(self.shape), -1)) if len(self.shape) > 2 else (-1,)

    def fake_quantize_input(self, x: Tensor) -> Tensor:
        """What an int8 runtime sees of the layer's input `x`, in the coordinates of `x`: quantize(x · columns) / columns.

        A runtime multiplies quantize(x · columns) by the codes' own weight; here the division stands with the input and
        the factor `columns` with the decoded weight, which gives the same products. Float32 sums differ from integer
        ones in the last bits only. `token` is a range per row of a linear layer and per sample of a convolution.
        """
        scaled, factor = x.float(), self.channel_factors()
        if factor is not None:
            scaled = scaled * factor
        seen = self._round_scaled_input(scaled)
        return (seen if factor is None else seen / factor).to(x.dtype)

    def _round_scaled_input(self, scaled: Tensor) -> Tensor:
        """The input float32, multiplied by its factors, through its grid. Where something before the layer is trained, gradients go
        through as if it had not been rounded."""
        bits = self.options["inputs"]["bits"]
        scale, zero = self._buffers.get("input_scale"), self._buffers.get("input_zero")
        trained = scaled.requires_grad and torch.is_grad_enabled()
        if scale is None or zero is None:
            dynamic = round_inputs_dynamic if trained else fake_quantize_dynamic
            return dynamic(scaled, bits, self.input_dims)
        static = round_inputs if trained else fake_quantize
        return static(scaled, scale.view(()), zero.view(()).float(), bits)

    @property
    def table(self) -> Tensor:
        """The levels (tables, 2^bits), its own or those that it borrows."""
        return self._storage_tensors()["levels"]

    @property
    def has_own_levels(self) -> bool:
        """Whether its levels are its own, found by k-means, and not a table known by name or another's."""
        if self.kind != "codebook" or self.options["tables"] == "borrowed":
            return False
        return self.options["tables"] == "tower" or not self.options["scaled"]

    def unfreeze_levels_(self) -> None:
        """Turn the levels into a float32 parameter, so that the numbers that weights share can be trained. A level that
        is zero stays zero."""
        self._stored_exponent: int = 0 if self.options["scaled"] else self.options["exponent"]  # else it is the scale's
        levels = self.get_buffer("levels").float() * 2.0**self._stored_exponent
        self.options["exponent"] -= self._stored_exponent
        del self._buffers["levels"]
        trained, free = nn.Parameter(levels), levels != 0
        trained.register_hook(lambda gradient: gradient * free)
        self.register_parameter("levels", trained)

    def freeze_levels_(self) -> None:
        """Turn the trained levels into what is stored, float16 times the power of two that the codebook had."""
        levels = self.get_parameter("levels").detach() * 2.0**-self._stored_exponent
        self.options["exponent"] += self._stored_exponent
        del self._parameters["levels"]
        self.register_buffer("levels", levels.clamp(-_LARGEST_HALF, _LARGEST_HALF).half())

    def _storage_tensors(self) -> dict[str, Tensor]:
        found = (*self._buffers.items(), *self._parameters.items())
        lent = {} if self.table_of is None else {"levels": self.table_of.table}
        return {**{name: t for name, t in found if t is not None and name not in _PARTS}, **lent}

    def _effective_options(self) -> dict[str, Any]:
        """The options, with the power of two that the other's levels are in now."""
        if self.table_of is None or self.options["scaled"]:
            return self.options
        return {**self.options, "exponent": self.table_of.options["exponent"]}

    def _decode_weight(self, tensors: Mapping[str, Tensor], index: Tensor | None) -> Tensor:
        columns = math.prod(self.shape[1:])
        levels, codes = LEVELS[self.kind].from_storage(self._effective_options(), tensors, columns)
        return self._apply_parts(levels.decode(codes), index)

    def _apply_parts(self, weight: Tensor, index: Tensor | None) -> Tensor:
        """What the codes decode to, `weight` (rows, columns), with what is applied after that; only the rows at `index` are there
        if it is given."""
        columns, parts = math.prod(self.shape[1:]), self._buffers
        if (signs := parts.get("signs")) is not None:
            weight = unrotate_columns(weight, unpack_codes(signs, 1, columns).float() * 2 - 1, self.options["rotation"])
        if (scale := parts.get("columns")) is not None:
            weight = weight * scale.float()
        if (mask := parts.get("mask")) is not None:
            kept = unpack_codes(mask, 1, columns)
            return weight * (kept if index is None else kept[index])
        left, right = parts.get("left"), parts.get("right")
        if left is not None and right is not None:
            weight = weight + (left if index is None else left[index]).float() @ right.float()
        outliers, places = parts.get("outliers"), parts.get("places")
        if outliers is not None and places is not None:
            weight = _insert_outliers(weight, outliers.float(), places.long(), self.shape[0], index)
        return weight


def _insert_outliers(weight: Tensor, values: Tensor, places: Tensor, rows: int, index: Tensor | None) -> Tensor:
    """`weight` with `values` at the flat `places` of the whole; only the rows at `index` are there if it is given."""
    if index is None:
        return weight.flatten().scatter(0, places, values).view_as(weight)
    whole = weight.new_full((rows * weight.shape[1],), torch.nan).scatter(0, places, values)
    found = whole.view(rows, -1)[index]
    return torch.where(found.isnan(), weight, found)


class SparseWeight(StoredWeight):
    """The kept weights in order, and one bit per weight that says whether it was kept.

    `values` (kept,) is a parameter, so that recovery may train the survivors while the mask holds; `mask` is uint8
    (rows, bytes per row).
    """

    mask: Tensor

    def __init__(self, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.kind = "sparse"
        self.options = dict(options)
        self.shape = torch.Size(options["shape"])
        self.values = nn.Parameter(tensors["values"], requires_grad=tensors["values"].is_floating_point())
        self.register_buffer("mask", tensors["mask"])

    @property
    def kept_mask(self) -> Tensor:
        """The mask (rows, columns), True for the kept weights."""
        return unpack_codes(self.mask, 1, math.prod(self.shape[1:])).bool()

    def affine(self) -> NotAffine:
        """Why the weight has no affine form."""
        return NotAffine("its kept weights are stored as plain numbers beside a mask, without codes")

    def forward(self) -> Tensor:
        """The dense weight, in its own shape."""
        kept = self.kept_mask
        dense = torch.zeros(kept.shape, dtype=self.values.dtype, device=self.values.device)
        return dense.masked_scatter(kept, self.values).view(self.shape)

    def decode_rows(self, index: Tensor) -> Tensor:
        """The dense rows (count, columns) at `index` int64 (count,)."""
        dense: Tensor = self()
        return dense.flatten(1)[index]


Store = CodedWeight | SparseWeight


def make_weight_store(kind: str, options: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Store:
    """The store of `kind`, holding `tensors` of the shapes and dtypes in `core/storage.py`."""
    return SparseWeight(options, tensors) if kind == "sparse" else CodedWeight(kind, options, tensors)
