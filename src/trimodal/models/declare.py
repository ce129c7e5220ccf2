"""How a family says what its models are made of: the layout made of the parts (`models/parts.py`) that stand in running order.

A family writes down each part by its path and leaves the rest to `build_layout`. One block of a Transformer reads

    (LayerPart("norm1", "norm", "attention"), AttentionPart("q", "k", "v", "o", width="head_dim"), MlpPart("up", "down"))

and from that come the sites, their shapes, the labels of the axes that must be cut together, and the counters that a
cut has to change. The stream that runs through a tower is one axis too, `text.width`: which parts read it and which write
to it follows from their roles, and those for which it does not say so. Sizes are read from the weights, not from the
configuration, so a model that was cut before is described as it is now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import replace
from typing import Any

from torch import nn

from trimodal.core import Axis, FreeParameter, Layout, Site, SizeAttribute, Tower
from trimodal.core.site import ROUTER, Kind, width_label
from trimodal.core.storage import FLOATS
from trimodal.errors import ModelError
from trimodal.layers import ExpertMatrix, OpenedLayer, TransposedConvolution
from trimodal.models.parts import OWN, AnyPart, AttentionPart, LayerPart, MlpPart, TowerPart

_KINDS: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], Kind], ...] = (
    (nn.Linear, "linear"),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d, TransposedConvolution), "conv"),
    ((nn.Embedding, nn.EmbeddingBag), "embedding"),
    (ExpertMatrix, "experts"),
    ((nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.RMSNorm), "norm"),
)

_STREAMS = {
    "norm": ("", OWN), "embedding": ("", OWN), "patch": ("", OWN),
    "head": (OWN, ""), "pooler": (OWN, ""), "projector": (OWN, ""),
}  # fmt: skip
_PLAIN_FORWARDS = tuple(kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, ExpertMatrix))


def kind_of(module: nn.Module) -> Kind | None:
    """The kind of site that `module` can be, or None: it has no weight of its own, or one that nobody knows.

    RMS norms come in a class of their own with nearly every model, as routers do, and are told by name.
    """
    weight = module._parameters.get("weight")
    if weight is None or str(weight.dtype).removeprefix("torch.") not in FLOATS:
        return None
    for types, kind in _KINDS:
        if isinstance(module, types):
            return kind
    if weight.dim() == 2 and type(module).__name__.endswith(("Router", "router")):
        return "linear"
    return "norm" if type(module).__name__.endswith("Norm") and weight.dim() == 1 else None


def is_router(module: nn.Module, path: str) -> bool:
    """Whether the layer at `path` chooses between experts: it stands beside them, and gives one number for each."""
    parent, _, name = path.rpartition(".")
    layer, experts = module.get_submodule(path), getattr(module.get_submodule(parent), "experts", None)
    if name == "experts" or not isinstance(experts, nn.Module):
        return False
    weight = layer._parameters.get("weight")
    count = len(experts) if isinstance(experts, nn.ModuleList) else getattr(experts, "num_experts", None)
    return kind_of(layer) == "linear" and weight is not None and len(weight) == count


def find_weighted_modules(module: nn.Module) -> dict[str, Kind]:
    """Path -> kind of every module that can be a site, in the order of registration.

    What stands inside an `nn.MultiheadAttention` that was not opened (`layers/opening.py`) is left out: that module uses its parts'
    weights without calling them, so that nothing can observe or replace them.
    """
    closed = {
        id(inner)
        for part in module.modules() if isinstance(part, nn.MultiheadAttention) and not isinstance(part, OpenedLayer)
        for inner in part.modules()
    }  # fmt: skip
    found = {path: kind_of(part) for path, part in module.named_modules() if id(part) not in closed}
    return {path: kind for path, kind in found.items() if kind is not None}


def make_site(module: nn.Module, path: str, tower: str, block: int | None, role: str, branch: str = "") -> Site:
    """The site at `path` without axes.

    Raises:
        ModelError: the module there has no weight in floating point.
    """
    part = module.get_submodule(path)
    kind = kind_of(part)
    if kind is None:
        raise ModelError(f"{path} is a {type(part).__name__}, expected a layer with a weight in floating point.")
    weight = part._parameters["weight"]
    assert weight is not None  # kind_of says so; for the type checker
    site = Site(
        path,
        tower,
        block,
        role,
        kind,
        tuple(weight.shape),
        str(weight.dtype).removeprefix("torch."),
        part._parameters.get("bias") is not None,
        branch,
        groups=getattr(part, "groups", 1) if kind in ("conv", "experts") else 1,
        own_forward=kind != "norm" and type(part).forward not in _PLAIN_FORWARDS,
        running=kind == "norm" and part._buffers.get("running_mean") is not None,
    )
    return replace(site, stored_bytes=site.dense_bytes)


def build_layout(module: nn.Module, towers: Iterable[TowerPart]) -> Layout:
    """Turn declarations into the layout of `module`: sites in running order, axes, ties, counters.

    A tower of which one part runs before another tower and the rest after it is declared in two pieces of one name;
    only one of them has blocks. Modules with a weight that no tower declares follow at the end: outside the blocks they
    are the `head` of the last tower (the classes that put a head on a model are many and alike), and their path is
    their branch.
    """
    sites: list[Site] = []
    counters: list[SizeAttribute] = []
    described: dict[str, Tower] = {}
    pieces = list(towers)
    streams = frozenset(piece.name for piece in pieces if piece.blocks and not piece.whole_width)
    for tower in pieces:
        blocks = _expand_block_paths(module, _join_path(tower.root, tower.blocks)) if tower.blocks else ()
        known = described.pop(tower.name, Tower(tower.name, tower.modality))
        prefixes = tuple(dict.fromkeys((*known.prefixes, *_find_prefixes(module, tower))))
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
        for path, block, part in _iter_parts(module, tower, blocks):
            sites.extend(_make_part_sites(module, tower.name, path, block, part, streams))
            counters.extend(_make_size_attributes(module, tower.name, path, block, part))
    declared = {site.path for site in sites}
    for path in find_weighted_modules(module):
        if path not in declared:
            sites.append(_make_undeclared_site(module, path, list(described.values())))
    layout = Layout(tuple(described.values()), merge_tied_sites(module, sites), tuple(counters))
    return _add_free_parameters(module, layout, pieces, declared)


def explain_fixed_width(fields: Iterable[str]) -> str:
    """Why the stream of a tower must stay as wide as it is where a model's outputs have these names; empty if not."""
    states = {"last_hidden_state", "pooler_output"}.intersection(fields)
    return f"the model hands out {min(states)}, which must stay as wide as it is; a class with a head has none" if states else ""


def root_of(module: nn.Module, *names: str) -> str:
    """The first of `names` that is a path in `module`, or `""`: where a model stands inside the class with a head."""
    return next((name for name in names if _has_module(module, name)), "")


def explain_fixed_blocks(module: nn.Module) -> str:
    """Why a tower under a head must keep all its blocks: a weight for each; empty where it has none."""
    weighs = hasattr(module, "layer_weights")
    return "its head weighs what every block gives, so none can be spared" if weighs else ""


def config_of(module: nn.Module) -> Any:
    """The module's Hugging Face configuration."""
    return module.config


def _iter_parts(module: nn.Module, tower: TowerPart, blocks: tuple[str, ...]) -> Iterator[tuple[str, int | None, AnyPart]]:
    """(root of the part's paths, block, part) in running order, those that the module has."""
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


def _make_part_sites(
    module: nn.Module, tower: str, root: str, block: int | None, part: AnyPart, streams: Set[str]
) -> list[Site]:
    """The sites of one part in running order; none if the module lacks it. `streams` are the towers with a width."""
    if isinstance(part, LayerPart):
        path = _join_path(root, part.path)
        if not _has_weight(module, path):
            return []
        found = [_add_channel_axes(make_site(module, path, tower, block, part.role, part.branch), part.channels)]
        through = {part.role: _STREAMS.get(part.role, ("", "")) if part.stream is None else part.stream}
    elif isinstance(part, MlpPart):
        found = _make_mlp_sites(module, tower, root, block, part)
        reads, writes = part.stream
        through = {"gate": (reads, ""), part.roles[0]: (reads, ""), part.roles[1]: ("", writes)}
        if part.roles[0] == part.roles[1]:
            ends = zip(found, ((reads, ""), ("", writes)), strict=False)
            return [_add_stream_axes(site, end, streams) for site, end in ends]
    else:
        found = _make_attention_sites(module, tower, root, block, part)
        reads = part.memory
        through = {"query": (OWN, ""), "key": (reads, ""), "value": (reads, ""), "output": ("", OWN)}
    return [_add_stream_axes(site, through.get(site.role, ("", "")), streams) for site in found]


def _add_stream_axes(site: Site, stream: tuple[str, str], streams: Set[str]) -> Site:
    """`site` with the widths of the streams that it reads and writes to, of those that have one."""
    names = [site.tower if name == OWN else name for name in stream]
    dims = (1, 0 if site.kind == "norm" else site.output_dim)
    reads, writes = (
        Axis(width_label(name), site.shape[dim]) if name in streams else None for name, dim in zip(names, dims, strict=True)
    )
    return replace(site, input_axis=site.input_axis or reads, output_axis=site.output_axis or writes)


def _add_free_parameters(module: nn.Module, layout: Layout, pieces: Sequence[TowerPart], declared: Set[str]) -> Layout:
    """`layout` with the bare parameters along the streams, and without the widths that cannot be cut."""
    named = dict(module.named_parameters(remove_duplicate=False))
    bare = {
        path: FreeParameter(width_label(piece.name), path, value.numel() // value.shape[-1] * value.element_size())
        for piece in pieces for name in piece.free_parameters
        if (value := named.get(path := _join_path(piece.root, name))) is not None
    }  # fmt: skip
    layout = replace(layout, free_parameters=tuple(bare.values()))
    for piece in pieces:
        if piece.blocks:
            reason = piece.whole_width or _explain_stream_mismatch(module, layout, layout.get_tower(piece.name), declared)
            layout = layout.mark_uncuttable(width_label(piece.name), reason) if reason else layout
    return layout


def _explain_stream_mismatch(module: nn.Module, layout: Layout, tower: Tower, declared: Set[str]) -> str:
    """Why the declared stream of a tower is not all there is to it; empty if it is."""
    label = width_label(tower.name)
    sites = list(layout.find_label_sites(label))
    named = dict(module.named_parameters(remove_duplicate=False))
    units = {axis.units for s in sites for axis in (s.input_axis, s.output_axis) if axis is not None and axis.label == label}
    units |= {named[bare.path].shape[-1] for bare in layout.free_parameters if bare.label == label}
    if len(units) != 1 or not any(site.reads_label(label) for site in sites):
        return f"its layers do not agree on how wide its stream is: {', '.join(map(str, sorted(units)))}"
    (width,) = units
    tied = next((s for s in sites if s.tied and not s.is_read_again), None)
    if tied is not None:
        return f"{tied.path} shares its weight with {tied.tied[0]}, which is not read along its stream"
    others = [t for t in layout.towers if t.name != tower.name]
    known = {id(named[bare.path]) for bare in layout.free_parameters}
    known |= {id(value) for path in declared for value in module.get_submodule(path)._parameters.values()}
    for name, value in named.items():
        elsewhere = any(name.startswith(f"{prefix}.") for other in others for prefix in other.prefixes if prefix)
        if id(value) not in known and not elsewhere and any(size and size % width == 0 for size in value.shape):
            return f"nobody has declared how {name} hangs on its stream"
    return ""


def _add_channel_axes(site: Site, channels: tuple[str, str]) -> Site:
    label = ".".join(str(p) for p in (site.tower, site.block) if p is not None)
    axes = [Axis(f"{label}.{c}", site.shape[i]) if c else None for c, i in zip(channels, (1, 0), strict=True)]
    return replace(site, input_axis=axes[0], output_axis=axes[1])


def _make_mlp_sites(module: nn.Module, tower: str, root: str, block: int | None, part: MlpPart) -> list[Site]:
    if not _has_weight(module, _join_path(root, part.up)):
        return []
    down = make_site(module, _join_path(root, part.down), tower, block, part.roles[1], part.branch)
    axis = Axis(_make_label(tower, block, part.branch, "neurons"), down.shape[1])
    ups = [(part.gate, "gate"), (part.up, part.roles[0])]
    sites = [make_site(module, _join_path(root, p), tower, block, role, part.branch) for p, role in ups if p]
    if part.roles[0] == part.roles[1]:
        sites = [replace(s, branch=_join_branch(s.branch, "up")) for s in sites]
        down = replace(down, branch=_join_branch(down.branch, "down"))
    return [*(replace(s, output_axis=axis) for s in sites), replace(down, input_axis=axis)]


def _make_attention_sites(module: nn.Module, tower: str, root: str, block: int | None, part: AttentionPart) -> list[Site]:
    if not _has_weight(module, _join_path(root, part.query)):
        return []
    wide = narrow = None
    if part.width:
        heads, group, width = _count_heads(module, root, part)
        label = _make_label(tower, block, part.branch, "heads")
        wide, narrow = Axis(label, heads, group * width), Axis(label, heads, width)

    def site(path: str, role: str) -> Site:
        return make_site(module, _join_path(root, path), tower, block, role, part.branch)

    def norm(path: str, branch: str) -> list[Site]:
        if not path or not _has_weight(module, _join_path(root, path)):
            return []
        return [replace(site(path, "norm"), branch=_join_branch(part.branch, branch))]

    return [
        replace(site(part.query, "query"), output_axis=wide), *norm(part.query_norm, "query"),
        replace(site(part.key, "key"), output_axis=narrow), *norm(part.key_norm, "key"),
        replace(site(part.value, "value"), output_axis=narrow),
        replace(site(part.output, "output"), input_axis=wide),
    ]  # fmt: skip


def _count_heads(module: nn.Module, root: str, part: AttentionPart) -> tuple[int, int, int]:
    """(key-value heads, query heads for each of them, width of one head), from the weights as they are."""
    width = int(_get_attribute(module, _join_path(root, part.width)))
    queries, keys = (make_site(module, _join_path(root, p), "", None, "").rows // width for p in (part.query, part.key))
    return keys, queries // max(keys, 1), width


def _make_size_attributes(module: nn.Module, tower: str, root: str, block: int | None, part: AnyPart) -> list[SizeAttribute]:
    if not isinstance(part, AttentionPart) or not part.width or not _has_weight(module, _join_path(root, part.query)):
        return []
    _, group, width = _count_heads(module, root, part)
    label = _make_label(tower, block, part.branch, "heads")
    per_unit = [(name, group) for name in part.heads] + [(name, group * width) for name in part.sizes]
    return [SizeAttribute(label, *_join_path(root, name).rpartition(".")[::2], per_unit=n) for name, n in per_unit]


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
    """`known` with the path of `other`, which has the same weight. An embedding is read again if all others read it along
    the dimension of its stream."""
    tied = replace(known, tied=(*known.tied, other.path))
    if known.kind != "embedding":
        return tied
    again = other.kind == "linear" and other.input_axis is not None and other.input_axis == known.output_axis
    alike = again and (not known.tied or known.input_axis is not None)
    return replace(tied, input_axis=other.input_axis if alike else None)


def _find_prefixes(module: nn.Module, tower: TowerPart) -> tuple[str, ...]:
    """Dotted paths that belong to the tower: its root, unless nothing stands there, and what stands outside of it."""
    inside = (tower.root,) if tower.stem or tower.blocks or tower.head else ()
    outside = [p.path if isinstance(p, LayerPart) else p.query if isinstance(p, AttentionPart) else p.up for p in tower.after]
    return (*inside, *(p.partition(".")[0] for p in outside if _has_module(module, p)))


def _expand_block_paths(module: nn.Module, pattern: str) -> tuple[str, ...]:
    """Paths of all blocks that `pattern` stands for; a pattern without `*` names the list that holds them."""
    paths = [""]
    for step in (pattern if "*" in pattern else f"{pattern}.*").split("."):
        names = ([name for name, _ in module.get_submodule(p).named_children()] for p in paths)
        taken = ([n for n in children if step in ("*", n)] for children in names)
        paths = [_join_path(p, name) for p, children in zip(paths, taken, strict=True) for name in children]
    return tuple(paths)


def _has_module(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _has_weight(module: nn.Module, path: str) -> bool:
    return _has_module(module, path) and kind_of(module.get_submodule(path)) is not None


def _get_attribute(module: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def _make_label(tower: str, block: int | None, branch: str, unit: str) -> str:
    return ".".join(p for p in (tower, "" if block is None else str(block), branch, unit) if p)


def _join_branch(left: str, right: str) -> str:
    return f"{left}.{right}" if left else right


def _join_path(root: str, path: str) -> str:
    return f"{root}.{path}" if root and path else root or path
