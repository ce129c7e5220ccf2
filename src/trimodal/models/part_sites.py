"""From one declared part (`models/parts.py`) to its sites: paths and roles, and on their axes the units that are cut together.

An attention's query, key and value may be three layers, or rows of one, and an MLP's gate and up too. Where the weight is one its rows
are runs of units, one after the other, or every unit has its rows together:

    [q | k | v]          heads, repeated three times; with grouped queries the queries' heads are wider than the two others'
    q0 k0 v0 q1 k1 v1    heads, each three times as wide
    [gate | up]          neurons, repeated twice; of fused experts twice for each expert
    g0 u0 g1 u1          neurons, each two entries wide
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from trimodal.core import Axis, FreeParameter, Site, SizeAttribute, Uncuttable
from trimodal.core.site import width_label
from trimodal.models.parts import OWN, AnyPart, AttentionPart, LayerPart, MlpPart
from trimodal.models.weighted import has_weight, join_path, make_site

_STREAMS = {
    "norm": ("", OWN), "embedding": ("", OWN), "patch": ("", OWN),
    "head": (OWN, ""), "pooler": (OWN, ""), "projector": (OWN, ""),
}  # fmt: skip
_OWN_CONFIG = ".config."


@dataclass(frozen=True)
class PartPlace:
    """Where a part stands: the root of its paths, its tower and block, and by tower the stream that runs through it, of those
    whose width can be cut."""

    module: nn.Module
    root: str
    tower: str
    block: int | None
    streams: Mapping[str, str]

    def join(self, path: str) -> str:
        """The path in the model of what the part calls `path`."""
        return join_path(self.root, path)

    def has(self, path: str) -> bool:
        """Whether a layer with a weight stands there."""
        return bool(path) and has_weight(self.module, self.join(path))

    def make_site(self, path: str, role: str, branch: str) -> Site:
        """The site there, without axes."""
        return make_site(self.module, self.join(path), self.tower, self.block, role, branch)

    def name_label(self, branch: str, unit: str, whole: bool = False) -> str:
        """`text.3.cross.heads`; of what is cut in all blocks together, the `whole` tower, `text.cross.heads`."""
        block = "" if self.block is None or whole else str(self.block)
        return ".".join(part for part in (self.tower, block, branch, unit) if part)

    def stream_of(self, name: str) -> str:
        """The label of the stream that `name` means here, empty if its width cannot be cut."""
        stream = self.streams.get(self.tower if name == OWN else name, "")
        return width_label(stream) if stream else ""


def make_part_sites(place: PartPlace, part: AnyPart) -> list[Site]:
    """The sites of one part in running order; none if the module lacks it."""
    if isinstance(part, LayerPart):
        if not place.has(part.path):
            return []
        found = [_add_channel_axes(place.make_site(part.path, part.role, part.branch), part.channels)]
        through = {part.role: _STREAMS.get(part.role, ("", "")) if part.stream is None else part.stream}
    elif isinstance(part, MlpPart):
        found = _make_mlp_sites(place, part)
        reads, writes = part.stream
        through = {"gate": (reads, ""), part.roles[0]: (reads, ""), part.roles[1]: ("", writes)}
        if part.roles[0] == part.roles[1]:
            ends = zip(found, ((reads, ""), ("", writes)), strict=False)
            return [_add_stream_axes(place, site, end) for site, end in ends]
    else:
        found = _make_attention_sites(place, part)
        reads = part.memory
        through = {
            "query": (OWN, ""), "key": (reads, ""), "value": (reads, ""), "qkv": (OWN, ""), "kv": (reads, ""), "output": ("", OWN),
            "position query": (OWN, ""), "position key": (OWN, ""),
        }  # fmt: skip
    return [_add_stream_axes(place, site, through.get(site.role, ("", ""))) for site in found]


def make_size_attributes(place: PartPlace, part: AnyPart) -> list[SizeAttribute]:
    """The attributes that count units of the part."""
    if isinstance(part, LayerPart):
        label = place.stream_of((part.stream or _STREAMS.get(part.role, ("", "")))[0])
        known = label and part.sizes and place.has(part.path)
        return [SizeAttribute(label, *_split_attribute(place.join(name))) for name in part.sizes] if known else []
    if not isinstance(part, AttentionPart) or not part.width or not place.has(part.query):
        return []
    heads = _count_heads(place, part)
    per_unit = [(name, heads.group) for name in part.heads] + [(name, heads.group * heads.width) for name in part.sizes]
    per_unit += [(name, 1) for name in part.key_heads]
    label = place.name_label(part.branch, "heads", part.together)
    return [SizeAttribute(label, *_split_attribute(place.join(name)), per_unit=n) for name, n in per_unit]


def make_free_parameters(place: PartPlace, part: AnyPart) -> Iterator[FreeParameter]:
    """The parameters that stand beside the part's layers and are cut with them."""
    if isinstance(part, AttentionPart) and part.width and part.per_head and place.has(part.query):
        label, group = place.name_label(part.branch, "heads", part.together), _count_heads(place, part).group
        yield from (_make_free_parameter(place, name, label, width=group) for name in part.per_head)
    if isinstance(part, MlpPart) and part.biases and place.has(part.up):
        up, down = part.biases
        if up in _list_parameters(place):
            width, repeats = (1, 1) if part.gate != part.up else (2, 1) if part.interleaved else (1, 2)
            yield _make_free_parameter(place, up, place.name_label(part.branch, "neurons"), width, repeats)
        if (label := place.stream_of(part.stream[1])) and down in _list_parameters(place):
            yield _make_free_parameter(place, down, label)


def find_uncuttable(place: PartPlace, part: AnyPart) -> Uncuttable | None:
    """The heads that cannot be cut, with the reason that the part gives."""
    if not isinstance(part, AttentionPart) or not part.whole_heads or not place.has(part.query):
        return None
    return Uncuttable(place.name_label(part.branch, "heads"), part.whole_heads)


def _add_stream_axes(place: PartPlace, site: Site, stream: tuple[str, str]) -> Site:
    """`site` with the widths of the streams that it reads and writes to, of those that have one."""
    reads, writes = map(place.stream_of, stream)
    size = site.shape[0 if site.kind == "norm" else site.output_dim]
    experts = site.groups if site.kind == "experts" else 1
    return replace(
        site,
        input_axis=site.input_axis or (Axis(reads, site.shape[1]) if reads else None),
        output_axis=site.output_axis or (Axis(writes, size // experts, repeats=experts) if writes else None),
    )


def _add_channel_axes(site: Site, channels: tuple[str, str]) -> Site:
    label = ".".join(str(p) for p in (site.tower, site.block) if p is not None)
    dims = (1, 0 if site.kind == "norm" else site.output_dim)
    axes = [Axis(f"{label}.{c}", site.shape[i]) if c else None for c, i in zip(channels, dims, strict=True)]
    return replace(site, input_axis=axes[0], output_axis=axes[1])


def _make_mlp_sites(place: PartPlace, part: MlpPart) -> list[Site]:
    if not place.has(part.up):
        return []
    down = place.make_site(part.down, part.roles[1], part.branch)
    axis, fused = Axis(place.name_label(part.branch, "neurons"), down.shape[1]), part.gate == part.up
    ups = [("" if fused else part.gate, "gate"), (part.up, part.roles[0])]
    sites = [place.make_site(path, role, part.branch) for path, role in ups if path]
    if part.roles[0] == part.roles[1]:
        sites = [replace(s, branch=join_path(s.branch, "up")) for s in sites]
        down = replace(down, branch=join_path(down.branch, "down"))
    width, runs = (2, 1) if fused and part.interleaved else (1, 2 if fused else 1)
    wide = replace(axis, width=width, repeats=runs * (down.groups if down.kind == "experts" else 1))
    return [*(replace(s, output_axis=wide) for s in sites), replace(down, input_axis=axis)]


def _make_attention_sites(place: PartPlace, part: AttentionPart) -> list[Site]:
    if not place.has(part.query):
        return []
    wide = narrow = both = three = table = None
    if part.width:
        heads, label = _count_heads(place, part), place.name_label(part.branch, "heads", part.together)
        wide, narrow = Axis(label, heads.keys, heads.group * heads.width), Axis(label, heads.keys, heads.width)
        both, table = replace(narrow, repeats=2), Axis(label, heads.keys, heads.group)
        three = replace(narrow, repeats=3) if heads.group == 1 else replace(wide, then=(both,))
        three = replace(narrow, width=3 * heads.width) if part.interleaved else three
    branch = part.branch

    def norm(path: str, name: str) -> list[Site]:
        return [replace(place.make_site(path, "norm", branch), branch=join_path(branch, name))] if place.has(path) else []

    norms = norm(part.query_norm, "query"), norm(part.key_norm, "key")
    early, late = (((), ()), (*norms[0], *norms[1])) if part.late_norms else (norms, ())
    if part.query == part.value:
        made = [replace(place.make_site(part.query, "qkv", branch), output_axis=three), *early[0], *early[1]]
    else:
        made = [replace(place.make_site(part.query, "query", branch), output_axis=wide), *early[0]]
        if part.key == part.value:
            made += [replace(place.make_site(part.key, "kv", branch), output_axis=both), *early[1]]
        else:
            made += [replace(place.make_site(part.key, "key", branch), output_axis=narrow), *early[1]]
            made += [replace(place.make_site(part.value, "value", branch), output_axis=narrow)]
    made += late
    for path, role in zip(part.positions, ("position key", "position query"), strict=False):
        made += [replace(place.make_site(path, role, branch), output_axis=wide)] if place.has(path) else []
    if place.has(part.table):
        made += [replace(place.make_site(part.table, "embedding", join_path(branch, "position")), output_axis=table)]
    return [*made, replace(place.make_site(part.output, "output", branch), input_axis=wide)]


@dataclass(frozen=True)
class _Heads:
    """Key-value heads, query heads for each of them, and the width of one head."""

    keys: int
    group: int
    width: int


def _count_heads(place: PartPlace, part: AttentionPart) -> _Heads:
    """As the weights are now."""
    width = int(_get_attribute(place.module, place.join(part.width)))
    rows = {path: place.make_site(path, "", "").rows // width for path in (part.query, part.key)}
    if part.query == part.value:
        queries = place.make_site(part.output, "", "").columns // width
        keys = (rows[part.query] - queries) // 2
    else:
        queries, keys = rows[part.query], rows[part.key] // (2 if part.key == part.value else 1)
    return _Heads(keys, queries // max(keys, 1), width)


def _make_free_parameter(place: PartPlace, name: str, label: str, width: int = 1, repeats: int = 1) -> FreeParameter:
    value = place.module.get_parameter(place.join(name))
    units = value.shape[-1] // (width * repeats)
    return FreeParameter(label, place.join(name), value.numel() // units * value.element_size(), width, repeats)


def _list_parameters(place: PartPlace) -> set[str]:
    """The names of the parameters below the place's root."""
    return {name for name, _ in place.module.get_submodule(place.root).named_parameters()}


def _split_attribute(path: str) -> tuple[str, str]:
    """The module and its attribute, which may be one of its own configuration, `config.num_attention_heads`."""
    owner, dot, name = path.partition(_OWN_CONFIG)
    return (owner, f"config.{name}") if dot else path.rpartition(".")[::2]


def _get_attribute(module: nn.Module, path: str) -> Any:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)
