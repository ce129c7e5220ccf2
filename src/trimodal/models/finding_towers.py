"""Towers of a model that nobody declared, found by what its parts are: `image`, `audio`, `text`, `fusion`, whatever they are called.

Going down from the whole model, a part is in the tower of what holds it, unless something tells otherwise: what Transformers states of
it, else its name (`models/tower_evidence.py`). Inside a tower names count no more, but for those of connectors: a projector, a merger
of patches, a Q-former are `fusion` wherever they stand, if the model has two modalities at all. A block of a list stays whole: what is
called `text` or `visual` in it is one side of a layer where both meet. What nothing is told of follows the main input of the model
that it is in, and in a module of no known kind it is `model`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from torch import nn
from transformers import PreTrainedModel

from trimodal.core import MODALITIES, Tower
from trimodal.models.tower_evidence import (
    DECODER,
    FUSION,
    UNTOLD,
    family_base_of,
    find_output_layer,
    is_connector,
    list_several_inputs,
    tower_of_class,
    tower_of_config,
    tower_of_family_input,
    tower_of_model,
    tower_of_name,
    towers_of_pair,
)


@dataclass(frozen=True)
class FoundTowers:
    """The towers in the order of their first layer, and the name of the tower of every part, by path."""

    towers: tuple[Tower, ...]
    names: Mapping[str, str]


@dataclass(frozen=True)
class _Standing:
    """Where a part stands: the tower that it was told to be in, empty if nothing told; the one that it falls to then; whether it is a
    block of a list or in one; the model of Transformers that it is a part of, with the modalities that it states if there are several,
    and what it says of its encoder and decoder."""

    told: str
    default: str
    in_block: bool = False
    model: PreTrainedModel | None = None
    several: tuple[str, ...] = ()
    pair: Mapping[int, str] = field(default_factory=dict)

    @property
    def tower(self) -> str:
        return self.told or self.default


def find_towers(module: nn.Module, layers: Collection[str]) -> FoundTowers:
    """The towers of `module`, whose `layers` are the paths of what can be a site. Reads no weights.

    A tower's blocks are the children of its outermost lists, of all of them one after the other.
    """
    found = _place_parts(module)
    modalities = set(MODALITIES).intersection(found[path].tower for path in layers)
    fallback = _find_fallback(module, found[""].default, modalities)
    names = {path: place.told or (fallback if place.default == found[""].default else place.default) for path, place in found.items()}
    if len(modalities) < 2 and fallback != FUSION:  # there is nothing that a connector could connect
        names = {path: fallback if name == FUSION else name for path, name in names.items()}
    names |= _place_word_layers(module, names, found)
    used = dict.fromkeys(names[path] for path in layers) or {names[""]: None}
    return FoundTowers(tuple(_make_tower(module, name, names, layers) for name in used), names)


def _place_parts(module: nn.Module) -> dict[str, _Standing]:
    """Where every part stands, by path."""
    found: dict[str, _Standing] = {}
    for path, part in module.named_modules():
        parent, _, name = path.rpartition(".")
        found[path] = _place_part(part, name, found[parent]) if path else _enter_model(module)
        if path and isinstance(module.get_submodule(parent), nn.ModuleList):
            found[path] = replace(found[path], in_block=True)
    return found


def _find_fallback(module: nn.Module, default: str, modalities: Set[str]) -> str:
    """`default`, but the one modality that was found in a model of which only the family reads several, such as a Whisper without its
    decoder."""
    single = isinstance(module, PreTrainedModel) and default == FUSION and modalities == {tower_of_family_input(module)}
    return next(iter(modalities)) if single else default


def _enter_model(model: nn.Module) -> _Standing:
    """Where a whole model stands that holds parts of its own kind."""
    if not isinstance(model, PreTrainedModel):
        return _Standing("", tower_of_model(model))
    made_for = tower_of_config(model, None)
    pair = {} if made_for else towers_of_pair(model)
    return _Standing("", made_for or tower_of_model(model), False, model, list_several_inputs(model), pair)


def _place_part(part: nn.Module, name: str, above: _Standing) -> _Standing:
    """Where `part`, called `name`, stands below a part that stands at `above`."""
    here = _enter_part(part, above)
    if not above.in_block and is_connector(part, name):
        return replace(here, told=FUSION)
    if isinstance(part, PreTrainedModel) and (above.told != FUSION or here.model is not above.model) and (stated := tower_of_class(part)):
        return replace(here, told=stated)
    if not above.told and not above.in_block and (made_for := tower_of_config(part, above.model)):
        return replace(here, told=made_for)
    if id(part) in above.pair:
        return replace(here, told=above.pair[id(part)])
    if here.model is not above.model and isinstance(part, PreTrainedModel):
        return _place_foreign_model(part, name, above, here)
    return above if above.told or above.in_block else replace(above, told=_read_name(name, above))


def _read_name(name: str, above: _Standing) -> str:
    """The tower that a name speaks of, unless the model around it states several modalities and not that one."""
    named = tower_of_name(name)
    return "" if named in MODALITIES and above.several and named not in above.several else named


def _enter_part(part: nn.Module, above: _Standing) -> _Standing:
    """`above`, but in a model of its own where `part` is one of another family."""
    if not isinstance(part, PreTrainedModel) or (above.model is not None and isinstance(above.model, family_base_of(part))):
        return above
    return _enter_model(part)


def _place_foreign_model(part: PreTrainedModel, name: str, above: _Standing, here: _Standing) -> _Standing:
    """Where a model stands that is of another family than what it is in. One that reads several modalities has towers of its own."""
    if here.several:
        return here
    named = above.told or _read_name(name, above)
    doubted = named == FUSION or (above.model is not None and above.default == UNTOLD)  # text is what Transformers states by default
    if here.default in MODALITIES and not (here.default == "text" and doubted):
        return replace(here, told=here.default)
    return replace(here, told=named, default=above.default)


def _place_word_layers(module: nn.Module, names: Mapping[str, str], found: Mapping[str, _Standing]) -> dict[str, str]:
    """By path, the tower of layers that nothing told of and that score words, which is the decoder's, or share the weight of a layer of
    the text tower, if there is one."""
    if "text" not in names.values():
        return {}
    parts = dict(module.named_modules())
    models = {path: part for path, part in parts.items() if isinstance(part, PreTrainedModel)}
    scoring = {id(find_output_layer(part)): DECODER if DECODER in found[path].pair.values() else "text" for path, part in models.items()}
    words = {id(_get_weight(part)) for path, part in parts.items() if names[path] == "text" and id(part) not in scoring}
    untold = {path: part for path, part in parts.items() if not found[path].told}
    placed = {path: scoring[id(part)] for path, part in untold.items() if id(part) in scoring}
    return placed | {path: "text" for path, part in untold.items() if _get_weight(part) is not None and id(_get_weight(part)) in words}


def _get_weight(part: nn.Module) -> nn.Parameter | None:
    return part._parameters.get("weight")


def _make_tower(module: nn.Module, name: str, names: Mapping[str, str], layers: Collection[str]) -> Tower:
    lists, blocks = _find_blocks(module, name, names, layers)
    prefixes = tuple(path for path, tower in names.items() if tower == name and (not path or names[path.rpartition(".")[0]] != name))
    several = f"its blocks stand in several lists: {', '.join(lists[:4])}{' …' if len(lists) > 4 else ''}"
    modality = "text" if name == DECODER else name if name in (*MODALITIES, FUSION) else "all"
    return Tower(name, modality, blocks, prefixes, whole_blocks=several if len(lists) > 1 else Tower.whole_blocks)


def _find_blocks(module: nn.Module, tower: str, names: Mapping[str, str], layers: Collection[str]) -> tuple[list[str], tuple[str, ...]]:
    """The tower's outermost lists (`nn.ModuleList`, `nn.Sequential`) that hold a layer, and the children of all of them, in the order
    of registration."""
    lists: list[str] = []
    blocks: list[str] = []
    for path, part in module.named_modules():
        if isinstance(part, (nn.ModuleList, nn.Sequential)) and not _is_inside(path, blocks):
            children = [f"{path}.{name}".lstrip(".") for name, _ in part.named_children()]
            own = [child for child in children if names.get(child, names[path]) == tower]
            if any(_is_inside(layer, own) for layer in layers):
                lists.append(path)
                blocks += own
    return lists, tuple(blocks)


def _is_inside(path: str, blocks: Sequence[str]) -> bool:
    """Whether `path` is one of the `blocks` or in one."""
    return any(path == block or path.startswith(f"{block}.") for block in blocks)
