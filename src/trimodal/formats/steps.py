"""The recorded steps that rebuild a compressed architecture, as `model.safetensors` carries them in its metadata.

The file may come from anybody, so nothing is built from a step before it has been checked against the bare model and
against the size of the file: a step can name only layers that are there, kinds and types that we know, and no more
bytes than the file has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from trimodal.core import Layout
from trimodal.errors import IntegrityError
from trimodal.layers import KINDS, is_hosting
from trimodal.maths.packing import packed_columns
from trimodal.models.apply import Step, replay_
from trimodal.models.families import family_of

STEPS = "trimodal.steps"
_TENSORS = {
    "dense": ({"weight"}, {"weight"}),
    "low_rank": ({"first", "second"}, {"first", "second"}),
    "quantized": ({"codes", "scale"}, {"codes", "scale", "zero"}),
    "sparse": ({"values", "mask"}, {"values", "mask"}),
}  # those that a kind must have, and those that it may have
_TYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1, "int8": 1}
_LARGEST_EXPONENT = 1000
_MOST_BITS = 8


class _Unfit(Exception):
    """A step that cannot be carried out, and why."""


def read_steps(file: Path) -> list[Step]:
    """The recorded steps in the metadata of `file`, each of the right form.

    Raises:
        IntegrityError: there are none, or one is not of a form that trimodal writes.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{file} is damaged or cut short ({error}); copy the folder again") from error
    if STEPS not in metadata:
        raise IntegrityError(f"{file} does not say how it was compressed; it was not written by trimodal")
    try:
        steps = json.loads(metadata[STEPS])
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{file}: the recorded steps are not JSON; it was not written by trimodal") from error
    if not isinstance(steps, list):
        raise IntegrityError(f"{file}: the recorded steps are no list; it was not written by trimodal")
    size = file.stat().st_size
    for number, step in enumerate(steps, start=1):
        try:
            _check_form(step, size)
        except _Unfit as reason:
            raise IntegrityError(f"{file}: recorded step {number} {reason}, which this version cannot read") from reason
    return steps


def replay_steps_(module: nn.Module, steps: list[Step]) -> None:
    """Bring the bare `module` into the compressed architecture, with tensors that have no values yet.

    Raises:
        IntegrityError: a step does not fit the module.
    """
    layout = family_of(module).describe(module)
    for number, step in enumerate(steps, start=1):
        try:
            _check_fit(step, module, layout)
        except _Unfit as reason:
            name = type(module).__name__
            raise IntegrityError(f"recorded step {number} {reason}; it was not recorded for this {name}") from reason
        layout = replay_(module, layout, [step])
    tied = getattr(module, "all_tied_weights_keys", {})
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for target, origin in list(tied.items()):
        if target not in names or origin not in names:
            del tied[target]


def rebased(module: nn.Module, steps: list[Step]) -> list[Step]:
    """The `steps` for `module` where it is the base of the model that they were recorded for (a LlamaModel for a
    LlamaForCausalLM), or has such a base: paths without or with the base's name in front, and no steps for the head
    that a base has not."""
    names = {name for name, _ in module.named_modules()}
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    is_base = getattr(module, "base_model", None) is module
    recorded = [step["treat"]["path"] for step in steps if "treat" in step]
    fits = all(_root(path) in names for path in recorded)
    if prefix == "." or fits or (is_base and not any(path.startswith(prefix) for path in recorded)):
        return steps

    def here(path: str) -> str:
        other = path.removeprefix(prefix) if is_base else prefix + path
        return other if _root(path) not in names and _root(other) in names else path

    found = []
    for step in steps:
        if "treat" in step:
            treat = {**step["treat"], "path": here(step["treat"]["path"])}
            treat["tied"] = [p for p in map(here, treat["tied"]) if p in names or not is_base]
            step = {"treat": treat}
            if is_base and _root(treat["path"]) not in names:
                continue
        found.append(step)
    return found


def _root(path: str) -> str:
    """The path of the layer that a factor of a factorised layer is a part of; other paths as they are."""
    while path.endswith((".first", ".second")):
        path = path.rpartition(".")[0]
    return path


def _check_form(step: Any, size: int) -> None:
    """Whether `step` from a file of `size` bytes is of a form that trimodal writes."""
    if not isinstance(step, dict) or len(step) != 1 or not step.keys() <= {"cut", "treat"}:
        raise _Unfit("is neither a cut nor a treatment")
    ((verb, what),) = step.items()
    if not isinstance(what, dict):
        raise _Unfit(f"is a {verb} of {what!r:.40}")
    if verb == "cut":
        if what.keys() != {"label", "kept"} or not isinstance(what["label"], str) or not _whole(what["kept"]):
            raise _Unfit("is a cut without a label and a list of kept units")
        return
    if what.keys() != {"path", "kind", "options", "tied", "tensors", "bias"} or not isinstance(what["path"], str):
        raise _Unfit("is a treatment without its path, kind, options, tensors, ties and bias")
    if what["kind"] not in KINDS or not isinstance(what["options"], dict):
        raise _Unfit(f"keeps {what['path']:.80} as {what['kind']!r:.40}")
    if not isinstance(what["tied"], list) or not all(isinstance(path, str) for path in what["tied"]):
        raise _Unfit(f"ties {what['path']:.80} to {what['tied']!r:.40}")
    if what["bias"] is not None and not (_whole(what["bias"]) and len(what["bias"]) == 1):
        raise _Unfit(f"gives {what['path']:.80} a bias of {what['bias']!r:.40}")
    _check_tensors(what, size)
    if what["kind"] in ("quantized", "sparse"):
        _check_options(what)


def _check_tensors(treat: Mapping[str, Any], size: int) -> None:
    """Whether the tensors of a treatment are those of its kind, and together no larger than the file."""
    tensors, (must, may) = treat["tensors"], _TENSORS[treat["kind"]]
    if not isinstance(tensors, dict) or not must <= tensors.keys() <= may:
        raise _Unfit(f"keeps {treat['path']:.80} in {tensors!r:.40}, expected {', '.join(sorted(must))}")
    total = 0
    for name, tensor in tensors.items():
        if not isinstance(tensor, list) or len(tensor) != 2 or not _whole(tensor[0]) or not isinstance(tensor[1], str):
            raise _Unfit(f"gives {treat['path']:.80}.{name} as {tensor!r:.40}, expected a shape and a type")
        shape, dtype = tensor
        if dtype not in _TYPE_BYTES:
            raise _Unfit(f"keeps {treat['path']:.80}.{name} in the type {dtype!r:.40}")
        total += math.prod(shape) * _TYPE_BYTES[dtype]
    if total > size:
        raise _Unfit(f"wants {total:,} bytes for {treat['path']:.80}, more than the whole file has")


def _check_options(treat: Mapping[str, Any]) -> None:
    """Whether a store's options are those of its kind and fit its tensors."""
    options, shapes, path = (
        treat["options"],
        {n: shape for n, (shape, _) in treat["tensors"].items()},
        treat["path"][:80],
    )
    shape = options.get("shape")
    if not _whole(shape) or len(shape) < 2:
        raise _Unfit(f"keeps {path} in the shape {shape!r:.40}")
    rows, columns = shape[0], math.prod(shape[1:])
    if treat["kind"] == "sparse":
        if (
            options.keys() != {"shape"}
            or shapes["mask"] != [rows, packed_columns(columns, 1)]
            or len(shapes["values"]) != 1
        ):
            raise _Unfit(f"keeps {path} {shape} sparse with a mask of {shapes['mask']}")
        return
    if options.keys() != {"bits", "group", "exponent", "shape", "dtype"} or options["dtype"] not in list(_TYPE_BYTES):
        raise _Unfit(f"quantizes {path} with {options!r:.80}")
    bits, group, exponent = (options[key] for key in ("bits", "group", "exponent"))
    if not _whole([bits, group]) or not 1 <= bits <= _MOST_BITS or group < 1:
        raise _Unfit(f"quantizes {path} to {bits!r:.20} bits in groups of {group!r:.20}")
    if type(exponent) is not int or abs(exponent) > _LARGEST_EXPONENT:
        raise _Unfit(f"scales {path} by 2^{exponent!r:.20}")
    scales = ([rows, -(-columns // group)], [1, 1])
    if shapes["codes"] != [rows, packed_columns(columns, bits)] or shapes["scale"] not in scales:
        raise _Unfit(f"quantizes {path} {shape} with codes of {shapes['codes']} and scales of {shapes['scale']}")
    if shapes.get("zero", shapes["scale"]) != shapes["scale"]:
        raise _Unfit(f"quantizes {path} with zero-points of {shapes['zero']} and scales of {shapes['scale']}")


def _check_fit(step: Step, module: nn.Module, layout: Layout) -> None:
    """Whether `step` can be carried out on `module` as it is now."""
    if "cut" in step:
        label, kept = step["cut"]["label"], step["cut"]["kept"]
        units = {
            a.units for s in layout.carrying(label) for a in (s.input_axis, s.output_axis) if a and a.label == label
        }
        if not units or not kept or sorted(set(kept)) != kept or kept[-1] >= min(units):
            raise _Unfit(f"keeps {len(kept)} units of '{label:.80}', of which there are {min(units, default=0)}")
        if any(module.get_submodule(site.path)._parameters.get("weight") is None for site in layout.carrying(label)):
            raise _Unfit(f"cuts '{label:.80}' where a weight is no longer plain")
        return
    treat = step["treat"]
    modules = dict(module.named_modules())
    shape = _shape(modules.get(treat["path"]))
    if shape is None or shape not in _shapes_of(treat):
        raise _Unfit(
            f"treats {treat['path']:.80} {_shapes_of(treat)}, but here it is {shape or 'no layer with a weight'}"
        )
    for path in treat["tied"]:
        if _shape(modules.get(path)) != shape:
            raise _Unfit(f"ties {treat['path']:.80} to {path:.80}, which is no layer of its shape")


def _shape(layer: nn.Module | None) -> list[int] | None:
    """The shape of a layer's weight, None where it has none of its own."""
    if layer is None:
        return None
    if is_hosting(layer):
        return list(layer.stored.shape)  # type: ignore[union-attr, arg-type]
    weight = layer._parameters.get("weight")
    return None if weight is None else list(weight.shape)


def _shapes_of(treat: Mapping[str, Any]) -> list[list[int]]:
    """The shapes of weight that a treatment can stand for; none where its parts do not fit together."""
    shapes = {name: shape for name, (shape, _) in treat["tensors"].items()}
    if treat["kind"] == "dense":
        return [shapes["weight"]]
    if treat["kind"] != "low_rank":
        return [treat["options"]["shape"]]
    first, second = shapes["first"], shapes["second"]
    if len(first) < 2 or len(second) < 2 or math.prod(second[2:]) != 1:
        return []
    layer = [[second[0], *first[1:]]] if first[0] == second[1] else []
    embedding = [[first[0], second[0]]] if first[1:] == second[1:] else []
    return layer + embedding


def _whole(value: Any) -> bool:
    """Whether `value` is a list of whole numbers from 0."""
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)
