"""Steps that the model's own configuration can say, so that stock Transformers builds the smaller architecture itself.

A model of which every block lost as many neurons is the same class with a smaller `intermediate_size`. Nothing here
knows a class or a key by name. The configuration is searched: where a cut brought 64 units to 32, every number in it
that is 64 is tried with 32, and a trial stays if the bare class made from it is nearer to the compressed one.

    wanted = the class from the old configuration on the meta device, with the steps replayed;
             what they wrote into its configuration themselves (blocks that are gone) is taken over
    until nothing differs, or no trial helps:
        for each number of the configuration that counted what a step has changed:
            build the class with the new number; keep it if fewer facts differ from `wanted`

A fact is a tensor's name with one of its sizes, a module's type, or a plain attribute of a module, such as the scaling
of attention, which must be the very same. Only if no fact differs are the steps *absorbed*: left out of the file.

Heads need one number more, and so does a narrower stream. Many classes divide their width by the number of heads; where a
class reads `head_dim` it is written beside the new number. CLIP and Whisper read none, so no configuration of theirs can say
that heads are gone or the stream is narrower. Transformers 5 has `per_layer_config` for blocks that differ, but only a few
classes read it (Gemma 4 and its kin), none of those whose units can be cut here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from trimodal.core.model_edit import ModelEdit, Resize
from trimodal.edits import EDIT_KINDS
from trimodal.edits.steps import replay_step_
from trimodal.errors import ModelError
from trimodal.graph.layout import find_layout
from trimodal.layers import close_layers_, open_layers_
from trimodal.loading.load import build_meta_model

Path = tuple[str | int, ...]
_Assignment = tuple[Path, Any]
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class NativeConfig:
    """A configuration, the steps that it does not say, and why there are some; empty if there are none."""

    config: dict[str, Any]
    steps: list[ModelEdit]
    reason: str


def find_native_config(config: Mapping[str, Any], steps: Sequence[ModelEdit], kind: type[PreTrainedModel]) -> NativeConfig:
    """The configuration that says all of `steps` that one might say, or none of them.

    `config` is the content of config.json that the steps are relative to.
    """
    whole = {key: value for key, value in config.items() if key != "quantization_config"}
    if not kind.__module__.startswith("transformers."):
        return NativeConfig(whole, list(steps), f"{kind.__name__} is a class of trimodal's own")
    if steps and not any(step.is_expressible for step in steps):
        return NativeConfig(whole, list(steps), _explain_steps(steps))
    try:
        found, rest, reason = _search_config(whole, steps, kind)
    except ModelError as error:
        return NativeConfig(whole, list(steps), str(error))
    return NativeConfig(whole, list(steps), reason) if reason else NativeConfig(found, rest, _explain_steps(rest))


def _explain_steps(steps: Sequence[ModelEdit]) -> str:
    """Why these steps need trimodal."""
    said = [kind.explain_unsaid([step for step in steps if isinstance(step, kind)]) for kind in EDIT_KINDS]
    if any(said) or not steps:
        return " and ".join(filter(None, said))
    return f"the steps that rebuild it ({', '.join(sorted({step.verb for step in steps}))}) cannot change places"


def _search_config(
    config: dict[str, Any], steps: Sequence[ModelEdit], kind: type[PreTrainedModel]
) -> tuple[dict[str, Any], list[ModelEdit], str]:
    """The nearest configuration, the steps that it is not asked to say, and what else it cannot say."""
    model = build_meta_model(config, kind)
    first = _collect_module_facts(model)
    whole = model.config.to_dict()
    open_layers_(model)
    held = {(counter.path, counter.attribute) for counter in find_layout(model).size_attributes if not counter.per_unit}
    sizes, resizes, rest = _replay_expressible_(model, steps)
    wanted = _collect_module_facts(close_layers_(model))
    known = list(_find_config_changes(whole, model.config.to_dict()))
    if known:
        config = _apply_assignments(config, whole, known)
        first = _collect_module_facts(build_meta_model(config, kind))
    differing = _list_differences(first, wanted, sizes, held)
    groups = list(_group_assignments(whole, resizes)) if differing else []
    left = len(differing) + 1
    while differing and len(differing) < left:
        left = len(differing)
        for group in groups:
            trial = _apply_assignments(config, whole, group)
            try:
                facts = None if trial == config else _collect_module_facts(build_meta_model(trial, kind))
                unlike = differing if facts is None else _list_differences(facts, wanted, sizes, held)
            except ModelError:
                continue
            if len(unlike) < len(differing):
                config, differing = trial, unlike
    return config, rest, f"{type(model.config).__name__} cannot say that {differing[0]}" if differing else ""


def _replay_expressible_(
    module: nn.Module, steps: Sequence[ModelEdit]
) -> tuple[dict[str, set[tuple[int, int]]], list[Resize], list[ModelEdit]]:
    """Carry out on a bare module those of `steps` that a configuration might say: (before, after) sizes by the path of a
    site, what was resized, and the other steps.

    Steps on different layers may change places. So a step is carried out although an earlier one is not, if that one
    treats other layers. Nothing changes places with a step that does more, such as one that removes blocks and so gives
    other layers new paths.
    """
    layout = find_layout(module)
    sizes: dict[str, set[tuple[int, int]]] = {}
    resizes: dict[Resize, None] = {}
    rest: list[ModelEdit] = []
    taken: set[str] = set()  # the layers of the steps that stay
    for number, step in enumerate(steps, start=1):
        paths, resize = step.find_touched_paths(layout), step.find_resize(layout)
        bound = rest and (step.moves_paths or not all(other.is_local for other in rest))
        if not step.is_expressible or paths & taken or bound:
            taken |= paths
            rest.append(step)
            continue
        layout = replay_step_(module, layout, step, number)
        if resize is not None:
            resizes[resize] = None
            for path in paths:
                sizes.setdefault(path, set()).update(resize.numbers)
    return sizes, list(resizes), rest


def _group_assignments(whole: Mapping[str, Any], resizes: Sequence[Resize]) -> Iterator[list[_Assignment]]:
    """What may be assigned together: a number of the configuration `whole` that counts something that was resized, and
    for heads and streams all such numbers of a section with the width that a head keeps."""
    for at, section in _iterate_sections(whole):
        for resize in resizes:
            pairs = sorted(resize.numbers)
            numbers = list(_iterate_numbers(at, section))
            exact = [(p, new) for p, value in numbers for old, new in pairs if type(value) is int and value == old]
            ratios = [(path, value) for path, value in numbers if "ratio" in str(path[-1])]
            yield from ([one] for one in exact)
            yield from ([(path, value * new / old)] for path, value in ratios for old, new in pairs)
            if resize.head_dim is not None:
                heads = [one for one in exact if resize.stream or "heads" in str(one[0][-1])]
                width = ((*at, "head_dim"), resize.head_dim)
                yield from ([one, width] for one in heads)
                yield [*heads, width]


def _find_config_changes(before: Mapping[str, Any], after: Mapping[str, Any], at: Path = ()) -> Iterator[_Assignment]:
    """What the steps themselves have changed in the module's configuration."""
    for key, value in after.items():
        if isinstance(value, dict) and isinstance(before.get(key), dict):
            yield from _find_config_changes(before[key], value, (*at, key))
        elif value != before.get(key):
            yield (*at, key), value


def _iterate_sections(whole: Mapping[str, Any], at: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The configurations within a configuration and itself, with their paths."""
    for key, value in whole.items():
        if isinstance(value, dict):
            yield from _iterate_sections(value, (*at, key))
    yield at, whole


def _iterate_numbers(at: Path, section: Mapping[str, Any]) -> Iterator[tuple[Path, int | float]]:
    """The numbers that a section holds, also in lists, with their paths."""
    for key, value in section.items():
        several = isinstance(value, list | tuple)
        entries = [((*at, key, i), entry) for i, entry in enumerate(value)] if several else [((*at, key), value)]
        yield from ((path, entry) for path, entry in entries if type(entry) in (int, float))


def _apply_assignments(config: dict[str, Any], whole: Mapping[str, Any], changes: Sequence[_Assignment]) -> dict[str, Any]:
    """`config` with `changes`; a list or section that it leaves to its defaults is taken from `whole`."""
    found = copy.deepcopy(config)
    for path, value in changes:
        here: Any = found
        default: Any = whole
        for key in path[:-1]:
            default = default[key]
            if isinstance(here, dict) and not isinstance(here.get(key), dict | list):
                here[key] = list(default) if isinstance(default, list | tuple) else {}
            here = here[key]
        here[path[-1]] = value
    return found


def _collect_module_facts(module: nn.Module) -> dict[tuple[str, str], Any]:
    """(module, what) -> its type, its plain attributes, and the shapes of its tensors."""
    facts: dict[tuple[str, str], Any] = {}
    for path, part in module.named_modules(remove_duplicate=False):
        facts[path, ""] = f"{type(part).__module__}.{type(part).__qualname__}"
        for name, tensor in (*part._parameters.items(), *part._buffers.items()):
            facts[path, name] = None if tensor is None else tensor.shape
        for name, value in vars(part).items():
            entries = value if isinstance(value, list | tuple) else (value,)
            if not name.startswith("_") and name != "training" and all(isinstance(e, _PLAIN) for e in entries):
                facts[path, name] = value
    return facts


def _list_differences(
    found: Mapping[tuple[str, str], Any], wanted: Mapping[tuple[str, str], Any], sizes: Mapping[str, set[tuple[int, int]]],
    held: Set[tuple[str, str]] = frozenset(),
) -> list[str]:  # fmt: skip
    """What is not as wanted, in words, tensors first. A cut leaves attributes alone that nobody reads: they may hold the
    size before it where `found` holds the one after it, but for those that are `held`."""
    tensors, others = [], []
    for key in wanted.keys() | found.keys():
        old, new = wanted.get(key), found.get(key)
        path, name = key
        full = f"{path}.{name}".strip(".")
        if isinstance(old, tuple) and isinstance(new, tuple):
            shape = " × ".join(map(str, old))
            tensors += [f"{full} is {shape}" for a, b in zip_longest(old, new) if a != b]
        elif old != new and (key in held or not _is_size_change(path, old, new, sizes)):
            others.append(f"{full} is {old!r:.60}" if key in wanted else f"{full} is not there")
    return sorted(tensors) + sorted(others)


def _is_size_change(path: str, old: Any, new: Any, sizes: Mapping[str, set[tuple[int, int]]]) -> bool:
    """Whether a module's attribute went from `old` to `new` as the size of a layer in it did."""
    within = (pairs for site, pairs in sizes.items() if not path or site == path or site.startswith(f"{path}."))
    return type(old) is int and type(new) is int and any((old, new) in pairs for pairs in within)
