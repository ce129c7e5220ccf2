"""A target: a runtime on a kind of machine, and what it takes, as data.

`targets/*.yaml` hold one each. A file says per kind of layer which weights the target takes, as a list of rules of which **the
first that fits decides**, and what it does with whatever is applied beside the codes (`parts`) or changes the network itself
(`structure`). The words are those of `core/stored_site.py`, so that a forecast, an artifact and a weight about to be exported
are all asked about in the same way:

    linear:
    - {types: [u8], grids: [positive, signed], groups: [channel, tensor], inputs: [static], level: native, why: …}

reads: a linear layer's codes of up to 8 bits on an evenly spaced grid without zero-points, with a scale per row or one in all,
whose inputs are quantized with a range known beforehand, are written as unsigned bytes and multiplied as they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trimodal.core.stored_site import GRIDS, InputMode, StoredInput, StoredSite, StoredWeight
from trimodal.machine import VECTORS, instruction_sets
from trimodal.targets.answer import Answer, Level, combine_answers

LayerKind = Literal["linear", "conv", "embedding", "norm", "experts"]
Format = Literal["onnx", "openvino", "litert", "executorch", "compressed-tensors"]
Device = Literal["cpu", "gpu", "browser", "phone"]
_TYPE = re.compile(r"[su]([1-9]|1[0-6])")
_OR = " or "


@dataclass(frozen=True)
class Support:
    """What the target does with one thing, why, where that is known from, and what a user should know all the same."""

    level: Level
    why: str
    source: str = ""
    caution: str = ""


@dataclass(frozen=True)
class WeightRule:
    """Weights that the target takes in one way.

    Attributes:
        types: of the codes in the file, `u` unsigned or `s` signed, with their bits. Fewer bits go into the next wider type.
        grids: names of grids, as in `core/stored_site.py`.
        groups: what may share a scale: `channel`, `tensor`, `column`, numbers of columns, or `any`.
        inputs: how the layer's input may be quantized; `none` where it is not.
        level: how it is taken, which of other levels than `native` `why` explains.
        why: the reason, or the operation that computes it.
        source: where that is known from.
        input_bits: bits of the quantized input, at most.
        least_bits: bits per weight from which on the rule holds; fewer are another rule's.
        float_zero: whether zero-points need not be whole numbers.
        whole_groups: whether the columns must be a multiple of the group.
        rows_multiple: what the rows must be a multiple of.
        columns_multiple: what the columns must be a multiple of.
        caution: what a user should know all the same.
    """

    types: tuple[str, ...]
    grids: tuple[str, ...]
    groups: tuple[int | str, ...]
    inputs: tuple[InputMode | Literal["none"], ...]
    level: Level
    why: str
    source: str = ""
    input_bits: int = 8
    least_bits: int = 1
    float_zero: bool = False
    whole_groups: bool = False
    rows_multiple: int = 1
    columns_multiple: int = 1
    caution: str = ""

    def __post_init__(self) -> None:
        _expect_all("types", self.types, lambda t: bool(_TYPE.fullmatch(t)), "u or s and bits, such as u8 or s4")
        _expect_all("grids", self.grids, lambda g: g in GRIDS, f"of {', '.join(GRIDS)}")
        words = ("any", "channel", "tensor", "column")
        _expect_all("groups", self.groups, lambda g: g in words if isinstance(g, str) else g > 0, f"a number or of {', '.join(words)}")

    def choose_type(self, bits: int) -> str | None:
        """The narrowest type that holds codes of `bits` bits, None where there is none."""
        return min((t for t in self.types if _bits_of(t) >= bits), key=_bits_of, default=None)

    def list_misfits(self, weight: StoredWeight, inputs: StoredInput | None, shape: tuple[int, ...]) -> list[str]:
        """Why this rule is not for such a weight with such inputs, in words; empty where it is."""
        return [*self._list_weight_misfits(weight), *self._list_shape_misfits(weight, shape), *self._list_input_misfits(inputs)]

    def count_misfits(self, weight: StoredWeight, inputs: StoredInput | None, shape: tuple[int, ...]) -> tuple[int, int]:
        """How far this rule is from such a weight: what is wrong with its inputs, then what is wrong in all."""
        return len(self._list_input_misfits(inputs)), len(self.list_misfits(weight, inputs, shape))

    def _list_weight_misfits(self, weight: StoredWeight) -> list[str]:
        found = []
        if weight.grid not in self.grids:
            found.append(f"the grid is {weight.grid}, not {_join(self.grids)}")
        if self.choose_type(weight.bits) is None:
            found.append(f"{weight.bits} bits per weight, at most {max(map(_bits_of, self.types))} fit")
        if weight.bits < self.least_bits:
            found.append(f"{weight.bits} bits per weight, not {self.least_bits} or more")
        if weight.group not in self.groups and "any" not in self.groups:
            found.append(f"scales {_per([weight.group])}, not {_per(self.groups)}")
        if weight.zero_point == "float16" and not self.float_zero:
            found.append("zero-points that are not whole numbers")
        return found

    def _list_shape_misfits(self, weight: StoredWeight, shape: tuple[int, ...]) -> list[str]:
        if not shape:
            return []
        rows, columns, found = shape[0], _product(shape[1:]), []
        if self.whole_groups and isinstance(weight.group, int) and columns % weight.group:
            found.append(f"{columns} columns are no multiple of the group of {weight.group}")
        for count, step, name in ((rows, self.rows_multiple, "rows"), (columns, self.columns_multiple, "columns")):
            if count % step:
                found.append(f"{count} {name} are no multiple of {step}")
        return found

    def _list_input_misfits(self, inputs: StoredInput | None) -> list[str]:
        mode = "none" if inputs is None else inputs.mode
        if mode not in self.inputs:
            taken = [_MODES[other] for other in self.inputs if other != "none"]
            if not taken:
                return ["inputs may not be quantized"]
            return [f"inputs {'must be quantized' if mode == 'none' else f'quantized {_MODES[mode]}, not'} {_join(taken)}"]
        if inputs is not None and inputs.bits > self.input_bits:
            return [f"inputs of {inputs.bits} bits, not {self.input_bits}"]
        return []


@dataclass(frozen=True)
class Parts:
    """What the target does with what is applied beside the codes; named as in `core/stored_site.py`. `pruned_codes` are the codes
    of a pruned weight, `pruned_floats` its plain numbers."""

    scaled_columns: Support
    rotated_columns: Support
    correction_rank: Support
    outliers: Support
    pruned_codes: Support
    pruned_floats: Support


@dataclass(frozen=True)
class Structure:
    """What the target does with a network that was changed: layers made of factors, layers that use another's weight, dimensions
    that were cut, blocks that are gone, tokens that are merged while it runs."""

    factors: Support
    shared_weights: Support
    cut_units: Support
    dropped_blocks: Support
    merged_tokens: Support


@dataclass(frozen=True)
class FloatOperator:
    """An operator that stays in float on this target, and why."""

    operator: str
    why: str
    source: str = ""


@dataclass(frozen=True)
class Simulation:
    """What the runtime computes beside what the simulation in PyTorch computes, so that both can be held against each other.

    Attributes:
        input_type: of quantized inputs in the runtime; the simulation's codes are `u8`, those of `s8` are less by 128.
        scale_type: in which the file keeps the scales; the simulation's are float16 · 2^e, which float32 holds exactly.
        sums: in what products are added up: `int32` is exact, `int16` saturates.
        equal: whether a layer that is fed the simulation's input gives its output up to float rounding, in `native` rules.
        differs: what the runtime does otherwise, in words.
    """

    input_type: Literal["u8", "s8", "none"]
    scale_type: Literal["float32", "float16"]
    sums: Literal["int32", "int16", "float"]
    equal: bool
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Note:
    """Something else worth knowing, and where it is known from."""

    text: str
    source: str


@dataclass(frozen=True)
class Target:
    """One target, as its file says it.

    `instructions` are all needed; `a or b` stands for either. For a machine that has one of `without` another target is meant,
    though this one runs there too. `weights` are rules per kind of layer, of which the first that fits decides. `input_cautions`
    say what becomes of inputs that are quantized in a way that the runtime has no operation for.
    """

    name: str
    about: str
    format: Format
    runtime: str
    device: Device
    weights: Mapping[Literal["linear", "conv", "embedding"], tuple[WeightRule, ...]]
    parts: Parts
    structure: Structure
    simulation: Simulation
    instructions: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    input_cautions: Mapping[InputMode, str] = field(default_factory=dict)
    float_operators: tuple[FloatOperator, ...] = ()
    notes: tuple[Note, ...] = field(default=())

    def __post_init__(self) -> None:
        named = [one for needed in self.instructions for one in needed.split(_OR)] + list(self.without)
        _expect_all("instructions", named, lambda one: one in VECTORS, f"of {', '.join(VECTORS)}")

    def answer_site(self, layer: LayerKind, site: StoredSite) -> Answer:
        """How this target takes what is stored at a `site` of a kind of `layer`."""
        answers = [self._answer_weight(layer, site)] if site.weight else []
        return combine_answers([*answers, *(_answer(support) for support in self._list_supports(site))])

    def answer_change(self, change: Literal["cut_units", "dropped_blocks", "merged_tokens"]) -> Answer:
        """How this target takes a network that was changed so."""
        support: Support = getattr(self.structure, change)
        return _answer(support)

    def refuse_storage(
        self, layer: LayerKind, weight: StoredWeight | None, inputs: StoredInput | None = None, **parts: Any
    ) -> str | None:
        """Why this target cannot take a weight that is stored so, None if it can; `parts` are fields of `StoredSite`."""
        answer = self.answer_site(layer, _make_site(weight, inputs, parts))
        return answer.text if answer.level == "refused" else None

    def explain_decoding(
        self, layer: LayerKind, weight: StoredWeight | None, inputs: StoredInput | None = None, **parts: Any
    ) -> str | None:
        """Why what is stored so is taken, but decoded to float when it is loaded; None if it is not, or not taken."""
        answer = self.answer_site(layer, _make_site(weight, inputs, parts))
        return answer.text if answer.level == "decoded" else None

    @property
    def unsigned(self) -> bool:
        """Whether 8-bit codes of linear layers with quantized inputs are written without a sign, around 128."""
        types = (rule.types[0] for rule in self.weights.get("linear", ()) if "static" in rule.inputs)
        return next(types, "s8").startswith("u")

    def explain_misfit(self, have: Collection[str] | None = None) -> str | None:
        """Why this machine, or one that has the instructions `have`, is not of the kind that is meant; None if it is, or if this
        machine is not where it would run."""
        if self.device != "cpu":
            return None
        have = instruction_sets() if have is None else have
        missing = [needed for needed in self.instructions if not set(needed.split(_OR)) & set(have)]
        if missing:
            return f"{self.name} needs {_join(missing, 'and')}, and the processor has {_join(list(have), 'and')}"
        if better := [one for one in self.without if one in have]:
            return f"{self.name} is for processors without {better[0]}, and this one has it; another target fits it better"
        return None

    def machine_fits(self, have: Collection[str] | None = None) -> bool:
        """Whether this machine, or one that has the instructions `have`, is of the kind that is meant."""
        return self.explain_misfit(have) is None

    def _answer_weight(self, layer: LayerKind, site: StoredSite) -> Answer:
        weight = site.weight
        rules = self.weights.get(layer, ()) if layer != "norm" and layer != "experts" else ()
        if weight is None or not rules:
            return Answer("refused", (f"{self.name} takes no quantized weight of {_LAYERS[layer]}",))
        rule = min(rules, key=lambda rule: rule.count_misfits(weight, site.input, site.shape))  # the first that fits, else the nearest
        wrong = rule.list_misfits(weight, site.input, site.shape)
        if wrong:
            asked = f" with inputs quantized {_MODES[site.input.mode]}" if site.input else ""
            return Answer("refused", (f"{_LAYERS[layer]}{asked}: {_join(wrong, 'and')}",))
        return _answer_by_rule(rule, weight, self.input_cautions.get(site.input.mode, "") if site.input else "")

    def _list_supports(self, site: StoredSite) -> list[Support]:
        parts, coded = self.parts, site.weight is not None
        asked = (
            (site.scaled_columns, parts.scaled_columns),
            (site.rotated_columns is not None, parts.rotated_columns),
            (site.correction_rank is not None, parts.correction_rank),
            (site.outliers is not None, parts.outliers),
            (site.kept is not None and coded, parts.pruned_codes),
            (site.kept is not None and not coded, parts.pruned_floats),
            (site.factor_of is not None, self.structure.factors),
            (site.kind == "shared", self.structure.shared_weights),
        )
        return [support for there, support in asked if there]


_LAYERS = {"linear": "a linear layer", "conv": "a convolution", "embedding": "an embedding", "norm": "a norm", "experts": "fused experts"}
_MODES = {"static": "by a fixed range", "per token": "by a range per token", "per sample": "by a range per sample"}


def _answer(support: Support) -> Answer:
    return Answer(support.level, () if support.level == "native" else (support.why,), (support.caution,) if support.caution else ())


def _answer_by_rule(rule: WeightRule, weight: StoredWeight, about_input: str) -> Answer:
    chosen = rule.choose_type(weight.bits) or ""
    cautions = [said for said in (rule.caution, about_input) if said]
    if _bits_of(chosen) > weight.bits:
        cautions.append(f"codes of {weight.bits} bits are taken as {_bits_of(chosen)}-bit ones")
    return Answer(rule.level, () if rule.level == "native" else (rule.why,), tuple(cautions), chosen)


def _make_site(weight: StoredWeight | None, inputs: StoredInput | None, parts: Mapping[str, Any]) -> StoredSite:
    shape = parts.get("shape", ())
    kind = parts.get("kind", "dense" if weight is None else "quantized")
    rest = {name: value for name, value in parts.items() if name not in ("shape", "kind")}
    return StoredSite("", shape, "float32", kind, 0, weight, inputs, **rest)


def _bits_of(name: str) -> int:
    return int(name[1:])


def _product(sizes: tuple[int, ...]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def _per(groups: Collection[int | str]) -> str:
    words = {"channel": "per row", "tensor": "for the whole tensor", "column": "per column", "any": "of any kind"}
    said, counts = [words[group] for group in groups if isinstance(group, str)], [str(g) for g in groups if not isinstance(g, str)]
    return _join([*said, f"per {_join(counts)} columns"] if counts else said)


def _join(words: Collection[str], last: str = "or") -> str:
    listed = list(words) or ["none of them"]
    return f" {last} ".join(filter(None, [", ".join(listed[:-1]), listed[-1]]))


def _expect_all(name: str, found: Collection[Any], fits: Any, expected: str) -> None:
    wrong = [one for one in found if not fits(one)]
    if wrong:
        raise ValueError(f"{name} has {wrong[0]!r:.40}, expected {expected}")
