"""What a plan leaves as it is: with which bytes, in which tower, and why."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from trimodal.core import Edit, Layout, Plan, Site, StoredTensor, UntouchedTensors, Why, group_untouched
from trimodal.inventory.places import match_tensors_to_sites
from trimodal.methods import Method, get_method
from trimodal.models.model import Model


def find_untouched(model: Model, edits: Sequence[Edit]) -> UntouchedTensors:
    """The tensors of `model` that none of the `edits` works on; biases of layers whose weight alone is worked on too.

    A step that takes out whole blocks, or shares them, works on all of its tower; one that works on the model without
    places, such as training, counts for nothing, since it leaves every tensor in its form.
    """
    found = list(match_tensors_to_sites(model.module, model.layout))
    reach = _EditReach()
    for edit in edits:
        reach.add_edit_(edit, get_method(edit.method), model.layout)
    left = ((stored, why) for stored, site in found if (why := reach.explain_left(stored, site)) is not None)
    return group_untouched(left, sum(stored.bytes for stored, _ in found))


def add_declined_places(plan: Plan, alone: Collection[tuple[int, str]]) -> UntouchedTensors | None:
    """What `plan` leaves, and what its run left alone beside: `alone` has the number of an edit and the name of its place.
    Places that another edit worked on are not among it."""
    if plan.untouched is None or not alone:
        return plan.untouched
    places = [((number, place.name), place) for number, edit in enumerate(plan.edits) for place in edit.places]
    worked = {path for key, place in places if key not in alone for path in place.paths}
    left = [place for key, place in places if key in alone and not worked.intersection(place.paths)]
    stored = [
        StoredTensor(path, place.name.partition(".")[0], place.bytes_before // len(place.paths)) for place in left for path in place.paths
    ]
    more = group_untouched(((one, "declined") for one in stored), plan.untouched.of_bytes)
    return UntouchedTensors(more.of_bytes, tuple(sorted((*plan.untouched.alike, *more.alike), key=lambda one: -one.bytes)))


@dataclass
class _PathSet:
    """Dotted paths, and all that they lie in."""

    paths: set[str] = field(default_factory=set)
    above: set[str] = field(default_factory=set)

    def add_paths_(self, paths: Iterable[str]) -> None:
        """Take in `paths`."""
        for path in paths:
            self.paths.add(path)
            self.above.update(_list_prefixes(path))

    def contains_path(self, path: str) -> bool:
        """Whether `path` is one of them or lies in one."""
        return any(prefix in self.paths for prefix in _list_prefixes(path))

    def touches_path(self, path: str) -> bool:
        """Whether one of them is `path`, lies in it (a factor that an earlier step made of it), or holds it."""
        return path in self.above or self.contains_path(path)


@dataclass
class _EditReach:
    """The paths that are worked on wholly, or in their weight alone; what was declined by name."""

    whole: _PathSet = field(default_factory=_PathSet)
    weights: _PathSet = field(default_factory=_PathSet)
    declined: set[str] = field(default_factory=set)

    def add_edit_(self, edit: Edit, used: Method, layout: Layout) -> None:
        """Take in one edit."""
        for place in edit.places:
            if used.on == "site":
                self.weights.add_paths_(place.paths)
            elif used.on != "tower" or place.bytes_after != place.bytes_before:
                self.whole.add_paths_(place.paths)
                self.whole.add_paths_(bare.path for bare in layout.free_parameters if bare.label == place.name)
                self.whole.add_paths_((place.fold.path,) if place.fold else ())
        self.declined.update(alone.name for alone in edit.left_alone)

    def explain_left(self, stored: StoredTensor, site: Site | None) -> Why | None:
        """Why a tensor stays as it is; None where it does not."""
        if site is None:
            return None if self.whole.contains_path(stored.name) else "in no place"
        if self.whole.touches_path(site.path):
            return None
        if self.weights.touches_path(site.path):
            return "declined" if stored.name.rpartition(".")[2] != "weight" and site.stored == "dense" else None
        return "declined" if site.name in self.declined else "not asked for"


def _list_prefixes(path: str) -> list[str]:
    """The path itself and all that it lies in: `a.b.c`, `a.b`, `a`."""
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
