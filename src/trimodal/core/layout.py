"""Where, as a whole: the layout of a model, and what it is after units, blocks or weights of it are gone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from trimodal.core.site import Axis, Fold, Site, Tower

TOKENS_MERGED = "its tokens are merged already"
TOKENS_THINNED = "a decoder reads fewer of its tokens already"
NO_THINNED_EXPORT = (
    "its decoder reads only some of the tokens that its text has places for, which no export format can say: whoever runs the files puts "
    "every token in its place"
)
_OLD_NAMES = {"counters": "size_attributes", "fixed": "uncuttable", "bare": "free_parameters"}  # in manifests of formats 1 and 2


@dataclass(frozen=True)
class SizeAttribute:
    """An attribute of a module that counts units of an axis, such as `num_heads`: units × `per_unit`. With a `per_unit` of 0 the number
    stays what it was: it is calculated with, and is a size by name only."""

    label: str
    path: str
    attribute: str
    per_unit: int = 1


@dataclass(frozen=True)
class FreeParameter:
    """A parameter in no site, such as a class token, whose last dimension carries a label. `path` is its own name;
    every unit takes `unit_bytes`. The dimension is `repeats` runs of units of `width` entries each."""

    label: str
    path: str
    unit_bytes: int
    width: int = 1
    repeats: int = 1


@dataclass(frozen=True)
class Uncuttable:
    """Units that cannot be cut: what their label would be, and why not."""

    label: str
    reason: str


@dataclass(frozen=True)
class Layout:
    """Towers and sites of one model. Sites stand in running order. `uncuttable` tells of units that were looked at and cannot
    be cut, `free_parameters` of parameters in no site that are cut with a label. `folds` are known only after
    `graph/fusion_discovery.py` has looked (`folds_searched`: it could run the model), and are no part of what the layout is."""

    towers: tuple[Tower, ...]
    sites: tuple[Site, ...]
    size_attributes: tuple[SizeAttribute, ...] = field(default=())
    uncuttable: tuple[Uncuttable, ...] = field(default=())
    folds: tuple[Fold, ...] = field(default=(), compare=False)
    folds_searched: bool = field(default=False, compare=False)
    free_parameters: tuple[FreeParameter, ...] = field(default=())

    def get_site(self, path: str) -> Site:
        """The site whose module stands at `path`."""
        return next(site for site in self.sites if site.path == path)

    def get_tower(self, name: str) -> Tower:
        """The tower called `name`."""
        return next(tower for tower in self.towers if tower.name == name)

    def list_labels(self) -> tuple[str, ...]:
        """All axis labels, in running order, each once."""
        axes = (a for site in self.sites for a in (site.output_axis, site.input_axis) if a is not None)
        return tuple(dict.fromkeys(label for axis in axes for label in axis.labels))

    def find_label_sites(self, label: str) -> Iterator[Site]:
        """The sites that have `label` on a dimension."""
        for site in self.sites:
            if site.reads_label(label) or site.writes_label(label):
                yield site

    def count_units(self, label: str) -> int:
        """How many units `label` has, 0 if no dimension carries it."""
        axes = (axis for site in self.sites for axis in (site.output_axis, site.input_axis) if axis is not None)
        return next((axis.units_of(label) for axis in axes if label in axis.labels), 0)

    def replace_sites(self, old: Iterable[Site], new: Iterable[Site]) -> Layout:
        """The layout with the sites `old` replaced by `new`: by path where it stays, else in place of the
        site whose path is a prefix of the new one."""
        by_path = {site.path: site for site in new}
        gone = {site.path for site in old}

        def successors(site: Site) -> Iterator[Site]:
            if site.path not in gone:
                yield site
            elif site.path in by_path:
                yield by_path[site.path]
            else:
                yield from (s for s in by_path.values() if s.path.startswith(site.path + "."))

        return replace(self, sites=tuple(s for site in self.sites for s in successors(site)))

    def mark_uncuttable(self, label: str, reason: str) -> Layout:
        """The layout in which `label` cannot be cut, for `reason`; no dimension is a mixture of it and others."""

        def without(axis: Axis | None) -> Axis | None:
            return None if axis is not None and axis.label == label else axis

        def freed(site: Site) -> Site:
            if not (site.reads_label(label) or site.writes_label(label)):
                return site
            return replace(site, input_axis=without(site.input_axis), output_axis=without(site.output_axis))

        return replace(
            self,
            sites=tuple(map(freed, self.sites)),
            free_parameters=tuple(bare for bare in self.free_parameters if bare.label != label),
            size_attributes=tuple(counter for counter in self.size_attributes if counter.label != label),
            uncuttable=(*self.uncuttable, Uncuttable(label, reason)),
        )

    def mark_tokens_merged(self, tower: str) -> Layout:
        """The layout after the tokens of `tower` are merged, which can be done once."""

        def marked(whole: Tower) -> Tower:
            blocks = "its tokens are merged block by block; remove blocks before that"
            return replace(whole, whole_tokens=TOKENS_MERGED, whole_blocks=blocks)

        return replace(self, towers=tuple(marked(t) if t.name == tower else t for t in self.towers))

    def find_reader(self, tower: str) -> Tower | None:
        """The tower of the decoder that reads the tokens of `tower`; None where there is none."""
        stem = f"{self.get_tower(tower).reader}."
        return next((other for other in self.towers if other.blocks and other.blocks[0].startswith(stem)), None)

    def mark_tokens_thinned(self, tower: str, by: str) -> Layout:
        """The layout after a decoder reads fewer tokens of `tower`, which can be said once. Where attention chooses them, the blocks stay:
        those of the tower, or `by` the question those of the decoder."""
        reader = self.find_reader(tower)
        chooser = tower if by == "attention" else reader.name if by == "question" and reader is not None else ""
        blocks = "its attention chooses the tokens that are read; remove blocks before that"

        def marked(whole: Tower) -> Tower:
            whole = replace(whole, whole_reading=TOKENS_THINNED) if whole.name == tower else whole
            return replace(whole, whole_blocks=blocks) if whole.name == chooser else whole

        return replace(self, towers=tuple(map(marked, self.towers)))

    def mark_weight_shared(self, paths: Sequence[str]) -> Layout:
        """The layout after the layers at `paths` use the weight of the first of them."""
        owner, *others = paths

        def sharing(site: Site) -> Site:
            if site.path == owner:
                return replace(site, tied=(*site.tied, *others))
            return replace(site, stored="shared", stored_bytes=site.bias_bytes) if site.path in others else site

        return replace(self, sites=tuple(map(sharing, self.sites)))

    def drop_blocks(self, tower: str, kept: Sequence[int]) -> Layout:
        """The layout after all blocks of `tower` but those with the numbers `kept`, ascending, are gone. What stays is
        numbered anew from 0: blocks, paths, labels."""
        whole, stays = self.get_tower(tower), {old: new for new, old in enumerate(kept)}
        left = replace(
            whole, blocks=whole.blocks[: len(stays)], numbers=tuple(whole.origins[number] for number in stays)
        )

        def goes(label: str) -> bool:
            name, _, rest = label.partition(".")
            number = rest.partition(".")[0]
            return name == tower and number.isdigit() and int(number) not in stays

        lost = tuple(f"{block}." for number, block in enumerate(whole.blocks) if number not in stays)
        return replace(
            self,
            towers=tuple(left if t.name == tower else t for t in self.towers),
            sites=tuple(
                _renumber_site(site, whole, stays)
                for site in self.sites
                if site.tower != tower or site.block is None or site.block in stays
            ),
            size_attributes=tuple(
                replace(c, label=_renumber_label(c.label, tower, stays), path=_renumber_path(c.path, whole.blocks, stays))
                for c in self.size_attributes
                if not goes(c.label) and not f"{c.path}.".startswith(lost)
            ),
            free_parameters=tuple(
                replace(bare, label=_renumber_label(bare.label, tower, stays), path=_renumber_path(bare.path, whole.blocks, stays))
                for bare in self.free_parameters
                if not bare.path.startswith(lost)
            ),
            uncuttable=tuple(replace(f, label=_renumber_label(f.label, tower, stays)) for f in self.uncuttable if not goes(f.label)),
            folds=tuple(_mark_fold_uncertain(fold, whole) for fold in self.folds),
        )

    def find_original_path(self, original: Layout, path: str) -> str:
        """Where what stands at `path` stood in `original`, the layout of this model before it lost blocks."""
        for tower in self.towers:
            for origin, block in zip(tower.origins, tower.blocks, strict=True):
                if f"{path}.".startswith(f"{block}."):
                    known = original.get_tower(tower.name)
                    return known.blocks[known.origins.index(origin)] + path[len(block) :]
        return path

    def cut_units(self, label: str, kept: Sequence[int]) -> Layout:
        """The layout after the units of `label` that are not `kept` are gone."""
        sites = list(self.find_label_sites(label))
        return self.replace_sites(sites, [site.cut_units(label, kept) for site in sites])

    def to_json(self) -> dict[str, Any]:
        """Plain data for a JSON file; fields at their default are left out."""
        return {
            "towers": [asdict(tower) for tower in self.towers],
            "sites": [_omit_defaults(site) for site in self.sites],
            "size_attributes": [_omit_defaults(attribute) for attribute in self.size_attributes],
            **({"uncuttable": [asdict(units) for units in self.uncuttable]} if self.uncuttable else {}),
            **({"free_parameters": [_omit_defaults(bare) for bare in self.free_parameters]} if self.free_parameters else {}),
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Layout:
        """The inverse of `to_json`; the names of manifests before format 3 are read too."""
        data = {_OLD_NAMES.get(name, name): value for name, value in data.items()}
        return Layout(
            towers=tuple(
                Tower(**{**t, **{name: tuple(t.get(name, ())) for name in ("blocks", "prefixes", "numbers")}})
                for t in data["towers"]
            ),
            sites=tuple(_site_from_json(s) for s in data["sites"]),
            size_attributes=tuple(SizeAttribute(**c) for c in data["size_attributes"]),
            uncuttable=tuple(Uncuttable(**f) for f in data.get("uncuttable", ())),
            free_parameters=tuple(FreeParameter(**b) for b in data.get("free_parameters", ())),
        )


def _renumber_site(site: Site, tower: Tower, stays: Mapping[int, int]) -> Site:
    """`site` after the blocks of `tower` got the numbers `stays[old]`; others are gone."""
    if site.tower != tower.name or site.block is None:
        return site
    return replace(
        site,
        path=_renumber_path(site.path, tower.blocks, stays),
        block=stays[site.block],
        input_axis=_renumber_axis(site.input_axis, tower.name, stays),
        output_axis=_renumber_axis(site.output_axis, tower.name, stays),
    )


def _renumber_axis(axis: Axis | None, tower: str, stays: Mapping[int, int]) -> Axis | None:
    if axis is None:
        return None
    parts = (_renumber_axis(part, tower, stays) for part in axis.then)
    then = tuple(part for part in parts if part is not None)
    return replace(axis, label=_renumber_label(axis.label, tower, stays), then=then)


def _renumber_label(label: str, tower: str, stays: Mapping[int, int]) -> str:
    """`text.3.heads` with the number that block 3 has now."""
    name, _, rest = label.partition(".")
    number, dot, unit = rest.partition(".")
    return f"{name}.{stays[int(number)]}{dot}{unit}" if name == tower and number.isdigit() else label


def _mark_fold_uncertain(fold: Fold, tower: Tower) -> Fold:
    """`fold` after blocks of `tower` went: one in a block was tried in that block, and another may stand there by then."""
    inside = tuple(f"{block}." for block in tower.blocks)
    if not any(path.startswith(inside) for path in (fold.path, *fold.into)):
        return fold
    reason = f"an earlier step removes blocks of {tower.name}, and only then is it known which; fold before that"
    return replace(fold, reason=reason)


def _renumber_path(path: str, blocks: Sequence[str], stays: Mapping[int, int]) -> str:
    """`path` with the path that its block has now."""
    for old, new in stays.items():
        if f"{path}.".startswith(f"{blocks[old]}."):
            return blocks[new] + path[len(blocks[old]) :]
    return path


def _omit_defaults(item: Site | SizeAttribute | Axis | FreeParameter) -> dict[str, Any]:
    values = ((f.name, getattr(item, f.name), f.default) for f in fields(item) if f.compare)
    return {name: _to_plain_value(value) for name, value, default in values if value != default}


def _to_plain_value(value: Any) -> Any:
    if isinstance(value, Axis):
        return _omit_defaults(value)
    return [_to_plain_value(part) for part in value] if isinstance(value, tuple) else value


def _site_from_json(data: dict[str, Any]) -> Site:
    fields_of = {"block": None, **data, "shape": tuple(data["shape"]), "tied": tuple(data.get("tied", ()))}
    for key in ("input_axis", "output_axis"):
        if key in data:
            fields_of[key] = _axis_from_json(data[key])
    return Site(**fields_of)


def _axis_from_json(data: dict[str, Any]) -> Axis:
    return Axis(**{**data, "then": tuple(_axis_from_json(part) for part in data.get("then", ()))})
