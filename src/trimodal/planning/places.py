"""Where: the places that there are for a method, and which of them a pattern means.

What one place is, a method says (`on`). Each kind of place is one row of `_KINDS`: how to list all there are in a layout, how
to find one again that a plan names, and what to say where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from trimodal.core import DeclinedPlace, Fold, Layout, Place, PlannedPlace, Uncuttable
from trimodal.core.site import ROUTER, is_width
from trimodal.edits.fold import sites_of_fold
from trimodal.errors import suggest_names
from trimodal.methods import Method
from trimodal.planning.recipe import RecipeStep


class NoPlaceError(Exception):
    """A step finds no place to work at, for `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class _PlaceKind:
    """One kind of place."""

    list_all: Callable[[Layout, Method], Iterator[Place]]
    find: Callable[[Layout, PlannedPlace], Place]
    explain_none: Callable[[Layout, RecipeStep], str]


def place_of(layout: Layout, method: Method, planned: PlannedPlace) -> Place:
    """The place that a plan names, as it stands in `layout` now."""
    return _KINDS[method.on].find(layout, planned)


def list_places(layout: Layout, method: Method) -> Iterator[Place]:
    """All places of `layout` where `method` could work, whether or not it would refuse."""
    return _KINDS[method.on].list_all(layout, method)


def match_places(layout: Layout, step: RecipeStep) -> tuple[list[Place], list[DeclinedPlace]]:
    """The places that the step's patterns match, in running order, and the patterns of an optional step that match none.

    Raises:
        NoPlaceError: a pattern of a step that is not optional matches nothing.
    """
    candidates = list(list_places(layout, step.method))
    matched = [p for p in candidates if any(matches_pattern(p, pattern) for pattern in step.where)]
    left: list[DeclinedPlace] = []
    for pattern in step.where:
        if not any(matches_pattern(place, pattern) for place in candidates):
            if not (step.optional and matched):
                raise NoPlaceError(f"the pattern '{pattern}' matches nothing; {_explain_no_match(layout, step, pattern)}")
            left.append(DeclinedPlace(pattern, "the pattern matches nothing in this model"))
    return matched, left


def matches_pattern(place: Place, pattern: str) -> bool:
    """A pattern matches the place's name, one of its sites' names, or with `path:` a site's dotted path. What runs through
    a whole tower has only its own name and the tower's."""
    if place.label is not None and is_width(place.label):
        return any(fnmatchcase(name, pattern) for name in (place.name, *_tower_of_label(place.label)))
    if pattern.startswith("path:"):
        return any(fnmatchcase(site.path, pattern.removeprefix("path:")) for site in place.sites)
    return any(fnmatchcase(name, pattern) for name in (place.name, *(site.name for site in place.sites)))


def explain_router(place: Place, step: RecipeStep) -> str | None:
    """Why a layer that chooses between experts stays as it is; None for any other, and where a pattern names it."""
    if step.method.on != "site" or not any(site.role == ROUTER for site in place.sites):
        return None
    named = any(ROUTER in pattern and matches_pattern(place, pattern) for pattern in step.where)
    return None if named else "a router: small errors send tokens to other experts; a pattern that says 'router' takes it along"


def _tower_of_label(label: str) -> tuple[str, ...]:
    """The tower that all of a stream's dimensions belong to; none for units of a block."""
    return (label.partition(".")[0],) if is_width(label) else ()


def wants_uncuttable(fixed: Uncuttable, step: RecipeStep) -> bool:
    """Whether the step asks for units that cannot be cut."""
    wanted = step.method.on == "axis" and fixed.label.rpartition(".")[2] == step.method.unit
    names = (fixed.label, *_tower_of_label(fixed.label))
    return wanted and any(fnmatchcase(name, pattern) for pattern in step.where for name in names)


def explain_held_weight(place: Place) -> str | None:
    """Why a weight must stay as it is: somebody reads it who is no layer. What works on a whole tower looks for itself."""
    held = None if place.whole_tower is not None else next((site for site in place.sites if site.elsewhere), None)
    return None if held is None else f"the weight of {held.path} is also {held.elsewhere}, which is read by no layer"


def quote_patterns(step: RecipeStep) -> str:
    """The step's patterns in words."""
    return " or ".join(f"'{pattern}'" for pattern in step.where)


def _explain_no_match(layout: Layout, step: RecipeStep, pattern: str) -> str:
    """What the pattern could have meant."""
    candidates = list(list_places(layout, step.method))
    if not candidates:
        return _KINDS[step.method.on].explain_none(layout, step)
    parts = {word for place in candidates for site in place.sites for word in (site.tower, site.role)}
    words = [word for word in pattern.replace("*", ".").split(".") if word and not word.isdigit()]
    unknown = [word for word in words if word not in parts]
    towers = ", ".join(sorted({place.tower for place in candidates}))
    if unknown:
        return f"for '{unknown[0]}' {suggest_names(unknown[0], parts)} Places are called tower.block.role, such as '{candidates[0].name}'"
    return f"towers here: {towers}; places are called tower.block.role, such as '{candidates[0].name}'"


def _list_sites(layout: Layout, method: Method) -> Iterator[Place]:
    return (Place(site.name, (site,)) for site in layout.sites)


def _list_labels(layout: Layout, method: Method) -> Iterator[Place]:
    """The axis labels of the method's unit."""
    labels = (label for label in layout.list_labels() if label.rpartition(".")[2] == method.unit)
    return (Place.for_label(layout, label) for label in labels)


def _list_towers(layout: Layout, method: Method) -> Iterator[Place]:
    return (_find_tower(layout, tower.name) for tower in layout.towers)


def _list_folds(layout: Layout, method: Method) -> Iterator[Place]:
    """The folds whose layers are all there."""
    for fold in layout.folds:
        sites = sites_of_fold(fold, layout)
        if sites is not None:
            yield Place(_fold_name(fold, layout), sites, fold=fold)


def _fold_name(fold: Fold, layout: Layout) -> str:
    """The name of the site that goes, or the path of what is no site."""
    return next((site.name for site in layout.sites if site.path == fold.path), fold.path)


def _find_tower(layout: Layout, name: str) -> Place:
    sites, tower = tuple(site for site in layout.sites if site.tower == name), layout.get_tower(name)
    inside = tuple(f"{block}." for block in tower.blocks)
    beside = sum(bare.unit_bytes * layout.count_units(bare.label) for bare in layout.free_parameters if bare.path.startswith(inside))
    return Place(name, sites, whole_tower=tower, block_bytes=beside // max(len(tower.blocks), 1))


def _find_sites(layout: Layout, planned: PlannedPlace) -> Place:
    return Place(planned.name, tuple(layout.get_site(path) for path in planned.paths), fold=planned.fold)


def _explain_no_layers(layout: Layout, step: RecipeStep) -> str:
    return (
        "this model has no linear layer, convolution, embedding or norm with a weight in floating point, and other "
        "parameters stay as they are"
    )


def _explain_no_folds(layout: Layout, step: RecipeStep) -> str:
    lacking = "" if layout.folds_searched else "; the model was not run: without data a module needs a method example()"
    return f"nothing was seen that could be folded{lacking}"


def _explain_no_units(layout: Layout, step: RecipeStep) -> str:
    reasons = [f"{fixed.label}: {fixed.reason}" for fixed in layout.uncuttable if wants_uncuttable(fixed, step)]
    reasons += [fixed.reason for fixed in layout.uncuttable if not fixed.label]
    why = f": {'; '.join(reasons[:3])}{' …' if len(reasons) > 3 else ''}" if reasons else ""
    return f"this model has no {step.method.unit} that can be cut{why}"


_KINDS: Mapping[str, _PlaceKind] = {
    "site": _PlaceKind(_list_sites, _find_sites, _explain_no_layers),
    "axis": _PlaceKind(_list_labels, lambda layout, planned: Place.for_label(layout, planned.name), _explain_no_units),
    "tower": _PlaceKind(_list_towers, lambda layout, planned: _find_tower(layout, planned.name), _explain_no_units),
    "fold": _PlaceKind(_list_folds, _find_sites, _explain_no_folds),
}
