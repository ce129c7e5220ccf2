"""How a family says what its models are made of: the layout made of the parts (`models/parts.py`) that stand in running order.

A family writes down each part by its path and leaves the rest to `build_layout`. One block of a Transformer reads

    (LayerPart("norm1", "norm", "attention"), AttentionPart("q", "k", "v", "o", width="head_dim"), MlpPart("up", "down"))

and from that come the sites, their shapes, the labels of the axes that must be cut together, and the counters that a
cut has to change. The stream that runs through a tower is one axis too, `text.width`: which parts read it and which write
to it follows from their roles, and those for which it does not say so. Sizes are read from the weights, not from the
configuration, so a model that was cut before is described as it is now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from torch import nn

from trimodal.core import FreeParameter, Layout, Site, SizeAttribute, Tower, Uncuttable
from trimodal.core.site import ROUTER, width_label
from trimodal.models.part_sites import (
    PartPlace,
    find_uncuttable,
    make_free_parameters,
    make_part_sites,
    make_size_attributes,
)
from trimodal.models.parts import OWN, AnyPart, AttentionPart, LayerPart, TowerPart
from trimodal.models.weighted import find_weighted_modules, has_module, is_router, join_path, kind_of, make_site


def build_layout(module: nn.Module, towers: Iterable[TowerPart]) -> Layout:
    """Turn declarations into the layout of `module`: sites in running order, axes, ties, counters.

    A tower of which one part runs before another tower and the rest after it is declared in two pieces of one name;
    only one of them has blocks. Modules with a weight that no tower declares follow at the end: outside the blocks they
    are the `head` of the last tower (the classes that put a head on a model are many and alike), and their path is
    their branch.
    """
    sites: list[Site] = []
    counters: list[SizeAttribute] = []
    bare: dict[str, FreeParameter] = {}
    uncuttable: list[Uncuttable] = []
    described: dict[str, Tower] = {}
    pieces = list(towers)
    streams = _find_streams(pieces)
    for tower in pieces:
        blocks = _expand_block_paths(module, join_path(tower.root, tower.blocks)) if tower.blocks else ()
        known = described.pop(tower.name, Tower(tower.name, tower.modality))
        prefixes = tuple(dict.fromkeys((*known.prefixes, *_find_prefixes(module, tower, pieces))))
        if blocks:
            known = replace(
                known,
                whole_tokens=tower.whole_tokens,
                protected=tower.protected,
                restored=tower.restored,
                whole_reading=tower.whole_reading,
                projector=tower.projector,
                reader=tower.reader,
                placeholder=tower.placeholder,
                handed=tower.handed,
                whole_blocks=tower.whole_blocks,
                counted=tower.counted,
                read_by=tower.read_by,
            )
        described[tower.name] = replace(known, blocks=known.blocks + blocks, prefixes=prefixes)
        if tower.name in streams:
            counters += [SizeAttribute(width_label(streams[tower.name]), *name.rpartition(".")[::2], per_unit=0) for name in tower.held]
        for path, block, part in _iter_parts(tower, blocks):
            place = PartPlace(module, path, tower.name, block, streams)
            sites.extend(make_part_sites(place, part))
            counters.extend(make_size_attributes(place, part))
            bare |= {parameter.path: parameter for parameter in make_free_parameters(place, part)}
            uncuttable += [units for units in [find_uncuttable(place, part)] if units is not None]
    declared = {site.path for site in sites}
    for path in find_weighted_modules(module):
        if path not in declared:
            sites.append(_make_undeclared_site(module, path, list(described.values())))
    bare |= _find_stream_parameters(module, pieces)
    layout = Layout(
        tuple(described.values()), merge_tied_sites(module, sites), tuple(counters), tuple(uncuttable),
        free_parameters=tuple(bare.values()),
    )  # fmt: skip
    return _check_streams(module, layout, pieces, declared)


def explain_fixed_width(fields: Iterable[str]) -> str:
    """Why the stream of a tower must stay as wide as it is where a model's outputs have these names; empty if not."""
    states = {"last_hidden_state", "pooler_output"}.intersection(fields)
    return f"the model hands out {min(states)}, which must stay as wide as it is; a class with a head has none" if states else ""


def root_of(module: nn.Module, *names: str) -> str:
    """The first of `names` that is a path in `module`, or `""`: where a model stands inside the class with a head."""
    return next((name for name in names if has_module(module, name)), "")


def explain_fixed_blocks(module: nn.Module) -> str:
    """Why a tower under a head must keep all its blocks: a weight for each; empty where it has none."""
    weighs = hasattr(module, "layer_weights")
    return "its head weighs what every block gives, so none can be spared" if weighs else ""


def config_of(module: nn.Module) -> Any:
    """The module's Hugging Face configuration."""
    return module.config


def _find_streams(pieces: Sequence[TowerPart]) -> Mapping[str, str]:
    """By tower the one whose stream runs through it, itself for most; towers whose width cannot be cut are missing."""
    return {
        piece.name: piece.name if piece.stream == OWN else piece.stream for piece in pieces if piece.blocks and not piece.whole_width
    }


def _iter_parts(tower: TowerPart, blocks: tuple[str, ...]) -> Iterator[tuple[str, int | None, AnyPart]]:
    """(root of the part's paths, block, part) in running order."""
    for part in tower.stem:
        yield tower.root, None, part
    for number, path in enumerate(blocks):
        for part in tower.block:
            yield path, number, part
        for part in tower.between.get(path.removeprefix(tower.root).lstrip("."), ()):
            yield tower.root, None, part
    for part in tower.head:
        yield tower.root, None, part
    for part in tower.after:
        yield "", None, part


def _find_stream_parameters(module: nn.Module, pieces: Sequence[TowerPart]) -> dict[str, FreeParameter]:
    """The bare parameters along the streams, by name."""
    named = dict(module.named_parameters(remove_duplicate=False))
    return {
        path: FreeParameter(width_label(piece.name), path, value.numel() // value.shape[-1] * value.element_size())
        for piece in pieces for name in piece.free_parameters
        if (value := named.get(path := join_path(piece.root, name))) is not None
    }  # fmt: skip


def _check_streams(module: nn.Module, layout: Layout, pieces: Sequence[TowerPart], declared: Set[str]) -> Layout:
    """`layout` without the widths that cannot be cut."""
    streams = _find_streams(pieces)
    for piece in pieces:
        if piece.blocks and piece.stream == OWN:
            along = {name for name, stream in streams.items() if stream == piece.name}
            reason = piece.whole_width or _explain_stream_mismatch(module, layout, piece.name, along, declared)
            layout = layout.mark_uncuttable(width_label(piece.name), reason) if reason else layout
    return layout


def _explain_stream_mismatch(module: nn.Module, layout: Layout, stream: str, along: Set[str], declared: Set[str]) -> str:
    """Why the declared stream that runs through the towers `along` is not all there is to it; empty if it is."""
    label = width_label(stream)
    sites = list(layout.find_label_sites(label))
    named = dict(module.named_parameters(remove_duplicate=False))
    units = {axis.units for s in sites for axis in (s.input_axis, s.output_axis) if axis is not None and axis.label == label}
    units |= {named[bare.path].shape[-1] for bare in layout.free_parameters if bare.label == label}
    if len(units) != 1 or not any(site.reads_label(label) for site in sites):
        return f"its layers do not agree on how wide its stream is: {', '.join(map(str, sorted(units)))}"
    (width,) = units
    tied = next((s for s in sites if s.tied and not s.goes_with_tied), None)
    if tied is not None:
        return f"{tied.path} shares its weight with {tied.tied[0]}, which is not read along its stream"
    others = [tower for tower in layout.towers if tower.name not in along]
    known = {id(named[bare.path]) for bare in layout.free_parameters}
    known |= {id(value) for path in declared for value in module.get_submodule(path)._parameters.values()}
    for name, value in named.items():
        elsewhere = any(name.startswith(f"{prefix}.") for other in others for prefix in other.prefixes if prefix)
        if id(value) not in known and not elsewhere and any(size and size % width == 0 for size in value.shape):
            return f"nobody has declared how {name} hangs on its stream"
    return ""


def _make_undeclared_site(module: nn.Module, path: str, towers: list[Tower]) -> Site:
    """A site for a module that no tower declares; it belongs where its path does, else to the last tower."""
    for tower in towers:
        for number, block in enumerate(tower.blocks):
            if path.startswith(f"{block}."):
                return make_site(module, path, tower.name, number, _default_role_of(module, path), path[len(block) + 1 :])
    owner = next((t for t in towers if any(path.startswith(f"{p}.") for p in t.prefixes if p)), towers[-1])
    return make_site(module, path, owner.name, None, _default_role_of(module, path, "head"), path)


def _default_role_of(module: nn.Module, path: str, linear: str = "linear") -> str:
    kind = kind_of(module.get_submodule(path))
    if is_router(module, path):
        return ROUTER
    return linear if kind == "linear" or kind is None else kind


def merge_tied_sites(module: nn.Module, sites: Iterable[Site]) -> tuple[Site, ...]:
    """The sites with each weight once, at the place where it runs first; the other paths in `tied`."""
    first: dict[int, Site] = {}
    for site in sites:
        weight = id(module.get_submodule(site.path)._parameters["weight"])
        known = first.get(weight)
        first[weight] = site if known is None else _merge_tied_pair(known, site)
    return tuple(first.values())


def record_outside_names(module: nn.Module, layout: Layout) -> Layout:
    """`layout` with the names under which weights of its sites stand outside of all sites too."""
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    layers = {id(module.get_submodule(path)) for site in layout.sites for path in (site.path, *site.tied)}
    outside: dict[int, str] = {}
    for name, tensor in named:
        if id(module.get_submodule(name.rpartition(".")[0])) not in layers:
            outside.setdefault(id(tensor), name)
    weights = {site.path: id(module.get_submodule(site.path)._parameters.get("weight")) for site in layout.sites}
    return replace(layout, sites=tuple(replace(site, elsewhere=outside.get(weights[site.path], "")) for site in layout.sites))


def _merge_tied_pair(known: Site, other: Site) -> Site:
    """`known` with the path of `other`, which has the same weight. An embedding is read again if others read it along
    the dimension of its stream, who come first, and all that are left are embeddings into that stream too."""
    if known.kind != "embedding":
        return replace(known, tied=(*known.tied, other.path))
    axis, fits = known.output_axis, known.output_axis is not None and (not known.tied or known.goes_with_tied)
    if fits and other.kind == "linear" and other.input_axis == axis:
        return replace(known, tied=(other.path, *known.tied), input_axis=axis, tied_alike=False)
    tied = replace(known, tied=(*known.tied, other.path))
    if fits and other.kind == "embedding" and other.output_axis == axis:
        return replace(tied, tied_alike=not known.is_read_again)
    return replace(tied, input_axis=None, tied_alike=False)


def _find_prefixes(module: nn.Module, tower: TowerPart, pieces: Sequence[TowerPart]) -> tuple[str, ...]:
    """Dotted paths that belong to the tower: its root, unless nothing stands there or it is around another tower's too, then its parts;
    and what stands outside of it."""
    around = any(other.name != tower.name and other.blocks and _lies_in(other.root, tower.root) for other in pieces)
    inside = [tower.root] if tower.blocks or not around else []
    shared = [join_path(tower.root, _path_of(part).partition(".")[0]) for part in (*tower.stem, *tower.head)]
    here = (inside or shared) if tower.stem or tower.blocks or tower.head else []
    outside = [_path_of(part) for part in tower.after]
    return (*(path for path in here if has_module(module, path)), *(path.partition(".")[0] for path in outside if has_module(module, path)))


def _path_of(part: AnyPart) -> str:
    return part.path if isinstance(part, LayerPart) else part.query if isinstance(part, AttentionPart) else part.up


def _lies_in(path: str, root: str) -> bool:
    return not root or path == root or path.startswith(f"{root}.")


def _expand_block_paths(module: nn.Module, pattern: str) -> tuple[str, ...]:
    """Paths of all blocks that `pattern` stands for; a pattern without `*` names the list that holds them."""
    paths = [""]
    for step in (pattern if "*" in pattern else f"{pattern}.*").split("."):
        names = ([name for name, _ in module.get_submodule(p).named_children()] for p in paths)
        taken = ([n for n in children if step in ("*", n)] for children in names)
        paths = [join_path(p, name) for p, children in zip(paths, taken, strict=True) for name in children]
    return tuple(paths)
